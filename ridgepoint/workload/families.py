"""Model families by `model_type`: one builder each."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from ridgepoint.errors import BadInput, NotSupported, UnknownName
from ridgepoint.workload import bert_vit, deepseek, gemma, gpt2, llama, mixture, phi3
from ridgepoint.workload.decoder import Decoder
from ridgepoint.workload.encoder import Encoder
from ridgepoint.workload.stored import stored_format

__all__ = ["FAMILIES", "from_config"]

Builder = Callable[[str, dict[str, Any]], Decoder | Encoder]

FAMILIES: dict[str, Builder] = {
    **dict.fromkeys(llama.MODEL_TYPES, llama.build),
    **dict.fromkeys(gemma.MODEL_TYPES, gemma.build),
    **dict.fromkeys(gemma.WITH_IMAGES, gemma.build_with_images),
    **dict.fromkeys(phi3.MODEL_TYPES, phi3.build),
    **dict.fromkeys(gpt2.GPT2_TYPES, gpt2.build_gpt2),
    **dict.fromkeys(gpt2.OPT_TYPES, gpt2.build_opt),
    **dict.fromkeys(mixture.MODEL_TYPES, mixture.build),
    **dict.fromkeys(deepseek.MODEL_TYPES, deepseek.build),
    **dict.fromkeys(bert_vit.BERT_TYPES, bert_vit.build_bert),
    **dict.fromkeys(bert_vit.VIT_TYPES, bert_vit.build_vit),
}


def from_config(name: str, config: Any) -> Decoder | Encoder:
    """The model that a parsed `config.json` describes, by its `model_type` (Llama where absent)."""
    if not isinstance(config, dict):
        raise BadInput(f"{name}: config.json must hold an object, not {type(config).__name__}")
    model_type = config.get("model_type", "llama")
    if not isinstance(model_type, str) or model_type not in FAMILIES:
        raise UnknownName("model family", str(model_type), FAMILIES, f"asked for by model_type in {name}")
    model = FAMILIES[model_type](name, config)
    stored = stored_format(name, config.get("quantization_config"))
    if stored is None:
        return model
    if isinstance(model, Encoder):
        raise NotSupported(f"{name}: a quantised encoder is not modelled; give the model that it was made from")
    cache = config["quantization_config"].get("kv_cache_scheme")
    said = ("kv_cache_scheme of quantization_config: name kv:fp8 or kv:int8 for a quantised cache",) if cache else ()
    return replace(model, stored=stored, not_modelled=(*model.not_modelled, *said))
