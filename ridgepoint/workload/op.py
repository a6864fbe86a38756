"""Operators, the unit of account: shapes and formats in, FLOPs and compulsory bytes out.

A multiply-accumulate is 2 FLOPs. Bytes are compulsory traffic: each tensor read or written once per call.
m, n, k, rows and group sizes may be NumPy arrays that broadcast (a sweep); `count` like calls share one row.
Choices select operators by class (`Linear`, `Attention`, …) and `role`, never by `name`.
"""

from dataclasses import dataclass
from typing import Literal, Protocol

from ridgepoint.quantity import Array
from ridgepoint.workload.format import CACHE_FORMATS, DTYPE_BYTES, format_named
from ridgepoint.workload.step import Group

__all__ = ["POINTWISE", "Attention", "Compulsory", "Linear", "Op", "Pointwise", "Role", "Sweep"]

Role = Literal[
    "embed", "attention.in", "attention.core", "attention.out", "mlp.in", "mlp.act", "mlp.out",
    "norm", "rope", "cache", "residual", "head", "adapter", "optimizer", "other",
]  # fmt: skip
Sweep = Literal["forward", "recompute", "grad_input", "grad_weight", "update"]
"""Which pass of a training step the call belongs to; "recompute": the forward once more, for what was not kept."""


class Op(Protocol):
    """What every operator answers, for one of its `count` calls."""

    @property
    def name(self) -> str: ...
    @property
    def role(self) -> Role: ...
    @property
    def count(self) -> int: ...
    @property
    def dtype(self) -> str: ...
    @property
    def sweep(self) -> Sweep: ...
    @property
    def kind(self) -> str: ...
    @property
    def flops(self) -> Array: ...
    @property
    def weight_bytes(self) -> Array: ...
    @property
    def activation_bytes(self) -> Array: ...
    @property
    def kv_bytes(self) -> Array: ...
    @property
    def bytes(self) -> Array: ...


class Compulsory:
    """The bytes that most operators share: no weights and no cache unless they say so, all three added up."""

    __slots__ = ()

    @property
    def weight_bytes(self) -> Array:
        return 0.0

    @property
    def activation_bytes(self) -> Array:
        raise NotImplementedError

    @property
    def kv_bytes(self) -> Array:
        return 0.0

    @property
    def bytes(self) -> Array:
        return self.weight_bytes + self.activation_bytes + self.kv_bytes


@dataclass(frozen=True, slots=True)
class Linear(Compulsory):
    """y[m, n] = x[m, k] W[n, k]ᵀ (+ bias[n]), x and y in `dtype`, W stored as `weight`.

    `kernel` pins a rung of the format's kernel ladder ("" = the fastest that the target has). Zeros that the format does not
    store count neither as FLOPs nor as bytes; zeros in a dense matrix count as both.
    """

    name: str
    role: Role
    m: Array
    n: Array
    k: Array
    dtype: str
    weight: str
    bias: bool = False
    kernel: str = ""
    count: int = 1
    sweep: Sweep = "forward"
    kind: str = "linear"
    experts: int = 1
    """Matrices of which each row of x takes one (a mixture of experts, its rows m counted once per expert chosen)."""
    active: Array = 1.0
    """How many of them a call reads, in the mean."""
    fixed: bool = False
    """Whether no choice can store W otherwise: it is not the weight of a linear layer of its own."""
    chosen: int = 1
    """Experts that a token takes: m counts its row so many times."""
    layers: tuple[int, ...] = ()
    """Decoder layers that the row stands for, where a choice has split it; () are all of the row's."""
    whole: bool = False
    """Whether devices that share a layer's matrices each hold all of this one: its outputs belong to no head."""
    trained: bool = True
    """Whether a training step updates W; a frozen one needs no gradient of its own."""
    rank: int = 0
    """Of the low-rank adapter beside it (LoRA, arXiv 2106.09685); 0: none. `workload.adapter` writes it out as operators."""
    adapters: int = 1
    """How many adapters serve the rows of one call, each its own (S-LoRA, arXiv 2311.03285)."""

    @property
    def flops(self) -> Array:
        return 2.0 * self.m * self.n * self.k * format_named(self.weight).density

    @property
    def weight_bytes(self) -> Array:
        return self.active * self._matrix_bytes

    @property
    def stored_bytes(self) -> Array:
        """Bytes of all experts; of a plain layer what a call reads."""
        return self.experts * self._matrix_bytes

    @property
    def _matrix_bytes(self) -> Array:
        bias = self.n * DTYPE_BYTES[self.dtype] if self.bias else 0.0
        return format_named(self.weight).weight_bytes(self.n, self.k) + bias

    @property
    def activation_bytes(self) -> Array:
        return DTYPE_BYTES[self.dtype] * self.m * (self.n + self.k)


