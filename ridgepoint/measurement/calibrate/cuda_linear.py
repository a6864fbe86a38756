"""Calibration of linear kernels on a GPU: device time by rows and weight shape, cold and hot, and their launches."""

import time
from collections.abc import Callable, Iterator
from copy import deepcopy
from typing import TYPE_CHECKING, Any

from ridgepoint.errors import NotSupported
from ridgepoint.measurement.calibrate.cuda_grid import CudaGrid
from ridgepoint.measurement.calibrate.cuda_watch import Span, Watch
from ridgepoint.measurement.calibrate.grid import LinearProbe
from ridgepoint.measurement.calibrate.linear import DTYPES
from ridgepoint.workload import format_named

if TYPE_CHECKING:
    from torch import nn

__all__ = ["linear"]

_COLD_FACTOR = 3.0
_MOST_COPIES = 200
_HOT_SHARE = 0.25
"""Weights up to this share of the L2 are measured hot too: each half of a split L2 must hold them."""
_HOT_M = 64
_MOST_FLOPS = {"fp32": 3e11}
_MOST_FLOPS_OTHERS = 1.2e12
"""Points beyond cost tens of milliseconds a call and say what smaller ones said: bound by arithmetic."""
_LAUNCH_M = (1, 64)


def linear(
    watch: Watch, grid: CudaGrid, probe: LinearProbe, until: float, shapes: int = 0, rows: tuple[int, ...] = ()
) -> Iterator[dict[str, Any]]:
    """Samples of one kernel; shapes in the outer loop, so that one cut short has every m.

    `shapes`: only the first so many; `rows`: only these m. Raises NotSupported for a kernel that can't run here.
    """
    kernel = _kernel(probe, watch.device)
    for number, (n, k) in enumerate(grid.linear[: shapes or None]):
        if time.monotonic() > until:
            return
        reason = kernel.check(n, k, probe.group)
        if reason:
            yield _absent(probe, n, k, reason)
            continue
        try:
            pool = _pool(kernel, probe, watch, n, k)
        except RuntimeError as error:
            watch.check()
            yield _absent(probe, n, k, str(error).splitlines()[0])
            continue
        for m in rows or probe.m:
            yield from _at(watch, probe, kernel.name, pool, (m, n, k), number == 0)


def _at(
    watch: Watch, probe: LinearProbe, kernel: str, pool: list["nn.Module"], shape: tuple[int, int, int], first: bool
) -> Iterator[dict[str, Any]]:
    import torch

    m, n, k = shape
    if 2.0 * m * n * k > _MOST_FLOPS.get(probe.act, _MOST_FLOPS_OTHERS):
        return
    x = torch.randn(m, k, device=watch.device).to(getattr(torch, DTYPES[probe.act]))
    steps: list[Callable[[], object]] = [lambda module=module: module(x) for module in pool]  # type: ignore[misc]
    try:
        yield _sample(probe, kernel, shape, False, watch.span(steps))
        size = float(format_named(probe.format).weight_bytes(n, k))
        if m <= _HOT_M and size <= _HOT_SHARE * watch.l2_bytes:
            yield _sample(probe, kernel, shape, True, watch.span(steps[:1], 0.004))
        if first and m in _LAUNCH_M:
            yield {"probe": "launch", "subject": kernel, "act": probe.act, "m": m, "host_s": watch.host_s(steps)}
    except RuntimeError as error:  # a shape that the kernel refuses, or no memory for it
        watch.check()
        yield {**_absent(probe, n, k, str(error).splitlines()[0]), "m": m}


def _kernel(probe: LinearProbe, device: str) -> Any:
    from ridgepoint.kernels.linear import find

    rungs = find(probe.format.partition(":g")[0], device, rung=probe.rung)
    if not rungs:
        raise NotSupported(f"{probe.format} has no {probe.rung} kernel on {device}")
    reason = rungs[-1].available()
    if reason:
        raise NotSupported(reason)
    return rungs[-1]


def _pool(kernel: Any, probe: LinearProbe, watch: Watch, n: int, k: int) -> "list[nn.Module]":
    """Copies of one packed layer, together three times the L2."""
    import torch

    weight = torch.randn(n, k, device=watch.device).mul_(0.02)
    module = kernel.pack(weight, None, probe.act, probe.group)
    size = float(format_named(probe.format).weight_bytes(n, k))
    copies = max(2, min(_MOST_COPIES, int(_COLD_FACTOR * watch.l2_bytes / size) + 1))
    return [module, *(deepcopy(module) for _ in range(copies - 1))]


def _sample(probe: LinearProbe, kernel: str, shape: tuple[int, int, int], hot: bool, span: Span) -> dict[str, Any]:
    m, n, k = shape
    return {
        "probe": "linear", "kernel": kernel, "format": probe.format, "rung": probe.rung, "act": probe.act,
        "m": m, "n": n, "k": k, "hot": hot, **span.fields(),
    }  # fmt: skip


def _absent(probe: LinearProbe, n: int, k: int, reason: str) -> dict[str, Any]:
    of = f"linear {probe.format} {probe.rung} {probe.act}"
    return {"probe": "absent", "of": of, "n": n, "k": k, "absent": reason}
