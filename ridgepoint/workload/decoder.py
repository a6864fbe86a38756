"""Decoder-only language models as blocks of attention and feed-forward layers; families build them from configs."""

from dataclasses import dataclass
from functools import cached_property

from ridgepoint.workload.op import Attention, Linear, Op, Pointwise, Role
from ridgepoint.workload.step import Step

__all__ = ["AttentionSpec", "Block", "Decoder", "MlpSpec"]


@dataclass(frozen=True)
class AttentionSpec:
    """Multi-head attention with rotary embedding; field names of Hugging Face's LlamaConfig."""

    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    bias: bool = False

    def parameters(self, hidden: int) -> int:
        """Weights and biases of the four projections."""
        q, kv = self.num_attention_heads * self.head_dim, self.num_key_value_heads * self.head_dim
        return hidden * (2 * q + 2 * kv) + (q + 2 * kv + hidden if self.bias else 0)

    def ops(self, step: Step, hidden: int, dtype: str, count: int) -> tuple[Op, ...]:
        """Projections, rotary embedding, cache write and the attention itself."""
        m = step.tokens
        heads, kv_heads, d = self.num_attention_heads, self.num_key_value_heads, self.head_dim
        q, kv = heads * d, kv_heads * d

        def linear(name: str, role: Role, n: int, k: int) -> Linear:
            return Linear(name, role, m, n, k, dtype, dtype, bias=self.bias, count=count)

        return (
            linear("q_proj", "attention.in", q, hidden),
            linear("k_proj", "attention.in", kv, hidden),
            linear("v_proj", "attention.in", kv, hidden),
            Pointwise("rope", "rope", "rope", m, q + kv, dtype, count),
            Pointwise("kv_write", "cache", "kv_write", m, 2 * kv, dtype, count),
            Attention("attention", step.groups, heads, kv_heads, d, dtype, count=count),
            linear("o_proj", "attention.out", hidden, q),
        )

    def kv_bytes_per_token(self, width: float) -> float:
        """Bytes of key and value that one token leaves in the cache of one layer."""
        return 2 * width * self.num_key_value_heads * self.head_dim


@dataclass(frozen=True)
class MlpSpec:
    """Gated feed-forward layer: down(silu(gate(x)) * up(x))."""

    intermediate_size: int
    bias: bool = False

    def parameters(self, hidden: int) -> int:
        """Weights and biases of gate, up and down."""
        wide = self.intermediate_size
        return 3 * hidden * wide + (2 * wide + hidden if self.bias else 0)

    def ops(self, step: Step, hidden: int, dtype: str, count: int) -> tuple[Op, ...]:
        """Gate, up, activation, down."""
        m, wide = step.tokens, self.intermediate_size
        return (
            Linear("gate_proj", "mlp.in", m, wide, hidden, dtype, dtype, bias=self.bias, count=count),
            Linear("up_proj", "mlp.in", m, wide, hidden, dtype, dtype, bias=self.bias, count=count),
            Pointwise("silu_mul", "mlp.act", "silu_mul", m, wide, dtype, count),
            Linear("down_proj", "mlp.out", m, hidden, wide, dtype, dtype, bias=self.bias, count=count),
        )


@dataclass(frozen=True)
class Block:
    """`count` like layers: norm, attention, add, norm, feed-forward, add."""

    attention: AttentionSpec
    mlp: MlpSpec
    count: int

    def parameters(self, hidden: int) -> int:
        """Parameters of all `count` layers, norms included."""
        return self.count * (self.attention.parameters(hidden) + self.mlp.parameters(hidden) + 2 * hidden)

    def ops(self, step: Step, hidden: int, dtype: str) -> tuple[Op, ...]:
        """Operators of the block, each with the block's count."""
        m, n = step.tokens, self.count

        def norm(name: str) -> Pointwise:
            return Pointwise(name, "norm", "rms_norm", m, hidden, dtype, n)

        def add(name: str) -> Pointwise:
            return Pointwise(name, "residual", "add", m, hidden, dtype, n)

        return (
            norm("input_norm"),
            *self.attention.ops(step, hidden, dtype, n),
            add("attention_add"),
            norm("post_attention_norm"),
            *self.mlp.ops(step, hidden, dtype, n),
            add("mlp_add"),
        )


@dataclass(frozen=True)
class Decoder:
    """A decoder-only model; `max_position_embeddings` bounds its context, `dtype` is its checkpoint's."""

    name: str
    hidden_size: int
    vocab_size: int
    blocks: tuple[Block, ...]
    tie_word_embeddings: bool
    max_position_embeddings: int
    dtype: str
    family: str = "llama"
    rope_theta: float = 10000.0
    rms_norm_eps: float = 1e-5

    @cached_property
    def parameters(self) -> int:
        """All parameters; tied embeddings count once."""
        tables = (1 if self.tie_word_embeddings else 2) * self.vocab_size * self.hidden_size
        return tables + sum(b.parameters(self.hidden_size) for b in self.blocks) + self.hidden_size

    @property
    def layers(self) -> int:
        """Number of decoder layers (`num_hidden_layers`)."""
        return sum(b.count for b in self.blocks)

    def kv_bytes_per_token(self, width: float) -> float:
        """Bytes that one token adds to the whole KV cache at `width` bytes per element."""
        return sum(b.count * b.attention.kv_bytes_per_token(width) for b in self.blocks)

    def forward_ops(self, step: Step, dtype: str) -> tuple[Op, ...]:
        """The operators of one forward pass, in order; like operators of a block share one row."""
        d = self.hidden_size
        return (
            Pointwise("embed_tokens", "embed", "embedding", step.tokens, d, dtype),
            *(op for block in self.blocks for op in block.ops(step, d, dtype)),
            Pointwise("final_norm", "norm", "rms_norm", step.tokens, d, dtype),
            Linear("lm_head", "head", step.head_tokens, self.vocab_size, d, dtype, dtype),
        )