@dataclass(frozen=True, slots=True)
class Attention(Compulsory):
    """softmax(q kᵀ / √d) v of every sequence of `groups`, with grouped key/value heads (GQA).

    `window`: keys that a token sees, itself included; 0 is all. `value_dim`: size of a value where it is not that of a
    key. `shared`: values are a part of the keys (latent attention, DeepSeek-V2, arXiv 2405.04434), so that a cached
    token is read once. Ignored in `flops`: softmax and scaling (O(pairs), not O(pairs x head_dim)). The gradient costs 2.5x the
    forward: it redoes the scores and has four products for two (FlashAttention-2, arXiv 2307.08691, section 3.1).
    """

    name: str
    groups: tuple[Group, ...]
    heads: int
    kv_heads: int
    head_dim: int
    dtype: str
    kernel: str = ""
    count: int = 1
    sweep: Sweep = "forward"
    role: Role = "attention.core"
    kind: str = "attention"
    causal: bool = True
    window: int = 0
    value_dim: int = 0
    shared: bool = False
    cached: str = ""
    """What is read: "" the cache in `dtype`, "copy" what was dequantised for this call (an activation), or "fp8" the cache
    in fp8 by the kernel itself."""

    def pairs(self, group: Group) -> Array:
        """Query-key pairs of one head in a group."""
        return group.pairs(self.window, self.causal)

    def kv_elements(self, group: Group) -> Array:
        """Elements of keys and values that a group reads."""
        width = self.head_dim if self.shared else self.head_dim + (self.value_dim or self.head_dim)
        return group.count * group.keys(self.window) * self.kv_heads * width

    @property
    def flops(self) -> Array:
        pairs = sum((self.pairs(g) for g in self.groups), start=0.0)
        both = self.head_dim + (self.value_dim or self.head_dim)
        return (2.0 if self.sweep in ("forward", "recompute") else 5.0) * pairs * self.heads * both

    @property
    def activation_bytes(self) -> Array:
        tokens = sum((g.tokens for g in self.groups), start=0.0)
        queries = tokens * self.heads * (self.head_dim + (self.value_dim or self.head_dim))
        copied = sum((self.kv_elements(g) for g in self.groups), start=0.0) if self.cached == "copy" else 0.0
        return DTYPE_BYTES[self.dtype] * (queries + copied)

    @property
    def kv_width(self) -> float:
        """Bytes of an element of keys and values that the kernel reads."""
        return CACHE_FORMATS["fp8"][0] if self.cached == "fp8" else DTYPE_BYTES[self.dtype]

    @property
    def kv_bytes(self) -> Array:
        if self.cached == "copy":
            return 0.0
        return self.kv_width * sum((self.kv_elements(g) for g in self.groups), start=0.0)


@dataclass(frozen=True, slots=True)
class PointwiseKind:
    """Elements read and written, and FLOPs done, per element of the [rows, cols] output."""

    reads: float
    writes: float
    flops: float
    weights: float = 0.0
    """Weights per column, each read once per call."""


