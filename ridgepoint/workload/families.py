"""Model families by `model_type`: one builder each."""

from collections.abc import Callable
from typing import Any

from ridgepoint.errors import BadInput, UnknownName
from ridgepoint.workload import llama
from ridgepoint.workload.decoder import Decoder

__all__ = ["FAMILIES", "from_config"]

Builder = Callable[[str, dict[str, Any]], Decoder]

FAMILIES: dict[str, Builder] = {
    **dict.fromkeys(llama.MODEL_TYPES, llama.build),
}


def from_config(name: str, config: Any) -> Decoder:
    """The model that a parsed `config.json` describes, by its `model_type` (Llama where absent)."""
    if not isinstance(config, dict):
        raise BadInput(f"{name}: config.json must hold an object, not {type(config).__name__}")
    model_type = config.get("model_type", "llama")
    if not isinstance(model_type, str) or model_type not in FAMILIES:
        raise UnknownName("model family", str(model_type), FAMILIES, f"asked for by model_type in {name}")
    return FAMILIES[model_type](name, config)
