"""Calibration of linear kernels: time by rows and weight shape, with weights from memory and from the cache."""

import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from ridgepoint.errors import NotSupported
from ridgepoint.measurement.calibrate.grid import HOT_SHAPES, LINEAR_SHAPES, TALL_SHAPES, LinearProbe
from ridgepoint.measurement.calibrate.pool import Pool, Timing, fill, filler, summarise, weight_stream
from ridgepoint.workload import format_named

if TYPE_CHECKING:
    from torch import Tensor, nn

__all__ = ["DTYPES", "LinearBench", "neighbours", "probe_bases", "probe_kernel", "residency_samples"]

DTYPES = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}
_HOT_BYTES = 8e6
"""Weights of the hot pool: more than a core's L2, well inside the last-level cache."""
_COLD_FACTOR = 3.0
"""The cold pool holds this many times the last-level cache."""
_FEW_M, _MOST_WIDE_M, _MOST_M = 16, 64, 128
_SLOW_S = 2.0
"""From `_FEW_M` rows on, a kernel that takes longer at so many is measured at no more: its arithmetic decides, row by row."""
_WIDEST_SMALL = 4096
_LEAST_DISPLACING = 700_000
"""Weights of a layer whose calls tell what its kernel displaces."""


class LinearBench:
    """The pools of one kernel, built once and visited in every round of the calibration."""

    def __init__(self, probe: LinearProbe, cache_bytes: float):
        """Raises NotSupported, with the reason, for a kernel that can't run here."""
        self.probe, self.kernel = probe, probe_kernel(probe)
        self._stream = weight_stream(cache_bytes)
        self._bases = probe_bases(probe, self.kernel)
        self._multiples = list(multiples(self.kernel, probe.group))
        small = probe.rung == "naive"
        self._cold = Pool() if small else fill(self._bases, _COLD_FACTOR * cache_bytes)
        self._most_m = max(probe.m)
        self._hot = _hot_pool(probe_bases(probe, self.kernel, HOT_SHAPES) + self._bases)

    @property
    def cold(self) -> "list[tuple[tuple[int, ...], nn.Module, float]]":
        """((n, k), module, bytes) of the middling members of the cold pool: without those that are half of a cache alone,
        and those so small that the code of the calls displaces as much as their weights."""
        form = format_named(self.probe.format)
        members = [(key, module, float(form.weight_bytes(*key))) for key, module in self._cold.members]
        return [m for m in members if m[0][0] <= _WIDEST_SMALL and m[0][0] * m[0][1] >= _LEAST_DISPLACING]

    def samples(self, seconds: float) -> Iterator[dict[str, Any]]:
        """A sample per (m, n, k, hot or cold), each pool visited for `seconds` at each m."""
        import torch

        with torch.inference_mode():
            for m in self.probe.m:
                if m > self._most_m:
                    return
                begin = time.thread_time()
                for name, pool, stream in self._pools(m):
                    for (n, k), timing in _time(pool, m, self.probe.act, seconds, _least(m), stream).items():
                        sample = _sample(self.probe, self.kernel.name, m, n, k, name == "hot", timing)
                        yield {**sample, "multiples": self._multiples}
                if m >= _FEW_M and time.thread_time() - begin > _SLOW_S:
                    self._most_m = m

    def _pools(self, m: int) -> "Iterator[tuple[str, Pool, Callable[[], object] | None]]":
        """Cold weights are those of a pool beyond the cache; from `_FEW_M` on, where a pass over it takes too long, each
        shape once, behind a stream of other weights."""
        if m < _FEW_M and self._cold.members:
            yield "cold", self._cold, None
            yield "hot", self._hot, None
            return
        for wide in (False, True) if m <= _MOST_WIDE_M else (False,):
            members = [(key, module) for key, module, _ in self._bases if (key[0] > _WIDEST_SMALL) == wide]
            yield "cold", Pool(members if m <= _MOST_M else [x for x in members if x[0] in TALL_SHAPES]), self._stream
        if m <= _MOST_WIDE_M:
            yield "hot", self._hot, None


def _least(m: int) -> int:
    return 2 if m <= _MOST_WIDE_M else 1


def residency_samples(cache_bytes: float, seconds: float) -> Iterator[dict[str, Any]]:
    """Seconds per pass of fp32 matrix-vector products whose weights together have a growing size."""
    import torch

    probe = LinearProbe("fp32", "dense", "fp32", (1,))
    kernel = probe_kernel(probe)
    n, k = 640, 896
    size = 4.0 * n * k
    module = kernel.pack(torch.randn(n, k), None, "fp32", 0)
    full = fill([((n, k), module, size)], 5 * cache_bytes)
    with torch.inference_mode():
        for factor in (0.15, 0.25, 0.4, 0.55, 0.7, 0.85, 1.0, 1.25, 1.5, 2.0, 3.0, 5.0):
            members = full.members[: max(2, int(factor * cache_bytes / size))]
            timing = _passes([module for _, module in members], torch.randn(1, k), seconds)
            yield {
                "probe": "residency", "working_set_bytes": size * len(members),
                "seconds": timing.seconds / len(members), "spread": timing.spread, "n_samples": timing.samples,
            }  # fmt: skip


