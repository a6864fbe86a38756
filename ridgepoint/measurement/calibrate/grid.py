"""What a calibration measures: shapes and rows that no catalogue model has, so that a bet is never a look-up."""

from dataclasses import dataclass

__all__ = [
    "ATTENTION_DECODE",
    "ATTENTION_PREFILL",
    "COMPOSED",
    "HOT_SHAPES",
    "LINEAR_SHAPES",
    "POINTWISE_GRID",
    "PROBES",
    "TALL_SHAPES",
    "ComposedNet",
    "LinearProbe",
]

LINEAR_SHAPES: tuple[tuple[int, int], ...] = (
    (320, 640), (1472, 384), (1216, 512), (640, 1664), (832, 896), (1664, 640), (1408, 1408), (896, 2432), (2432, 896),
    (5376, 1152), (17408, 640),
)  # fmt: skip
"""(n, k), small to large; the last two are wider than `hardware.law.WIDE_N`, as heads are. k splits into groups of 128."""
HOT_SHAPES: tuple[tuple[int, int], ...] = ((320, 640), (1472, 384), (256, 1664), (832, 896))
"""Measured with weights in the cache, in this order as far as they fit; then the others. Short and long rows come first."""
TALL_SHAPES: tuple[tuple[int, int], ...] = ((640, 1664), (832, 896), (1664, 640), (1408, 1408))
"""Measured with hundreds of rows, where arithmetic decides and every product is long."""


@dataclass(frozen=True, slots=True)
class LinearProbe:
    """One kernel to calibrate: its format (with the int4 group), activations, and the rows m to measure."""

    format: str
    rung: str
    act: str
    m: tuple[int, ...]

    @property
    def group(self) -> int:
        """Group size of int4, else 0."""
        return int(self.format.partition(":g")[2] or 0)


_ROWS = (1, 2, 4, 5, 8, 16, 32, 64, 128)
PROBES: tuple[LinearProbe, ...] = (
    LinearProbe("fp32", "dense", "fp32", (*_ROWS, 512)),
    LinearProbe("bf16", "dense", "bf16", (*_ROWS, 512)),
    LinearProbe("int8", "packed", "bf16", _ROWS),
    LinearProbe("int4:g32", "packed", "bf16", _ROWS),
    LinearProbe("int4:g128", "packed", "bf16", _ROWS),
    LinearProbe("int8:dyn", "packed", "fp32", (*_ROWS, 512)),
    LinearProbe("int8:dyn:token", "packed", "bf16", (*_ROWS, 512)),
    LinearProbe("int8:dyn:token", "packed", "fp32", _ROWS),
    LinearProbe("nf4", "packed", "bf16", _ROWS),
    LinearProbe("fp16", "dense", "fp16", (1, 2, 4, 8, 16, 32)),
    LinearProbe("int8", "naive", "bf16", (1, 16, 128)),
    LinearProbe("int4:g32", "naive", "bf16", (1, 16, 128)),
)

ATTENTION_DECODE: tuple[tuple[int, int, int, int, int], ...] = (
    (1, 10, 5, 64, 96), (1, 10, 5, 64, 736), (3, 12, 2, 64, 352), (12, 7, 7, 64, 176), (40, 10, 5, 64, 112),
    (20, 5, 5, 128, 144), (9, 12, 3, 128, 208), (36, 8, 2, 128, 80), (6, 12, 3, 32, 272),
)  # fmt: skip
"""(batch, heads, kv_heads, head_dim, keys) with one new token each."""
ATTENTION_PREFILL: tuple[tuple[int, int, int, int, int], ...] = (
    (1, 10, 5, 64, 48), (1, 10, 5, 64, 176), (1, 7, 7, 64, 400), (3, 12, 2, 64, 112), (1, 5, 5, 128, 240), (1, 12, 3, 32, 304),
)  # fmt: skip
"""(batch, heads, kv_heads, head_dim, new tokens), causal, nothing cached."""
POINTWISE_GRID: tuple[tuple[int, int], ...] = (
    (1, 640),
    (1, 1664),
    (6, 640),
    (6, 1664),
    (40, 640),
    (40, 1664),
    (288, 640),
    (288, 1664),
)
"""(rows, cols)."""


@dataclass(frozen=True, slots=True)
class ComposedNet:
    """A small random decoder that tells what a network adds to the sum of its operators."""

    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int
    vocab: int
    batches: tuple[int, ...]
    """Sequences of its decode steps."""
    context: int
    head_dim: int = 0
    """0: hidden / heads."""
    prefills: tuple[tuple[int, int], ...] = ()
    """(sequences, new tokens) of its prefill steps."""

    @property
    def steps(self) -> tuple[tuple[int, int], ...]:
        """(sequences, new tokens) of all its steps."""
        return *((batch, 1) for batch in self.batches), *self.prefills

    @property
    def longest(self) -> int:
        """Positions that its steps need."""
        return max(self.context, *(new for _, new in self.steps))


COMPOSED: tuple[ComposedNet, ...] = (
    ComposedNet(384, 1408, 8, 2, 1, 2816, (1, 4, 24), 72, 128, ((1, 96),)),
    ComposedNet(896, 2432, 3, 6, 2, 5120, (2, 12, 48), 136, 128, ((1, 208),)),
)
