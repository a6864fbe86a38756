"""Decoder-only models of the Llama shape from the fields of a Hugging Face `config.json`."""

import math
from typing import Any

import msgspec

from ridgepoint.errors import BadInput, NotSupported
from ridgepoint.workload.decoder import AttentionSpec, Block, Decoder, MlpSpec

__all__ = ["MODEL_TYPES", "build"]

MODEL_TYPES = ("llama", "smollm")
_DTYPES = {"float32": "fp32", "bfloat16": "bf16", "float16": "fp16"}


class LlamaConfig(msgspec.Struct, kw_only=True):
    """The fields that decide speed and memory; bounds refuse what no machine could hold."""

    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    vocab_size: int
    num_key_value_heads: int | None = None
    head_dim: int | None = None
    hidden_act: str = "silu"
    tie_word_embeddings: bool = False
    attention_bias: bool = False
    mlp_bias: bool = False
    max_position_embeddings: int = 2048
    torch_dtype: str | None = None
    dtype: str | None = None
    rope_theta: float = 10000.0
    rms_norm_eps: float = 1e-5
    quantization_config: dict[str, Any] | None = None


_LIMITS = {
    "hidden_size": 2**17, "intermediate_size": 2**20, "num_hidden_layers": 2**12, "num_attention_heads": 2**12,
    "num_key_value_heads": 2**12, "head_dim": 2**12, "vocab_size": 2**24, "max_position_embeddings": 2**27,
}  # fmt: skip


def build(name: str, config: dict[str, Any]) -> Decoder:
    """The decoder that `config` describes; refuses what is malformed, impossible or not modelled."""
    try:
        c = msgspec.convert(config, LlamaConfig)
    except msgspec.ValidationError as error:
        raise BadInput(f"{name}: config.json: {error}") from None
    _check(name, c)
    return Decoder(
        name=name,
        hidden_size=c.hidden_size,
        vocab_size=c.vocab_size,
        blocks=(Block(_attention(c), MlpSpec(c.intermediate_size, c.mlp_bias), c.num_hidden_layers),),
        tie_word_embeddings=c.tie_word_embeddings,
        max_position_embeddings=c.max_position_embeddings,
        dtype=_DTYPES[c.dtype or c.torch_dtype or "bfloat16"],
        rope_theta=c.rope_theta,
        rms_norm_eps=c.rms_norm_eps,
    )


def _attention(c: LlamaConfig) -> AttentionSpec:
    heads = c.num_attention_heads
    return AttentionSpec(heads, c.num_key_value_heads or heads, c.head_dim or c.hidden_size // heads, c.attention_bias)


def _check(name: str, c: LlamaConfig) -> None:
    for field, limit in _LIMITS.items():
        value = getattr(c, field)
        if value is not None and not 1 <= value <= limit:
            raise BadInput(f"{name}: config.json: {field} is {value}; possible is 1 to {limit}")
    for field, number in (("rope_theta", c.rope_theta), ("rms_norm_eps", c.rms_norm_eps)):
        if not 0 < number < math.inf:
            raise BadInput(f"{name}: config.json: {field} is {number}; possible is a positive, finite number")
    heads, kv_heads = c.num_attention_heads, c.num_key_value_heads or c.num_attention_heads
    if heads % kv_heads:
        raise BadInput(f"{name}: config.json: {heads} attention heads cannot share {kv_heads} key/value heads evenly")
    if c.head_dim is None and c.hidden_size % heads:
        raise BadInput(
            f"{name}: config.json: hidden_size {c.hidden_size} does not split into {heads} heads; give head_dim"
        )
    if (c.head_dim or c.hidden_size // heads) % 2:
        raise BadInput(
            f"{name}: config.json: rotary embedding needs an even head_dim, got {c.head_dim or c.hidden_size // heads}"
        )
    if c.hidden_act not in ("silu", "swish"):
        raise NotSupported(f"{name}: hidden_act {c.hidden_act!r} is not modelled in the Llama family; silu is")
    if (c.dtype or c.torch_dtype or "bfloat16") not in _DTYPES:
        raise NotSupported(f"{name}: dtype {c.dtype or c.torch_dtype!r} is not modelled; {', '.join(_DTYPES)} are")
    if c.quantization_config:
        method = str(c.quantization_config.get("quant_method", "unnamed"))
        raise NotSupported(
            f"{name}: its checkpoint is already quantised ({method[:40]}); give the model that it was made from"
        )
