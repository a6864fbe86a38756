"""Decoder-only models of the Llama shape (Llama, SmolLM, Mistral, Qwen2, Qwen3) from the fields of a `config.json`."""

import math
from dataclasses import replace
from typing import Any

from ridgepoint.errors import BadInput, NotSupported
from ridgepoint.workload.config import Common, dtype_of, not_modelled, read
from ridgepoint.workload.decoder import AttentionSpec, Block, Decoder, MlpSpec

__all__ = [
    "MODEL_TYPES",
    "LlamaConfig",
    "attention_of",
    "build",
    "check_heads",
    "check_silu",
    "decoder_of",
    "windowed_blocks",
]

MODEL_TYPES = ("llama", "smollm", "mistral", "qwen2", "qwen3")
_MAY_MATTER = ("rope_scaling", "partial_rotary_factor", "rope_parameters")


class LlamaConfig(Common, kw_only=True):
    """The fields that decide speed and memory."""

    intermediate_size: int
    num_key_value_heads: int | None = None
    head_dim: int | None = None
    hidden_act: str = "silu"
    attention_bias: bool = False
    mlp_bias: bool = False
    rope_theta: float = 10000.0
    rms_norm_eps: float = 1e-5
    sliding_window: int | None = None
    use_sliding_window: bool = True
    max_window_layers: int | None = None
    layer_types: list[str] | None = None


def build(name: str, config: dict[str, Any]) -> Decoder:
    """The decoder that `config` describes; refuses what is malformed, impossible or not modelled.

    Qwen2 has biases on q, k and v alone, Qwen3 norms on q and k; both keep their window switched off unless
    `use_sliding_window` says otherwise.
    """
    config = with_plain_rope(config)
    c = read(name, config, LlamaConfig)
    check_heads(name, c)
    kind = config.get("model_type", "llama")
    check_silu(name, c, "the Llama family")
    attention = attention_of(c, qkv_bias=kind == "qwen2" or c.attention_bias, qk_norm=kind == "qwen3")
    blocks = windowed_blocks(c, attention, MlpSpec(c.intermediate_size, c.mlp_bias), _windowed_layers(config, c))
    return decoder_of(name, config, c, blocks)


def with_plain_rope(config: dict[str, Any]) -> dict[str, Any]:
    """`rope_parameters`, as transformers 5 writes it, as the `rope_theta` that it is where it says nothing else."""
    rope = config.get("rope_parameters")
    if (
        not isinstance(rope, dict)
        or rope.get("rope_type", "default") != "default"
        or set(rope) - {"rope_type", "rope_theta"}
    ):
        return config
    rest = {key: value for key, value in config.items() if key != "rope_parameters"}
    return {**rest, "rope_theta": rope["rope_theta"]} if "rope_theta" in rope else rest


def decoder_of(name: str, config: dict[str, Any], c: LlamaConfig, blocks: tuple[Block, ...]) -> Decoder:
    """A decoder with RMS norms and rotary positions around these blocks."""
    for field, number in (("rope_theta", c.rope_theta), ("rms_norm_eps", c.rms_norm_eps)):
        if not 0 < number < math.inf:
            raise BadInput(f"{name}: config.json: {field} is {number}; possible is a positive, finite number")
    return Decoder(
        name=name, hidden_size=c.hidden_size, vocab_size=c.vocab_size, blocks=blocks,
        tie_word_embeddings=c.tie_word_embeddings, max_position_embeddings=c.max_position_embeddings,
        dtype=dtype_of(name, c), rope_theta=c.rope_theta, rms_norm_eps=c.rms_norm_eps,
        family=str(config.get("model_type", "llama")), not_modelled=not_modelled(config, _MAY_MATTER),
    )  # fmt: skip


def attention_of(c: LlamaConfig, qkv_bias: bool, qk_norm: bool = False, fused: bool = False) -> AttentionSpec:
    """The attention that the common fields describe; the output projection has a bias only with `attention_bias`."""
    heads = c.num_attention_heads
    return AttentionSpec(
        heads, c.num_key_value_heads or heads, c.head_dim or c.hidden_size // heads,
        bias=qkv_bias, out_bias=c.attention_bias, fused=fused, qk_norm=qk_norm,
    )  # fmt: skip


def windowed_blocks(c: LlamaConfig, attention: AttentionSpec, mlp: MlpSpec, windowed: int) -> tuple[Block, ...]:
    """All layers, of which the last `windowed` see `sliding_window` keys; like layers share a block."""
    full = c.num_hidden_layers - windowed
    narrow = replace(attention, window=c.sliding_window or 0)
    blocks = (Block(attention, mlp, full), Block(narrow, mlp, windowed))
    return tuple(block for block in blocks if block.count)


def _windowed_layers(config: dict[str, Any], c: LlamaConfig) -> int:
    """Layers with a sliding window: all of Mistral's, Qwen's from `max_window_layers` on where it is switched on."""
    if not c.sliding_window or ("use_sliding_window" in config and not c.use_sliding_window):
        return 0
    if c.layer_types is not None:
        return min(c.num_hidden_layers, sum(kind == "sliding_attention" for kind in c.layer_types))
    if config.get("model_type") in ("qwen2", "qwen3"):
        if not config.get("use_sliding_window"):
            return 0
        return max(0, c.num_hidden_layers - (c.max_window_layers if c.max_window_layers is not None else 28))
    return c.num_hidden_layers


def check_silu(name: str, c: LlamaConfig, where: str) -> None:
    """Refuse any other activation, which nothing here models for these families."""
    if c.hidden_act not in ("silu", "swish"):
        raise NotSupported(f"{name}: hidden_act {c.hidden_act!r} is not modelled in {where}; silu is")


def check_heads(name: str, c: LlamaConfig) -> None:
    """Refuse heads that do not share or split evenly."""
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
