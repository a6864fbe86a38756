"""One side predicted, then measured, and both stored together: what `ridge measure` and `ridge compare` show."""

from dataclasses import asdict

from ridgepoint.errors import BadInput, RidgeError, UnknownName
from ridgepoint.hardware import Target
from ridgepoint.result import Result
from ridgepoint.store import Provenance, Store, new_record
from ridgepoint.study.measure import measure_side, predict_side, set_side
from ridgepoint.workload import Step

__all__ = ["compare_side"]


def compare_side(
    model: str, side: str, step: Step, on: str, store: Store, provenance: Provenance, available_bytes: float,
    device: str = "cpu", threads: int = 1, seconds: float = 6.0,
) -> tuple[Result, Result, Target]:  # fmt: skip
    """(predicted, measured, target); a measurement that failed is a record too."""
    setting = set_side(model, side, step, on, device, threads)
    predicted = predict_side(setting)
    try:
        measured = measure_side(setting, available_bytes, seconds)
    except RidgeError as error:
        if not isinstance(error, BadInput | UnknownName):  # else nothing was tried
            failed = {"model": model, "side": side, "step": str(step), "reason": str(error)}
            store.append(new_record("failure", failed, provenance))
        raise
    content = {"predicted": asdict(predicted), "result": asdict(measured)}
    store.append(new_record("measurement", content, provenance, flags=measured.flags))
    return predicted, measured, setting.target
