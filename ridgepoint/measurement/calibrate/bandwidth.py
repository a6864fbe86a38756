"""Read and copy bandwidth of each cache level and of memory, by differences of two sizes, so that dispatch cancels."""

import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from ridgepoint.measurement.busy import load_between, snapshot, too_busy

__all__ = ["bandwidth_samples", "clock_samples", "peak_samples"]

_FLOATS = 4


def bandwidth_samples(cache_sizes: dict[str, float], threads: int, seconds: float) -> Iterator[dict[str, Any]]:
    """A sample per level: bytes/s of reading (`torch.sum` of a repeated view) and of copying (bytes read and written).

    `cache_sizes`: {"L1d": bytes, "L2": …, "L3": …} of one core's view; memory is taken at 5 times the last.
    One thread is timed in its CPU time, several in wall time.
    """
    import torch

    clock = time.thread_time_ns if threads == 1 else time.perf_counter_ns
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        start, found = snapshot(), []
        for name, size in _working_sets(cache_sizes).items():
            read = _read_seconds(torch, size, clock, seconds)
            copy = _copy_seconds(torch, size, clock, seconds)
            found.append({
                "probe": "bandwidth", "level": name, "threads": threads, "working_set_bytes": size,
                "read_bytes_per_s": size / read, "copy_bytes_per_s": None if copy is None else size / copy,
                "clock": clock.__name__,
            })  # fmt: skip
        busy = too_busy(load_between(start, snapshot())) if threads > 1 else ""
        yield from ({**sample, "absent": busy} if busy else sample for sample in found)
    finally:
        torch.set_num_threads(before)


def _working_sets(cache_sizes: dict[str, float]) -> dict[str, int]:
    """Half of each level, and far beyond the last."""
    inside = {name: int(size / 2) for name, size in cache_sizes.items()}
    return {**inside, "DRAM": int(5 * max(cache_sizes.values(), default=32e6))}


def _read_seconds(torch: Any, size: int, clock: Callable[[], int], seconds: float) -> float:
    count = size // _FLOATS
    data = torch.ones(count)
    repeats = max(1, int(4e6 / size))
    view = data.expand(repeats, count) if repeats > 1 else data.view(1, count)
    out = torch.empty(view.shape[0])
    step = lambda: torch.sum(view, dim=1, out=out)  # noqa: E731
    return _best(step, clock, seconds) / view.shape[0]


def _copy_seconds(torch: Any, size: int, clock: Callable[[], int], seconds: float) -> float | None:
    """Seconds to copy half of `size` into the other half; None where the copy drowns in what a call costs."""
    half = size // _FLOATS // 2
    source, target = torch.ones(half), torch.empty(half)
    if size > _LARGE_BYTES:
        return _best(lambda: target.copy_(source), clock, seconds)
    # A call costs more than the copy in L1: take the slope between two sizes of the same level.
    small_source, small_target = source[: half // 4], target[: half // 4]
    whole = _best(lambda: target.copy_(source), clock, seconds, calls=_MANY)
    quarter = _best(lambda: small_target.copy_(small_source), clock, seconds, calls=_MANY)
    slope = (whole - quarter) / 0.75
    return slope if slope > _VISIBLE * whole else None


_LARGE_BYTES = 1e6
_MANY = 300
_VISIBLE = 0.1


def _best(step: Callable[[], object], clock: Callable[[], int], seconds: float, calls: int = 4) -> float:
    step()
    samples, start = [], clock()
    while len(samples) < 4 or clock() - start < seconds * 1e9:
        before = clock()
        for _ in range(calls):
            step()
        samples.append((clock() - before) / calls)
    return float(np.percentile(samples, 20)) * 1e-9


def peak_samples(dtypes: tuple[str, ...], threads: int, seconds: float) -> Iterator[dict[str, Any]]:
    """Attained rate by dtype, the better of a square product and of a cached matrix-vector product (m = 2).

    It is what the roofline takes as this machine's peak. `seconds` and `seconds_twice` are of the square product and
    of one with twice its rows.
    """
    import torch

    clock = time.thread_time_ns if threads == 1 else time.perf_counter_ns
    size = 768
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        for name in dtypes:
            once = _best(_product(torch, name, size, size), clock, seconds, calls=1)
            twice = _best(_product(torch, name, 2 * size, size), clock, seconds, calls=1)
            narrow = _best(_product(torch, name, 2, 2 * size), clock, seconds, calls=4)
            yield {
                "probe": "peak", "dtype": name, "threads": threads, "seconds": once, "seconds_twice": twice,
                "flops_per_s": max(2 * size**3 / once, 4 * size**3 / twice, 16 * size**2 / narrow),
            }  # fmt: skip
    finally:
        torch.set_num_threads(before)


def _product(torch: Any, name: str, m: int, size: int) -> Callable[[], object]:
    if name == "int8":
        a, b = torch.ones(m, size, dtype=torch.int8), torch.ones(size, size, dtype=torch.int8)
        return lambda: torch._int_mm(a, b.t())
    from ridgepoint.kernels.ladder import TORCH_DTYPES

    dtype = TORCH_DTYPES[name]
    x, w = torch.randn(m, size).to(dtype), torch.randn(size, size).to(dtype)
    return lambda: torch.nn.functional.linear(x, w)


def clock_samples() -> Iterator[dict[str, Any]]:
    """Resolution of the two clocks: the smallest step that they show, and the cost of a call."""
    for clock in (time.thread_time_ns, time.perf_counter_ns):
        stamps = np.array([clock() for _ in range(20000)])
        steps = np.diff(stamps)
        yield {
            "probe": "clock", "clock": clock.__name__, "resolution_s": float(steps[steps > 0].min()) * 1e-9,
            "call_s": float(np.median(steps)) * 1e-9,
        }  # fmt: skip
