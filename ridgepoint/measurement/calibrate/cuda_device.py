"""What a GPU is and can do at most: its facts and state, bandwidth of its memory and L2, and peak rates by dtype."""

import time
from collections.abc import Callable, Iterator
from typing import Any

from ridgepoint.measurement.calibrate.cuda_watch import Watch
from ridgepoint.measurement.clock import CudaEvents, resolution
from ridgepoint.measurement.cuda import device_facts, gpu_state

__all__ = ["bandwidth", "device", "peaks"]

Sample = dict[str, Any]
_PEAK_DTYPES = ("bf16", "fp16", "fp32", "int8", "fp8")
_L2_PARTS = (8, 3)
"""Two working sets inside the L2, as divisors of its size; their difference is free of launch costs."""


def device(watch: Watch, rehearse: bool) -> Iterator[Sample]:
    """Facts, state at rest, the clocks' resolution, and what one empty launch costs, alone and inside a graph."""
    import torch

    if rehearse:
        facts = {"gpu": "none: rehearsal on the CPU", "gpu_memory_bytes": 2**33, "gpu_l2_bytes": int(watch.l2_bytes)}
    else:
        facts = device_facts()
    yield {"probe": "device", **facts, "torch": torch.__version__}
    yield {"probe": "gpu_state", "when": "at rest", **(gpu_state() if not rehearse else {})}
    if not rehearse:
        found = resolution(CudaEvents(cold=False), 200)
        yield {"probe": "clock", "clock": "CUDA events", "resolution_s": found.smallest_s, "call_s": found.cost_s}
    x = torch.ones(1, device=watch.device)
    step = lambda: x.add_(1.0)  # noqa: E731
    span = watch.span([step])
    yield {"probe": "launch", "subject": "one tiny kernel", "act": "", "m": 1, "host_s": watch.host_s([step])}
    yield {"probe": "graph_node", **span.fields()}


def bandwidth(watch: Watch, memory_bytes: int) -> Iterator[Sample]:
    """Bytes/s of reading (a sum) and copying (bytes read and written) from memory and from the L2."""
    read, copy = (_traffic(watch, memory_bytes, kind) for kind in ("read", "copy"))
    yield {
        "probe": "bandwidth", "level": "DRAM", "threads": 1, "working_set_bytes": memory_bytes,
        "read_bytes_per_s": memory_bytes / read, "copy_bytes_per_s": memory_bytes / copy,
    }  # fmt: skip
    small, large = (int(watch.l2_bytes / part) // 64 * 64 for part in _L2_PARTS)
    rates = {}
    for kind in ("read", "copy"):
        apart = _traffic(watch, large, kind) - _traffic(watch, small, kind)
        rates[f"{kind}_bytes_per_s"] = (large - small) / apart if apart > 0 else None
    if all(rates.values()):
        yield {"probe": "bandwidth", "level": "L2", "threads": 1, "working_set_bytes": large, **rates}
    else:
        yield {"probe": "absent", "of": "bandwidth L2", "absent": "the larger set took no longer than the smaller"}


def _traffic(watch: Watch, size: int, kind: str) -> float:
    """Seconds of one pass over `size` bytes, again and again over the same ones."""
    import torch

    if kind == "read":
        data = torch.randn(size // 4, device=watch.device)
        out = torch.empty((), device=watch.device)
        return watch.span([lambda: torch.sum(data, dim=0, out=out)], 0.03).seconds
    source = torch.randn(size // 8, device=watch.device)
    target = torch.empty_like(source)
    return watch.span([lambda: target.copy_(source)], 0.03).seconds


def peaks(watch: Watch, size: int) -> Iterator[Sample]:
    """Attained rate of a large square product of random numbers by dtype; clocks and power right behind it."""
    for name in _PEAK_DTYPES:
        try:
            once = watch.span([_product(name, size, size, watch.device)], 0.1).seconds
            twice = watch.span([_product(name, 2 * size, size, watch.device)], 0.1).seconds
        except Exception as error:  # this GPU or this torch has no product in the dtype
            watch.check()
            yield {"probe": "absent", "of": f"peak {name}", "absent": f"{type(error).__name__}: {error}"[:300]}
            continue
        rate = 2.0 * size**3 * max(1 / once, 2 / twice)
        yield {
            "probe": "peak",
            "dtype": name,
            "threads": 1,
            "seconds": once,
            "seconds_twice": twice,
            "flops_per_s": rate,
        }
    if watch.device == "cuda":
        yield {"probe": "gpu_state", "when": "under load", **_state_under_load(watch, size)}


def _state_under_load(watch: Watch, size: int) -> dict[str, float]:
    step = _product("bf16", size, size, watch.device)
    until = time.monotonic() + 1.0
    state: dict[str, float] = {}
    while time.monotonic() < until:
        for _ in range(20):
            step()
        state = gpu_state()
        watch.check()
    return state


def _product(name: str, m: int, size: int, device: str) -> Callable[[], object]:
    import torch

    from ridgepoint.kernels.ladder import TORCH_DTYPES

    if name == "int8":
        a, b = (torch.randint(-127, 128, (rows, size), dtype=torch.int8, device=device) for rows in (m, size))
        return lambda: torch._int_mm(a, b.t())
    x, w = torch.randn(m, size, device=device), torch.randn(size, size, device=device)
    if name == "fp8":
        if device == "cpu":
            raise RuntimeError("a CPU would emulate fp8, and emulation is never timed")
        left, right = x.to(torch.float8_e4m3fn), w.to(torch.float8_e4m3fn)
        one = torch.ones((), device=device)
        return lambda: torch._scaled_mm(left, right.t(), one, one, out_dtype=torch.bfloat16, use_fast_accum=True)
    left, right = x.to(TORCH_DTYPES[name]), w.to(TORCH_DTYPES[name])
    return lambda: torch.nn.functional.linear(left, right)
