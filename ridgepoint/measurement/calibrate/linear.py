"""Calibration of linear kernels: time by rows and weight shape, with weights from memory and from the cache."""

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from ridgepoint.errors import NotSupported
from ridgepoint.measurement.calibrate.grid import LINEAR_SHAPES, LinearProbe
from ridgepoint.measurement.calibrate.pool import Pool, Timing, fill
from ridgepoint.workload import format_named

if TYPE_CHECKING:
    from torch import Tensor, nn

__all__ = ["DTYPES", "LinearBench", "probe_bases", "probe_kernel", "residency_samples"]

DTYPES = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}
_HOT_BYTES = 8e6
"""Weights of the hot pool: more than a core's L2, well inside the last-level cache."""
_COLD_FACTOR = 3.0
"""The cold pool holds this many times the last-level cache."""
_COMPUTE_BOUND_M = 64
_WIDEST_SMALL = 4096


class LinearBench:
    """The pools of one kernel, built once and visited in every round of the calibration."""

    def __init__(self, probe: LinearProbe, cache_bytes: float):
        """Raises NotSupported, with the reason, for a kernel that can't run here."""
        self.probe, self.kernel = probe, probe_kernel(probe)
        self._bases = probe_bases(probe, self.kernel)
        self._cold = fill(self._bases, _COLD_FACTOR * cache_bytes)
        self._hot = _hot_pool(self._bases)

    def samples(self, seconds: float, most_m: int) -> Iterator[dict[str, Any]]:
        """A sample per (m up to `most_m`, n, k, hot or cold), each pool visited for `seconds` at each m."""
        import torch

        with torch.inference_mode():
            for m in (m for m in self.probe.m if m <= most_m):
                for name, pool in _pools(m, self._cold, self._hot, self._bases):
                    for (n, k), timing in _time(
                        pool, m, self.probe.act, seconds, 4 if m < _COMPUTE_BOUND_M else 2
                    ).items():
                        yield _sample(self.probe, self.kernel.name, m, n, k, name == "hot", timing)


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
            pool = Pool(members, size * len(members))
            timing = _time(pool, 1, "fp32", seconds, least=3)[(n, k)]
            yield {
                "probe": "residency",
                "working_set_bytes": pool.bytes,
                "seconds": timing.seconds,
                "spread": timing.spread,
                "n_samples": timing.samples,
            }


def probe_kernel(probe: LinearProbe):  # type: ignore[no-untyped-def]
    from ridgepoint.kernels.linear import find

    kernel = find(probe.format.partition(":g")[0], "cpu", rung=probe.rung)[-1]
    reason = kernel.available()
    if reason:
        raise NotSupported(reason)
    return kernel


def probe_bases(probe: LinearProbe, kernel: Any) -> list[tuple[tuple[int, ...], "nn.Module", float]]:
    import torch

    generator = torch.Generator().manual_seed(0)
    form = format_named(probe.format)
    bases = []
    for n, k in LINEAR_SHAPES:
        weight = torch.randn(n, k, generator=generator).mul_(0.02)
        bases.append(((n, k), kernel.pack(weight, None, probe.act, probe.group), float(form.weight_bytes(n, k))))
    return bases


def _hot_pool(bases: list[tuple[tuple[int, ...], "nn.Module", float]]) -> Pool:
    pool = Pool()
    for (n, k), module, size in bases:
        if n <= _WIDEST_SMALL and pool.bytes + size <= _HOT_BYTES:
            pool.members.append(((n, k), module))
            pool.bytes += size
    return pool


def _pools(m: int, cold: Pool, hot: Pool, bases: list) -> Iterator[tuple[str, Pool]]:
    if m < _COMPUTE_BOUND_M:
        yield "cold", cold
        yield "hot", hot
    elif m == _COMPUTE_BOUND_M:
        yield "cold", Pool([(key, module) for key, module, _ in bases])
        yield "hot", hot
    else:
        few = [(key, module) for key, module, _ in bases if key[0] <= _WIDEST_SMALL]
        yield "cold", Pool(few[1:5] if m > 2 * _COMPUTE_BOUND_M else few)


def _time(pool: Pool, m: int, act: str, seconds: float, least: int = 2) -> dict[tuple[int, ...], Timing]:
    import torch

    dtype = getattr(torch, DTYPES[act])
    inputs: dict[int, Tensor] = {}

    def call(key: tuple[int, ...], module: "nn.Module") -> Callable[[], object]:
        x = inputs.setdefault(key[1], torch.randn(m, key[1]).to(dtype))
        return lambda: module(x)

    between = _neighbours(dtype) if m < _COMPUTE_BOUND_M else None
    return pool.passes(call, seconds, least, between)


def _neighbours(dtype: Any) -> Callable[[], object]:
    """The small operators that stand between two linear layers: they displace a kernel's code, as in a network."""
    import torch

    from ridgepoint.kernels.pointwise import Add, RmsNorm, SiluMul

    x, norm, silu, add = torch.randn(1, 640).to(dtype), RmsNorm(640, dtype=dtype), SiluMul(), Add()
    return lambda: add(norm(x), silu(x, x))


def _sample(probe: LinearProbe, kernel: str, m: int, n: int, k: int, hot: bool, timing: Timing) -> dict[str, Any]:
    return {
        "probe": "linear", "kernel": kernel, "format": probe.format, "rung": probe.rung, "act": probe.act,
        "m": m, "n": n, "k": k, "hot": hot,
        "seconds": timing.seconds, "spread": timing.spread, "n_samples": timing.samples,
    }  # fmt: skip
