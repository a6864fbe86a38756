"""GPT-2 and OPT from the fields of a `config.json`: learned positions, layer norms, biases, a plain feed-forward layer."""

from typing import Any

from ridgepoint.errors import BadInput, NotSupported
from ridgepoint.workload.config import Common, Stored, dtype_of, read
from ridgepoint.workload.decoder import AttentionSpec, Block, Decoder, MlpSpec

__all__ = ["GPT2_TYPES", "OPT_TYPES", "build_gpt2", "build_opt"]

GPT2_TYPES, OPT_TYPES = ("gpt2",), ("opt",)
_OPT_OFFSET = 2
"""OPT's table of positions begins with two rows that no token has."""


class Gpt2Config(Stored, kw_only=True):
    """GPT-2's names of the fields."""

    n_embd: int
    n_layer: int
    n_head: int
    vocab_size: int
    n_positions: int = 1024
    n_inner: int | None = None
    activation_function: str = "gelu_new"
    tie_word_embeddings: bool = True


class OptConfig(Common, kw_only=True):
    """OPT's names of the fields."""

    ffn_dim: int
    word_embed_proj_dim: int | None = None
    do_layer_norm_before: bool = True
    enable_bias: bool = True
    activation_function: str = "relu"
    tie_word_embeddings: bool = True


def build_gpt2(name: str, config: dict[str, Any]) -> Decoder:
    """q, k and v come from one projection; the head is the table of tokens."""
    c = read(name, config, Gpt2Config)
    for field, value, limit in (
        ("n_embd", c.n_embd, 2**17), ("n_layer", c.n_layer, 2**12), ("n_head", c.n_head, 2**12),
        ("n_positions", c.n_positions, 2**27), ("n_inner", c.n_inner or 1, 2**20),
    ):  # fmt: skip
        if not 1 <= value <= limit:
            raise BadInput(f"{name}: config.json: {field} is {value}; possible is 1 to {limit}")
    attention = _attention(name, c.n_embd, c.n_head, bias=True, fused=True)
    mlp = MlpSpec(c.n_inner or 4 * c.n_embd, bias=True, gated=False, act=_activation(name, c.activation_function))
    return Decoder(
        name=name, hidden_size=c.n_embd, vocab_size=c.vocab_size,
        blocks=(Block(attention, mlp, c.n_layer, norm="layer_norm"),), tie_word_embeddings=c.tie_word_embeddings,
        max_position_embeddings=c.n_positions, dtype=dtype_of(name, c), family="gpt2", norm="layer_norm",
        positions=c.n_positions,
    )  # fmt: skip


def build_opt(name: str, config: dict[str, Any]) -> Decoder:
    """OPT; of its sizes the 350M one alone has narrower embeddings, norms behind the layers and no last norm."""
    c = read(name, config, OptConfig)
    if not 1 <= c.ffn_dim <= 2**20 or (c.word_embed_proj_dim is not None and not 1 <= c.word_embed_proj_dim <= 2**17):
        raise BadInput(
            f"{name}: config.json: ffn_dim {c.ffn_dim}, word_embed_proj_dim {c.word_embed_proj_dim}: impossible"
        )
    attention = _attention(name, c.hidden_size, c.num_attention_heads, bias=c.enable_bias)
    mlp = MlpSpec(c.ffn_dim, bias=c.enable_bias, gated=False, act=_activation(name, c.activation_function))
    narrow = c.word_embed_proj_dim not in (None, c.hidden_size)
    return Decoder(
        name=name, hidden_size=c.hidden_size, vocab_size=c.vocab_size,
        blocks=(Block(attention, mlp, c.num_hidden_layers, norm="layer_norm"),),
        tie_word_embeddings=c.tie_word_embeddings, max_position_embeddings=c.max_position_embeddings,
        dtype=dtype_of(name, c), family="opt", norm="layer_norm", positions=c.max_position_embeddings + _OPT_OFFSET,
        embedding_size=c.word_embed_proj_dim or 0 if narrow else 0, final_norm=c.do_layer_norm_before,
    )  # fmt: skip


def _attention(name: str, hidden: int, heads: int, bias: bool, fused: bool = False) -> AttentionSpec:
    if hidden % heads:
        raise BadInput(f"{name}: config.json: a hidden size of {hidden} does not split into {heads} heads")
    return AttentionSpec(heads, heads, hidden // heads, bias=bias, rotary=False, fused=fused)


def _activation(name: str, told: str) -> str:
    if told.startswith("gelu"):
        return "gelu"
    if told == "relu":
        return "relu"
    raise NotSupported(f"{name}: activation {told!r} is not modelled here; gelu and relu are")
