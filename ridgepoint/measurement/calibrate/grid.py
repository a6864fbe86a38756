"""What a calibration measures: shapes and rows that no catalogue model has, so that a bet is never a look-up."""

from dataclasses import dataclass

__all__ = [
    "ATTENTION_DECODE",
    "ATTENTION_PREFILL",
    "COMPOSED",
    "CONV_SHAPES",
    "FAR_GRID",
    "FAR_GROUPS",
    "GROUP_GRID",
    "HOT_SHAPES",
    "LINEAR_SHAPES",
    "MATMUL_SHAPES",
    "ORT_PROBES",
    "POINTWISE_GRID",
    "POOL_GRID",
    "PROBES",
    "SHARED_SHAPES",
    "TALL_SHAPES",
    "ComposedNet",
    "ConvShape",
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
    LinearProbe(
        "fp32", "dense", "fp32", (1, 2, 3, *_ROWS[2:], 512)
    ),  # 3 take longer than 4 where a GEMM has kernels for pairs
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
ORT_PROBES: tuple[LinearProbe, ...] = (
    LinearProbe("int8:dyn", "ort", "fp32", _ROWS),
    LinearProbe("int4:g32", "ort", "fp32", _ROWS),
    LinearProbe("int4:g128", "ort", "fp32", _ROWS),
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


FAR_GRID: tuple[int, int] = (5200, 1664)
"""The same for tensors beyond any last-level cache."""


@dataclass(frozen=True, slots=True)
class ConvShape:
    """Items, channels in and out, height and width, size and stride of the window, groups."""

    batch: int
    channels_in: int
    n: int
    side: int
    window: int
    stride: int = 1
    groups: int = 1
    transposed: bool = False


CONV_SHAPES: tuple[ConvShape, ...] = (
    ConvShape(1, 3, 40, 150, 7, 2), ConvShape(2, 3, 56, 98, 3, 1), ConvShape(1, 3, 416, 168, 14, 14),
    ConvShape(2, 40, 40, 90, 3), ConvShape(1, 24, 72, 130, 3), ConvShape(9, 24, 40, 104, 3), ConvShape(10, 40, 24, 100, 1, 1),
    ConvShape(1, 24, 24, 44, 3), ConvShape(3, 80, 80, 22, 3), ConvShape(1, 160, 160, 18, 3), ConvShape(1, 416, 416, 9, 3),
    ConvShape(2, 56, 112, 34, 3, 2), ConvShape(2, 208, 336, 15, 3, 2), ConvShape(1, 56, 72, 30, 5), ConvShape(18, 48, 64, 12, 3),
    ConvShape(1, 8, 16, 12, 3), ConvShape(1, 40, 56, 18, 3), ConvShape(1, 104, 88, 13, 3), ConvShape(1, 16, 24, 30, 5),
    ConvShape(17, 560, 112, 7, 1), ConvShape(1, 72, 144, 28, 1, 2), ConvShape(16, 24, 136, 22, 1),
    ConvShape(6, 144, 40, 20, 1), ConvShape(1, 24, 144, 50, 1), ConvShape(12, 320, 72, 9, 1), ConvShape(3, 112, 416, 10, 1),
    ConvShape(1, 72, 208, 26, 1), ConvShape(2, 416, 144, 13, 1), ConvShape(18, 72, 208, 13, 1), ConvShape(20, 336, 80, 9, 1),
    ConvShape(2, 144, 560, 10, 1, 2), ConvShape(1, 560, 560, 7, 1), ConvShape(4, 40, 24, 46, 1),
    ConvShape(2, 72, 72, 84, 3, 1, 72), ConvShape(9, 144, 144, 42, 5, 2, 144), ConvShape(1, 320, 320, 22, 5, 1, 320),
    ConvShape(1, 72, 72, 44, 3, 1, 72), ConvShape(2, 208, 208, 21, 5, 1, 208), ConvShape(1, 560, 560, 9, 7, 1, 560),
    ConvShape(2, 144, 144, 38, 3, 2, 144), ConvShape(12, 336, 336, 12, 3, 1, 336),
    ConvShape(1, 24, 24, 60, 3, 1, 24), ConvShape(4, 120, 120, 26, 5, 1, 120), ConvShape(2, 40, 40, 50, 3, 2, 40),
    ConvShape(8, 96, 96, 40, 3, 1, 96), ConvShape(4, 96, 96, 20, 3, 1, 24), ConvShape(1, 512, 512, 10, 3, 1, 32),
    ConvShape(1, 400, 200, 6, 2, 2, 1, True), ConvShape(1, 56, 24, 16, 2, 2, 1, True),
    ConvShape(1, 144, 80, 11, 4, 2, 1, True), ConvShape(1, 160, 160, 24, 3, 1, 20),
    ConvShape(2, 72, 144, 36, 3, 1, 9), ConvShape(1, 336, 336, 14, 3, 2, 42), ConvShape(6, 240, 240, 12, 3, 1, 30),
    ConvShape(3, 56, 24, 26, 2, 2, 1, True), ConvShape(1, 336, 160, 12, 3, 2, 1, True), ConvShape(1, 16, 24, 20, 3),
    ConvShape(2, 320, 320, 13, 3, 1, 10),
    ConvShape(2, 40, 72, 30, 5, 1, 8), ConvShape(1, 60, 36, 40, 3, 1, 12), ConvShape(3, 96, 96, 18, 3, 1, 32),
    ConvShape(1, 80, 80, 28, 5, 2, 20), ConvShape(4, 36, 108, 24, 3, 1, 6), ConvShape(1, 160, 160, 12, 3, 1, 40),
    ConvShape(1, 80, 40, 18, 2, 2, 1, True), ConvShape(2, 144, 72, 11, 4, 2, 1, True), ConvShape(2, 208, 112, 9, 2, 2, 1, True),
)  # fmt: skip
MATMUL_SHAPES: tuple[tuple[int, int, int, int], ...] = (
    (4, 60, 60, 40), (36, 60, 60, 40), (10, 150, 150, 72), (10, 150, 72, 150), (3, 420, 420, 48), (48, 30, 36, 90),
    (2, 260, 700, 260), (120, 20, 20, 24), (6, 1, 200, 72),
)  # fmt: skip
"""(batch, m, n, k)."""
SHARED_SHAPES: tuple[tuple[int, int, int, int], ...] = (
    (30, 2, 640, 224), (72, 1, 224, 640), (20, 6, 416, 416), (9, 20, 960, 320), (48, 3, 320, 144), (40, 3, 1216, 432),
    (18, 2, 640, 2080),
)  # fmt: skip
"""The same with one matrix for the whole batch."""
POOL_GRID: tuple[tuple[int, int, int, int], ...] = (
    (160, 30, 3, 2), (72, 60, 3, 2), (208, 26, 2, 2), (40, 88, 2, 2), (96, 20, 3, 1), (336, 14, 3, 1),
)  # fmt: skip
"""(planes, height and width, window, stride); none so small that the processor could learn the data's order by heart."""
GROUP_GRID: tuple[tuple[int, int, int, int], ...] = (
    (1, 8, 4, 18), (1, 6, 4, 29), (2, 6, 12, 21), (1, 12, 20, 13), (4, 4, 9, 25),
    (1, 8, 4, 38), (1, 8, 10, 54), (2, 6, 16, 41), (1, 20, 8, 35), (4, 4, 8, 44),
)  # fmt: skip
"""(items, groups, channels of a group, height and width) of norms with channels last, of small images and of large."""
FAR_GROUPS: tuple[tuple[int, int, int, int], ...] = ((240, 9, 8, 22), (7, 9, 8, 130))
"""The same for tensors beyond any last-level cache."""


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
