"""Gemma 1, 2 and 3 (text) from the fields of a `config.json`: scaled embeddings, GELU gates, sandwich norms, windows."""

from dataclasses import replace
from typing import Any

from ridgepoint.errors import BadInput, NotSupported
from ridgepoint.workload.config import read
from ridgepoint.workload.decoder import Block, Decoder, MlpSpec
from ridgepoint.workload.llama import LlamaConfig, attention_of, check_heads, decoder_of

__all__ = ["MODEL_TYPES", "WITH_IMAGES", "build", "build_with_images"]

MODEL_TYPES = ("gemma", "gemma2", "gemma3_text")
WITH_IMAGES = ("gemma3",)
_UNSAID = {"vocab_size": 262208, "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 256}
"""Defaults of transformers' Gemma3TextConfig (version 5) for fields that published configs with images leave out."""
_ACTIVATIONS = ("gelu", "gelu_pytorch_tanh", "gelu_new", "gelu_fast")


class GemmaConfig(LlamaConfig, kw_only=True):
    """Gemma's own fields; its checkpoints tie the head unless they say otherwise."""

    tie_word_embeddings: bool = True
    hidden_activation: str | None = None
    final_logit_softcapping: float | None = None
    attn_logit_softcapping: float | None = None
    sliding_window_pattern: int | None = None


def build(name: str, config: dict[str, Any]) -> Decoder:
    """Gemma 2 windows every other layer and caps scores and logits, Gemma 3 five of six and norms q and k."""
    c = read(name, config, GemmaConfig)
    check_heads(name, c)
    kind = config["model_type"]
    act = c.hidden_activation or (c.hidden_act if "hidden_act" in config else "gelu_pytorch_tanh")
    if act not in _ACTIVATIONS:
        raise NotSupported(f"{name}: hidden activation {act!r} is not modelled in the Gemma family; gelu is")
    attention = attention_of(c, qkv_bias=c.attention_bias, qk_norm=kind == "gemma3_text")
    attention = replace(attention, softcap=bool(c.attn_logit_softcapping))
    mlp = MlpSpec(c.intermediate_size, act="gelu")
    full = Block(attention, mlp, 1, sandwich=kind != "gemma")
    narrow = replace(full, attention=replace(attention, window=c.sliding_window or 0))
    windowed = _windowed(c, kind)
    pair = (replace(narrow, count=windowed), replace(full, count=c.num_hidden_layers - windowed))
    blocks = tuple(block for block in pair if block.count)
    return replace(decoder_of(name, config, c, blocks), scaled=True, softcap=bool(c.final_logit_softcapping))


def build_with_images(name: str, config: dict[str, Any]) -> Decoder:
    """Gemma 3 from 4B on: the text model inside; what reads images is not modelled, and said."""
    text = config.get("text_config")
    if not isinstance(text, dict):
        raise BadInput(f"{name}: config.json of model_type gemma3 needs a text_config")
    dtype = {"torch_dtype": config["torch_dtype"]} if config.get("torch_dtype") else {}
    decoder = build(name, {**_UNSAID, **dtype, **text, "model_type": "gemma3_text"})
    return replace(decoder, not_modelled=(*decoder.not_modelled, "vision_config: the text model alone"))


def _windowed(c: GemmaConfig, kind: str) -> int:
    """How many layers see only the window."""
    if not c.sliding_window or kind == "gemma":
        return 0
    if c.layer_types is not None:
        return min(c.num_hidden_layers, sum(layer == "sliding_attention" for layer in c.layer_types))
    every = c.sliding_window_pattern or (2 if kind == "gemma2" else 6)
    return c.num_hidden_layers - c.num_hidden_layers // every
