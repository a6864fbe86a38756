"""Calibration of what torch computes on images by other code for each order in memory: pooling, and norms of groups."""

from collections.abc import Callable, Iterator
from typing import Any

from ridgepoint.measurement.calibrate.grid import FAR_GROUPS, GROUP_GRID, POOL_GRID
from ridgepoint.measurement.calibrate.linear import DTYPES
from ridgepoint.measurement.calibrate.pointwise import Made, timed
from ridgepoint.measurement.calibrate.pool import filler, weight_stream
from ridgepoint.workload import Pointwise, laid_out

__all__ = ["far_image_samples", "image_samples"]


def image_samples(act: str, seconds: float, cache_bytes: float) -> Iterator[dict[str, Any]]:
    """A sample per kind of pooling, order and shape, and per shape of a norm of groups with channels last."""
    import torch
    from torch.nn import functional as F

    with torch.inference_mode():
        for kind, pool in (("pool", F.max_pool2d), ("avg_pool", F.avg_pool2d)):
            for last in (False, True):
                for shape in POOL_GRID:
                    op, made = _pool(kind, pool, last, shape, act)
                    yield _sample("pointwise", op, made, seconds, cache_bytes)
        for groups in GROUP_GRID:
            yield _sample("pointwise", *_group_norm(groups, act), seconds, cache_bytes)


def far_image_samples(act: str, seconds: float, cache_bytes: float) -> Iterator[dict[str, Any]]:
    """Norms of groups with channels last on tensors that no cache holds."""
    import torch

    with torch.inference_mode():
        for groups in FAR_GROUPS:
            yield _sample("far", *_group_norm(groups, act), seconds, cache_bytes)


def _pool(
    kind: str, pool: Callable[..., Any], last: bool, shape: tuple[int, int, int, int], act: str
) -> tuple[Pointwise, Made]:
    """Windows of noise behind a relu; a row is an output, its columns are the window."""
    import torch

    planes, side, window, stride = shape
    x = torch.randn(1, planes, side, side).relu_().to(getattr(torch, DTYPES[act]))
    x = x.to(memory_format=torch.channels_last) if last else x
    outputs = pool(x, window, stride).numel()
    op = Pointwise("pool", "other", kind, outputs, window**2, act, pixels=outputs / planes)
    return laid_out(op, last), (lambda: pool(x, window, stride), (x,))  # type: ignore[return-value]


def _group_norm(shape: tuple[int, int, int, int], act: str) -> tuple[Pointwise, Made]:
    """Items, groups, channels of a group, height and width."""
    import torch
    from torch import nn

    items, groups, channels, side = shape
    x = filler(items, groups * channels, side, side).to(getattr(torch, DTYPES[act]), copy=True)
    x, module = x.to(memory_format=torch.channels_last), nn.GroupNorm(groups, groups * channels).to(x.dtype)
    op = Pointwise("norm", "other", "group_norm", items * groups, channels * side**2, act, pixels=side**2)
    return laid_out(op, last=True), (lambda: module(x), (x,))  # type: ignore[return-value]


def _sample(probe: str, op: Pointwise, made: Made, seconds: float, cache_bytes: float) -> dict[str, Any]:
    timing = timed(made, seconds, weight_stream(cache_bytes))
    return {
        "probe": probe, "kind": op.kind, "act": op.dtype, "rows": float(op.rows), "cols": float(op.cols),
        "seconds": timing.seconds, "spread": timing.spread, "n_samples": timing.samples,
    }  # fmt: skip
