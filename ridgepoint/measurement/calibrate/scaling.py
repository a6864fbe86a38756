"""How much all threads gain over one, by kernel and rows; wall time, so a busy machine is told."""

import time
from collections.abc import Callable, Iterator
from statistics import median
from typing import Any

from ridgepoint.errors import NotSupported
from ridgepoint.measurement.busy import load_between, snapshot, too_busy
from ridgepoint.measurement.calibrate.grid import LinearProbe
from ridgepoint.measurement.calibrate.linear import DTYPES, probe_bases, probe_kernel
from ridgepoint.measurement.calibrate.pool import fill

__all__ = ["scaling_samples"]

_ROWS = (1, 16)


def scaling_samples(
    probes: tuple[LinearProbe, ...], threads: int, cache_bytes: float, seconds: float
) -> Iterator[dict[str, Any]]:
    """Speed-up of `threads` threads over one: linear kernels by rows, one attention shape, one pointwise shape.

    Threads that wait for one another lose by hundreds when other work holds a core, so a busy machine gives no figure:
    its load is judged over the whole probe, which is long enough for the counters of the kernel.
    """
    import torch

    before, start = torch.get_num_threads(), snapshot()
    found: list[tuple[str, int, float]] = []
    try:
        with torch.inference_mode():
            for probe in probes:
                try:
                    kernel = probe_kernel(probe)
                    pool = fill(probe_bases(probe, kernel), cache_bytes)
                except NotSupported:
                    continue
                for m in _ROWS:
                    steps = [_step(module, m, key[1], probe.act) for key, module in pool.members]
                    found.append((kernel.name, m, _speedup(torch, steps, threads, seconds)))
            for subject, rows, step in _others(torch):
                found.append((subject, rows, _speedup(torch, [step], threads, seconds)))
    finally:
        torch.set_num_threads(before)
    busy = too_busy(load_between(start, snapshot()))
    for subject, rows, speedup in found:
        sample = {"probe": "scaling", "subject": subject, "m": rows, "threads": threads, "speedup": speedup}
        yield {**sample, "absent": busy} if busy else sample


def _step(module: Any, m: int, k: int, act: str) -> Callable[[], object]:
    import torch

    x = torch.randn(m, k).to(getattr(torch, DTYPES[act]))
    return lambda: module(x)


def _others(torch: Any) -> Iterator[tuple[str, int, Callable[[], object]]]:
    from ridgepoint.kernels.attention import Attention
    from ridgepoint.kernels.pointwise import SiluMul

    attention, silu = Attention(), SiluMul()
    for batch in (1, 16):
        q, k, v = (torch.randn(batch, 8, t, 64) for t in (1, 256, 256))
        yield "attention", batch, lambda q=q, k=k, v=v: attention(q, k, v)
    for rows in (1, 64):
        x = torch.randn(rows, 1536)
        yield "pointwise", rows, lambda x=x: silu(x, x)


def _speedup(torch: Any, steps: list[Callable[[], object]], threads: int, seconds: float) -> float:
    """Interleaved passes of one and of all threads: the median of the pairs' ratios."""
    ratios: list[float] = []
    until = time.perf_counter() + seconds
    while len(ratios) < _LEAST_PAIRS or time.perf_counter() < until:
        pair = []
        for count in (1, threads):
            torch.set_num_threads(count)
            steps[0]()
            start = time.perf_counter()
            for step in steps:
                step()
            pair.append(time.perf_counter() - start)
        ratios.append(pair[0] / pair[1])
    return median(ratios)


_LEAST_PAIRS = 3