def _passes(modules: "list[nn.Module]", x: "Tensor", seconds: float) -> Timing:
    """Whole passes over the modules: some of them hit and some miss, and a step pays for all. The later half counts: a
    cache takes a dozen passes until it holds what it can of a set that is not much smaller."""
    clock = time.thread_time_ns
    passes: list[int] = []
    start = clock()
    while len(passes) < _LEAST_PASSES or clock() - start < seconds * 1e9:
        before = clock()
        for module in modules:
            module(x)
        passes.append(clock() - before)
    return summarise(passes[len(passes) // 2 :])


_LEAST_PASSES = 6


def probe_kernel(probe: LinearProbe):  # type: ignore[no-untyped-def]
    from ridgepoint.kernels.linear import find

    kernel = find(probe.format.partition(":g")[0], "cpu", rung=probe.rung)[-1]
    reason = kernel.available()
    if reason:
        raise NotSupported(reason)
    return kernel


def probe_bases(
    probe: LinearProbe, kernel: Any, shapes: tuple[tuple[int, int], ...] = LINEAR_SHAPES
) -> list[tuple[tuple[int, ...], "nn.Module", float]]:
    """(shape, packed module, bytes) of each shape."""

    form = format_named(probe.format)
    bases = []
    for n, k in shapes:
        weight = filler(n, k).mul_(0.02)
        bases.append(((n, k), kernel.pack(weight, None, probe.act, probe.group), float(form.weight_bytes(n, k))))
    return bases


def _hot_pool(bases: list[tuple[tuple[int, ...], "nn.Module", float]]) -> Pool:
    pool = Pool()
    for (n, k), module, size in bases:
        known = any(key == (n, k) for key, _ in pool.members)
        if n <= _WIDEST_SMALL and not known and pool.bytes + size <= _HOT_BYTES:
            pool.members.append(((n, k), module))
            pool.bytes += size
    return pool


def _time(
    pool: Pool, m: int, act: str, seconds: float, least: int, stream: Callable[[], object] | None
) -> dict[tuple[int, ...], Timing]:
    import torch

    dtype = getattr(torch, DTYPES[act])
    inputs: dict[int, Tensor] = {}

    def call(key: tuple[int, ...], module: "nn.Module") -> Callable[[], object]:
        x = inputs.setdefault(key[1], torch.randn(m, key[1]).to(dtype))
        return lambda: module(x)

    return pool.passes(call, seconds, least, neighbours(dtype, inputs, stream))


def neighbours(
    dtype: Any, inputs: "dict[int, Tensor]", stream: Callable[[], object] | None
) -> Callable[[tuple[int, ...]], object]:
    """The small operators that stand between two linear layers, as in a network: they displace a kernel's code, and the
    last of them has just written the layer's input."""
    import torch

    from ridgepoint.kernels.pointwise import Add, RmsNorm, SiluMul

    x, norm, silu, add = torch.randn(1, 640).to(dtype), RmsNorm(640, dtype=dtype), SiluMul(), Add()

    def between(key: tuple[int, ...]) -> object:
        if stream is not None:
            stream()
        add(norm(x), silu(x, x))
        return inputs[key[1]].mul_(1.0)

    return between


def multiples(kernel: Any, group: int) -> tuple[int, int]:
    """The smallest powers of two of which n and k have to be multiples, as the kernel itself checks them."""
    big = 1024

    def least(takes: Callable[[int], bool]) -> int:
        return next((p for p in (1, 2, 4, 8, 16, 32, 64, 128) if all(takes(p * odd) for odd in (3, 5, 7))), 256)

    return (
        least(lambda n: not kernel.check(n, big, group)),
        least(lambda k: not kernel.check(big, k, group)),
    )


def _sample(probe: LinearProbe, kernel: str, m: int, n: int, k: int, hot: bool, timing: Timing) -> dict[str, Any]:
    return {
        "probe": "linear", "kernel": kernel, "format": probe.format, "rung": probe.rung, "act": probe.act,
        "m": m, "n": n, "k": k, "hot": hot,
        "seconds": timing.seconds, "spread": timing.spread, "n_samples": timing.samples,
    }  # fmt: skip
