"""Calibration of sparse rows: time by rows of activations, weight shape and density, from memory and from the cache."""

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from ridgepoint.errors import NotSupported
from ridgepoint.measurement.calibrate.grid import LinearProbe
from ridgepoint.measurement.calibrate.linear import LinearBench, neighbours
from ridgepoint.measurement.calibrate.pool import Pool, Timing, fill, filler, weight_stream

if TYPE_CHECKING:
    from torch import Tensor, nn

__all__ = ["DENSITIES", "REFERENCE_M", "SPARSE_M", "SPARSE_SHAPES", "reference_samples", "sparse_samples"]

SPARSE_SHAPES: tuple[tuple[int, int], ...] = (
    (1472, 384), (640, 1664), (832, 896), (1408, 1408), (896, 2432), (2432, 896), (448, 5376), (5376, 1152),
)  # fmt: skip
"""(n, k); none is a catalogue model's."""
DENSITIES = (0.04, 0.15, 0.25, 0.4, 0.6)
"""Shares of the weights that are not zero."""
SPARSE_M = (1, 2, 4, 8, 16, 24, 32, 64, 128)
_HOT_BYTES = 8e6
_COLD_FACTOR = 3.0
_FEW_M, _MOST_HOT_M, _MOST_WIDE_M = 16, 64, 32
_WIDEST_SMALL = 4096
_BYTES = 8.0
"""Of a weight that is stored: an fp32 value and a 32-bit column."""

Member = tuple[tuple[int, ...], "nn.Module", float]
"""((n, k, weights stored), module, bytes)."""


def sparse_samples(
    seconds: float, cache_bytes: float, near_bytes: float, first_bytes: float
) -> Iterator[dict[str, Any]]:
    """A `sparse` sample per (m, shape, density, hot or cold); sizes of the last-, second- and first-level cache."""
    import torch

    from ridgepoint.kernels.linear import find

    kernel = find("csr", "cpu", rung="packed")[-1]
    if reason := kernel.available():
        raise NotSupported(reason)
    bases = _bases(kernel)
    cold, stream = fill(bases, _COLD_FACTOR * cache_bytes), weight_stream(cache_bytes)
    hot = _hot(bases)
    with torch.inference_mode():
        for m in SPARSE_M:
            for is_hot, pool, between in _pools(m, cold, hot, bases, stream):
                for key, timing in _time(pool, m, seconds, 2 if m < _FEW_M else 1, between).items():
                    sample = _sample(kernel, m, key, is_hot, timing)
                    yield {**sample, "near_bytes": near_bytes, "first_bytes": first_bytes}


def reference_samples(seconds: float, cache_bytes: float) -> Iterator[dict[str, Any]]:
    """The dense fp32 kernel of the base calibration once more: by how much the machine is faster or slower now than then."""
    probe = LinearProbe("fp32", "dense", "fp32", REFERENCE_M)
    for sample in LinearBench(probe, cache_bytes).samples(seconds):
        yield {**sample, "probe": "sparse reference"}


REFERENCE_M = SPARSE_M


def _bases(kernel: Any) -> list[Member]:
    import torch

    bases = []
    generator = torch.Generator().manual_seed(0)
    for n, k in SPARSE_SHAPES:
        for density in DENSITIES:
            kept = torch.rand(n, k, generator=generator) < density
            module = kernel.pack(filler(n, k).mul_(0.02) * kept, None, "fp32", 0)
            stored = int(kept.sum())
            bases.append(((n, k, stored), module, _BYTES * stored))
    return bases


def _hot(bases: list[Member]) -> Pool:
    pool = Pool()
    for key, module, size in sorted(bases, key=lambda base: base[2]):
        if key[0] <= _WIDEST_SMALL and pool.bytes + size <= _HOT_BYTES:
            pool.members.append((key, module))
            pool.bytes += size
    return pool


def _pools(
    m: int, cold: Pool, hot: Pool, bases: list[Member], stream: Callable[[], object]
) -> Iterator[tuple[bool, Pool, Callable[[], object] | None]]:
    """Cold weights are those of a pool beyond the cache; from `_FEW_M` on each matrix once, behind a stream of others."""
    if m < _FEW_M:
        yield False, cold, None
    else:
        members = [(key, module) for key, module, _ in bases if key[0] <= _WIDEST_SMALL or m <= _MOST_WIDE_M]
        yield False, Pool(members), stream
    if m <= _MOST_HOT_M:
        yield True, hot, None


def _time(
    pool: Pool, m: int, seconds: float, least: int, stream: Callable[[], object] | None
) -> dict[tuple[int, ...], Timing]:
    import torch

    inputs: dict[int, Tensor] = {}

    def call(key: tuple[int, ...], module: "nn.Module") -> Callable[[], object]:
        x = inputs.setdefault(key[1], torch.randn(m, key[1]))
        return lambda: module(x)

    return pool.passes(call, seconds, least, neighbours(torch.float32, inputs, stream))


def _sample(kernel: Any, m: int, key: tuple[int, ...], hot: bool, timing: Timing) -> dict[str, Any]:
    n, k, stored = key
    return {
        "probe": "sparse", "kernel": kernel.name, "rung": kernel.rung, "act": "fp32",
        "m": m, "n": n, "k": k, "stored": stored, "hot": hot,
        "seconds": timing.seconds, "spread": timing.spread, "n_samples": timing.samples,
    }  # fmt: skip
