"""What a GPU calibration measures: shapes of LLM size that no catalogue model has, in stages with a time limit each."""

from dataclasses import dataclass

from ridgepoint.measurement.calibrate.grid import ComposedNet, LinearProbe

__all__ = ["FULL", "REHEARSAL", "CudaGrid", "CudaStage", "grid_named", "stages"]


@dataclass(frozen=True, slots=True)
class CudaGrid:
    """Shapes of all probes. Linear shapes are (n, k), those first that a truncated stage can least spare."""

    linear: tuple[tuple[int, int], ...]
    probes: tuple[LinearProbe, ...]
    decode: tuple[tuple[int, int, int, int, int], ...]
    """(batch, heads, kv_heads, head_dim, keys)."""
    prefill: tuple[tuple[int, int, int, int, int], ...]
    pointwise: tuple[tuple[int, int], ...]
    """(rows, cols)."""
    composed: tuple[ComposedNet, ...]
    sides: tuple[str, ...]
    peak: int
    """Side of the square product whose rate is the peak."""
    memory_bytes: int
    """Working set of the bandwidth probe of main memory."""


@dataclass(frozen=True, slots=True)
class CudaStage:
    """A part of the calibration that is asked for by name, and the seconds it may take."""

    name: str
    seconds: float


_WIDE = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096)
_NARROW = (1, 2, 4, 8, 16, 32, 48, 64, 96, 128, 256, 512)
_FEW = (1, 16, 64, 256, 1024)

FULL = CudaGrid(
    linear=(
        (3840, 3840), (15616, 5376), (1152, 5376), (3840, 11520), (7424, 7424), (640, 3328), (11520, 3840),
        (75776, 3840), (2304, 2304), (4864, 9472), (5376, 4864),
    ),
    probes=(
        LinearProbe("bf16", "dense", "bf16", _WIDE),
        LinearProbe("int4:g128", "packed", "bf16", _NARROW),
        LinearProbe("fp8", "packed", "bf16", _WIDE),
        LinearProbe("int8:dyn:token", "packed", "bf16", _WIDE),
        LinearProbe("int4:g32", "packed", "bf16", _NARROW),
        LinearProbe("fp16", "dense", "fp16", _WIDE),
        LinearProbe("fp32", "dense", "fp32", _WIDE),
        LinearProbe("int8", "naive", "bf16", _FEW),
        LinearProbe("int4:g128", "naive", "bf16", _FEW),
        LinearProbe("nf4", "packed", "bf16", _NARROW),
        LinearProbe("int8:dyn:token", "packed", "fp32", _FEW),
    ),
    decode=(
        (1, 30, 6, 128, 160), (24, 30, 6, 128, 160), (1, 30, 6, 128, 1408), (96, 24, 8, 128, 288), (6, 24, 8, 128, 640),
        (48, 30, 6, 128, 1152), (12, 36, 12, 64, 352), (1, 18, 6, 128, 4736),
    ),
    prefill=(
        (1, 30, 6, 128, 176), (1, 24, 8, 128, 1216), (6, 30, 6, 128, 352), (1, 36, 12, 64, 640), (1, 30, 6, 128, 2880),
        (12, 18, 6, 128, 160),
    ),
    pointwise=tuple((rows, cols) for cols in (2304, 3840, 11520) for rows in (1, 6, 40, 288)),
    composed=(
        ComposedNet(3840, 10240, 4, 30, 6, 20480, (1, 12, 48), 160),
        ComposedNet(2304, 6144, 8, 18, 6, 20480, (1, 6, 96), 352),
    ),
    sides=("bf16", "int4:g128", "fp8", "bf16+int8:dyn:token", "int4:g32", "fp16", "int8"),
    peak=8192,
    memory_bytes=2 * 2**30,
)  # fmt: skip

REHEARSAL = CudaGrid(
    linear=((256, 256), (384, 256), (256, 640), (640, 384)),
    probes=(
        LinearProbe("bf16", "dense", "bf16", (1, 4, 16)),
        LinearProbe("int4:g128", "packed", "bf16", (1, 4, 16)),
        LinearProbe("fp8", "packed", "bf16", (1, 4)),
        LinearProbe("int8:dyn:token", "packed", "bf16", (1, 4, 16)),
    ),
    decode=((1, 6, 3, 64, 40), (4, 6, 3, 64, 40), (1, 4, 2, 64, 96)),
    prefill=((1, 6, 3, 64, 24), (1, 4, 2, 64, 48)),
    pointwise=((1, 384), (6, 384), (40, 384)),
    composed=(ComposedNet(384, 640, 2, 6, 3, 512, (1, 4), 24),),
    sides=("bf16", "int4:g128"),
    peak=192,
    memory_bytes=2**20,
)
"""The same stages on a CPU in seconds, so that their code is tested where there is no GPU."""


def grid_named(rehearse: bool) -> CudaGrid:
    """The grid of a real calibration or of its rehearsal."""
    return REHEARSAL if rehearse else FULL


def stages(rehearse: bool = False) -> tuple[CudaStage, ...]:
    """In the order of what a first answer needs most. The limits add up to some four minutes; most stages need less."""
    grid = grid_named(rehearse)
    linear = [CudaStage(f"linear {i}", 24.0 if i < 4 else 15.0) for i in range(len(grid.probes))]
    return (
        CudaStage("device", 60.0),
        CudaStage("bandwidth", 15.0),
        CudaStage("peak", 20.0),
        *linear[:4],
        CudaStage("pointwise bf16", 15.0),
        CudaStage("attention flash bf16", 15.0),
        CudaStage("networks", 45.0),
        *linear[4:],
        *(() if rehearse else (CudaStage("pointwise fp16", 8.0), CudaStage("attention flash fp16", 8.0))),
        *(() if rehearse else (CudaStage("pointwise fp32", 8.0), CudaStage("attention flash fp32", 8.0))),
        CudaStage("attention math bf16", 8.0),
        CudaStage("again", 15.0),
    )
