"""What the config.json files of all families share: reading, bounds, dtype, and a list of what is not modelled."""

from collections.abc import Collection, Mapping
from typing import Any, TypeVar

import msgspec

from ridgepoint.errors import BadInput, NotSupported

__all__ = ["DTYPES", "LIMITS", "Common", "Stored", "check", "dtype_of", "not_modelled", "read"]

DTYPES = {"float32": "fp32", "bfloat16": "bf16", "float16": "fp16"}
LIMITS = {
    "hidden_size": 2**17, "intermediate_size": 2**20, "num_hidden_layers": 2**12, "num_attention_heads": 2**12,
    "num_key_value_heads": 2**12, "head_dim": 2**12, "vocab_size": 2**24, "max_position_embeddings": 2**27,
    "moe_intermediate_size": 2**20, "num_experts": 2**14, "num_local_experts": 2**14, "n_routed_experts": 2**14,
    "num_experts_per_tok": 2**14, "sliding_window": 2**27,
}  # fmt: skip
"""Bounds that refuse what no machine could hold; of a field that a family has, from 1 to this."""


class Stored(msgspec.Struct, kw_only=True):
    """How a checkpoint is stored: fields that every config has under these names."""

    torch_dtype: str | None = None
    dtype: str | None = None
    quantization_config: dict[str, Any] | None = None


class Common(Stored, kw_only=True):
    """Fields that most families of decoders have under these names."""

    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    vocab_size: int
    tie_word_embeddings: bool = False
    max_position_embeddings: int = 2048


Config = TypeVar("Config", bound=msgspec.Struct)


def read(name: str, config: Mapping[str, Any], kind: type[Config]) -> Config:
    """The config as `kind`, with every bounded field within its bounds; BadInput names the field."""
    try:
        c = msgspec.convert(config, kind)
    except msgspec.ValidationError as error:
        raise BadInput(f"{name}: config.json: {error}") from None
    check(name, c)
    return c


def check(name: str, c: msgspec.Struct) -> None:
    """Refuse sizes that cannot be."""
    for field, limit in LIMITS.items():
        value = getattr(c, field, None)
        if value is not None and not 1 <= value <= limit:
            raise BadInput(f"{name}: config.json: {field} is {value}; possible is 1 to {limit}")


def dtype_of(name: str, c: Any) -> str:
    """The checkpoint's dtype in our words; bf16 where the config is silent."""
    told = c.dtype or c.torch_dtype or "bfloat16"
    if told not in DTYPES:
        raise NotSupported(f"{name}: dtype {told!r} is not modelled; {', '.join(DTYPES)} are")
    return DTYPES[told]


def not_modelled(config: Mapping[str, Any], fields: Collection[str]) -> tuple[str, ...]:
    """Those of `fields` that the config sets to something: they may matter, and no formula here knows them."""
    return tuple(f"{field} = {_short(config[field])}" for field in sorted(fields) if config.get(field))


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 60 else text[:57] + "..."