POINTWISE: dict[str, PointwiseKind] = {
    "embedding": PointwiseKind(1, 1, 0),
    "rms_norm": PointwiseKind(1, 1, 4, weights=1),
    "layer_norm": PointwiseKind(1, 1, 5, weights=2),
    "rope": PointwiseKind(1, 1, 3),
    "kv_write": PointwiseKind(1, 1, 0),
    **{f"kv_write_{name}": PointwiseKind(1, 1, 5) for name in CACHE_FORMATS},  # largest, divide, round, clip
    **{f"kv_read_{name}": PointwiseKind(1, 1, 2) for name in CACHE_FORMATS},
    "add": PointwiseKind(2, 1, 1),
    "silu_mul": PointwiseKind(2, 1, 5),
    "gelu_mul": PointwiseKind(2, 1, 9),
    "gelu": PointwiseKind(1, 1, 8),
    "relu": PointwiseKind(1, 1, 1),
    "scale": PointwiseKind(1, 1, 1),
    "softcap": PointwiseKind(1, 1, 6),
    "gelu_erf": PointwiseKind(1, 1, 10),
    "sigmoid": PointwiseKind(1, 1, 6),  # and tanh, exp, silu, logarithms, powers
    "softmax": PointwiseKind(1, 1, 5),
    "batch_norm": PointwiseKind(1, 1, 2),  # a row is a channel of an item; its four figures are few
    "group_norm": PointwiseKind(1, 1, 5),
    "instance_norm": PointwiseKind(1, 1, 5),  # a row is a channel of an item; computed as a batch norm that trains
    "reduce": PointwiseKind(1, 0, 1),  # [rows, cols] is the input; mean, sum, maximum
    "pool": PointwiseKind(1, 0, 1),  # rows outputs of a window of cols
    "avg_pool": PointwiseKind(1, 0, 1),
    "pool_last": PointwiseKind(1, 0, 1),  # channels last: other code, without branches
    "avg_pool_last": PointwiseKind(1, 0, 1),
    "group_norm_last": PointwiseKind(1, 1, 5),  # of small images: a row is a group's channels of one pixel
    "group_norm_last_large": PointwiseKind(1, 1, 5),  # of others: a row is a group of an item
    "copy": PointwiseKind(1, 1, 0),
    "transpose": PointwiseKind(1, 1, 0),  # a copy into another order
    "pass": PointwiseKind(1, 1, 1),  # an operator that nobody described, as a pass over its tensors
    "view": PointwiseKind(0, 0, 0),  # nothing but the framework's own work
    "route": PointwiseKind(1, 1, 5),  # softmax over the experts and the choice of the best
    "cross_entropy": PointwiseKind(1, 1, 5),
    "adapter_add": PointwiseKind(2, 1, 2),  # y + s z, as two operators
    "adapter_add_copy": PointwiseKind(3, 2, 2),  # of a copy of y, as peft takes it over NF4
    "recompute_hooks": PointwiseKind(
        0, 0, 0
    ),  # a row per tensor that is not kept: Python notes it, and fetches it later
    "norm_weight": PointwiseKind(2, 0, 2),  # the gradient of a norm's weight: a sum over rows
    "adamw": PointwiseKind(4, 3, 12),  # reads weight, gradient, two moments; writes weight and moments
}


@dataclass(frozen=True, slots=True)
class Pointwise(Compulsory):
    """An operator whose work grows with rows x cols: norms, activations, rotary embedding, look-ups, copies.

    `traffic`: elements read and written, where broadcasting or overlapping windows make them others than the kind's.
    `held`: those of them that are temporaries of one module: they cost time, and are no compulsory bytes.
    `pixels`: of the images that it works on, where torch has other code for other orders in memory; 0 elsewhere.
    """

    name: str
    role: Role
    kind: str
    rows: Array
    cols: Array
    dtype: str
    count: int = 1
    sweep: Sweep = "forward"
    traffic: Array = 0.0
    held: Array = 0.0
    pixels: float = 0.0
    trained: bool = True
    """Whether a training step updates its weights, of those that have any."""
    table: Array = 0.0
    """Rows of the table that a look-up reads from: its gradient has as many."""

    @property
    def traffic_bytes(self) -> Array:
        """All that the call reads and writes but its weights."""
        return self.activation_bytes + DTYPE_BYTES[self.dtype] * self.held

    @property
    def flops(self) -> Array:
        return POINTWISE[self.kind].flops * self.rows * self.cols

    @property
    def weight_bytes(self) -> Array:
        return POINTWISE[self.kind].weights * DTYPE_BYTES[self.dtype] * self.cols

    @property
    def activation_bytes(self) -> Array:
        kind = POINTWISE[self.kind]
        plain = isinstance(self.traffic, float) and not self.traffic
        elements = (kind.reads + kind.writes) * self.rows * self.cols if plain else self.traffic - self.held
        return DTYPE_BYTES[self.dtype] * elements
