"""The question this package answers: how does an algorithmic choice interact with the hardware it will run on."""

from importlib import import_module
from typing import Any

__all__ = ["ask", "load_model", "load_target", "place_bet", "predict", "step_time", "why"]

_PUBLIC = {
    "ask": "ridgepoint.study.question",
    "load_model": "ridgepoint.workload",
    "load_target": "ridgepoint.hardware",
    "place_bet": "ridgepoint.study.betting",
    "predict": "ridgepoint.prediction",
    "step_time": "ridgepoint.prediction",
    "why": "ridgepoint.study.why",
}


def __getattr__(name: str) -> Any:
    """Public names are imported when first used, so that `import ridgepoint` costs nothing."""
    if name not in _PUBLIC:
        raise AttributeError(f"module 'ridgepoint' has no attribute {name!r}")
    value = getattr(import_module(_PUBLIC[name]), name)
    globals()[name] = value
    return value
