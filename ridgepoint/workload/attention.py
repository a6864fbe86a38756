"""Attention layers of language models: projections, positions, cache and the attention itself, as operators."""

from dataclasses import dataclass

from ridgepoint.quantity import Array
from ridgepoint.workload.op import Attention, Linear, Op, Pointwise, Role
from ridgepoint.workload.step import Step

__all__ = ["AttentionSpec", "Latent"]


@dataclass(frozen=True)
class Latent:
    """Keys and values from a low-rank latent vector (MLA, DeepSeek-V2, arXiv 2405.04434); names of DeepseekV3Config.

    `q_lora_rank` 0: queries come from one projection.
    """

    q_lora_rank: int
    kv_lora_rank: int
    qk_nope_head_dim: int
    qk_rope_head_dim: int
    v_head_dim: int


@dataclass(frozen=True)
class AttentionSpec:
    """Multi-head attention with grouped keys and values; field names of Hugging Face's configs.

    `bias` is of the projections into it, `out_bias` of that out of it (None: the same). `fused`: one projection gives
    q, k and v. `qk_norm`: an RMS norm over each head of q and k. `window`: keys that a token sees (0: all). `softcap`:
    scores go through a tanh, which fused kernels here do not do. Not `causal`: each token sees all, and nothing is cached.
    """

    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    bias: bool = False
    out_bias: bool | None = None
    fused: bool = False
    qk_norm: bool = False
    rotary: bool = True
    window: int = 0
    softcap: bool = False
    causal: bool = True
    latent: Latent | None = None

    @property
    def has_out_bias(self) -> bool:
        """Whether the output projection has a bias."""
        return self.bias if self.out_bias is None else self.out_bias

    def parameters(self, hidden: int) -> int:
        """Weights and biases of the projections and of the norms inside."""
        if self.latent is not None:
            return _latent_parameters(self.latent, self.num_attention_heads, hidden)
        q, kv = self.num_attention_heads * self.head_dim, self.num_key_value_heads * self.head_dim
        biases = (q + 2 * kv if self.bias else 0) + (hidden if self.has_out_bias else 0)
        return hidden * (2 * q + 2 * kv) + biases + (2 * self.head_dim if self.qk_norm else 0)

    def ops(self, step: Step, hidden: int, dtype: str, count: int) -> tuple[Op, ...]:
        """Projections, positions, cache write, attention, output projection."""
        if self.latent is not None:
            return _latent_ops(self.latent, self.num_attention_heads, step, hidden, dtype, count)
        m, q, kv = step.tokens, self.num_attention_heads * self.head_dim, self.num_key_value_heads * self.head_dim
        return (
            *self._projections(m, q, kv, hidden, dtype, count),
            *self._positions(m, q, kv, dtype, count),
            *((Pointwise("kv_write", "cache", "kv_write", m, 2 * kv, dtype, count),) if self.causal else ()),
            Attention("attention", step.groups, self.num_attention_heads, self.num_key_value_heads, self.head_dim, dtype,
                      count=count, window=self.window, causal=self.causal),
            Linear("o_proj", "attention.out", m, hidden, q, dtype, dtype, bias=self.has_out_bias, count=count),
        )  # fmt: skip

    def _projections(self, m: Array, q: int, kv: int, hidden: int, dtype: str, count: int) -> tuple[Op, ...]:
        names = (("qkv_proj", q + 2 * kv),) if self.fused else (("q_proj", q), ("k_proj", kv), ("v_proj", kv))
        return tuple(
            Linear(name, "attention.in", m, n, hidden, dtype, dtype, bias=self.bias, count=count) for name, n in names
        )

    def _positions(self, m: Array, q: int, kv: int, dtype: str, count: int) -> tuple[Op, ...]:
        heads, kv_heads, d = self.num_attention_heads, self.num_key_value_heads, self.head_dim
        norms = (
            Pointwise("q_norm", "norm", "rms_norm", m * heads, d, dtype, count),
            Pointwise("k_norm", "norm", "rms_norm", m * kv_heads, d, dtype, count),
        )
        rope = Pointwise("rope", "rope", "rope", m, q + kv, dtype, count)
        return (*(norms if self.qk_norm else ()), *((rope,) if self.rotary else ()))

    def kv_bytes_per_token(self, width: float, scale: float = 0.0) -> float:
        """Bytes of key and value that one token leaves in the cache of one layer, at `width` bytes an element and `scale`
        bytes beside each vector."""
        if self.latent is not None:
            return width * (self.latent.kv_lora_rank + self.latent.qk_rope_head_dim) + scale
        return 2 * self.num_key_value_heads * (width * self.head_dim + scale)


def _latent_parameters(c: Latent, heads: int, hidden: int) -> int:
    q = heads * (c.qk_nope_head_dim + c.qk_rope_head_dim)
    queries = hidden * c.q_lora_rank + c.q_lora_rank + c.q_lora_rank * q if c.q_lora_rank else hidden * q
    keys = hidden * (c.kv_lora_rank + c.qk_rope_head_dim) + c.kv_lora_rank
    keys += c.kv_lora_rank * heads * (c.qk_nope_head_dim + c.v_head_dim)
    return queries + keys + heads * c.v_head_dim * hidden


def _latent_ops(c: Latent, heads: int, step: Step, hidden: int, dtype: str, count: int) -> tuple[Op, ...]:
    """Prompts expand keys and values of every head; one new token works in the latent space (the absorbed form)."""
    m, nope, rope = step.tokens, c.qk_nope_head_dim, c.qk_rope_head_dim

    def linear(name: str, role: Role, n: int, k: int, whole: bool = False) -> Linear:
        return Linear(name, role, m, n, k, dtype, dtype, count=count, whole=whole)

    def norm(name: str, cols: int) -> Pointwise:
        return Pointwise(name, "norm", "rms_norm", m, cols, dtype, count)

    queries: tuple[Op, ...] = (linear("q_proj", "attention.in", heads * (nope + rope), hidden),)
    if c.q_lora_rank:
        queries = (
            linear("q_a_proj", "attention.in", c.q_lora_rank, hidden, whole=True), norm("q_a_norm", c.q_lora_rank),
            linear("q_b_proj", "attention.in", heads * (nope + rope), c.q_lora_rank),
        )  # fmt: skip
    into = (
        *queries,
        linear("kv_a_proj", "attention.in", c.kv_lora_rank + rope, hidden, whole=True),
        norm("kv_a_norm", c.kv_lora_rank),
        Pointwise("rope", "rope", "rope", m, (heads + 1) * rope, dtype, count),
        Pointwise("kv_write", "cache", "kv_write", m, c.kv_lora_rank + rope, dtype, count),
        linear("kv_b_proj", "attention.in", heads * (nope + c.v_head_dim), c.kv_lora_rank),
    )
    if step.phase == "decode":
        core = Attention("attention", step.groups, heads, 1, c.kv_lora_rank + rope, dtype, count=count,
                         value_dim=c.kv_lora_rank, shared=True)  # fmt: skip
    else:
        core = Attention(
            "attention", step.groups, heads, heads, nope + rope, dtype, count=count, value_dim=c.v_head_dim
        )
    return *into, core, linear("o_proj", "attention.out", hidden, heads * c.v_head_dim)
