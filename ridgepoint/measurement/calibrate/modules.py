"""Calibration of what modules beyond decoders are made of: convolutions, products of activations, pooling, softmax, copies."""

from collections.abc import Callable, Iterator
from dataclasses import asdict
from typing import Any

from ridgepoint.measurement.calibrate.grid import (
    CONV_SHAPES,
    FAR_GRID,
    MATMUL_SHAPES,
    POINTWISE_GRID,
    SHARED_SHAPES,
    ConvShape,
)
from ridgepoint.measurement.calibrate.images import far_image_samples, image_samples
from ridgepoint.measurement.calibrate.linear import DTYPES
from ridgepoint.measurement.calibrate.pointwise import KINDS, Made, timed
from ridgepoint.measurement.calibrate.pool import filler, weight_stream

__all__ = ["MODULE_KINDS", "conv_samples", "far_samples", "matmul_samples", "module_kind_samples"]


def conv_samples(act: str, layout: str, seconds: float, cache_bytes: float) -> Iterator[dict[str, Any]]:
    """A sample per shape; weights and inputs lie as they do in a network: weights cold, the input just written."""
    import torch

    stream, dtype = weight_stream(cache_bytes), getattr(torch, DTYPES[act])
    with torch.inference_mode():
        for shape in CONV_SHAPES:
            timing = timed(_conv(shape, dtype, layout), seconds, stream)
            yield {
                "probe": "conv", "act": act, "layout": layout, **asdict(shape),
                "seconds": timing.seconds, "spread": timing.spread, "n_samples": timing.samples,
            }  # fmt: skip


def _conv(shape: ConvShape, dtype: Any, layout: str) -> Made:
    import torch
    from torch import nn

    made = nn.ConvTranspose2d if shape.transposed else nn.Conv2d
    padding = 0 if shape.transposed or shape.window == shape.stride else shape.window // 2
    module = made(shape.channels_in, shape.n, shape.window, shape.stride, padding, groups=shape.groups).to(dtype)
    x = filler(shape.batch, shape.channels_in, shape.side, shape.side).to(dtype, copy=True)
    if layout:
        x, module = x.to(memory_format=torch.channels_last), module.to(memory_format=torch.channels_last)
    return lambda: module(x), (x,)


def matmul_samples(act: str, seconds: float, cache_bytes: float) -> Iterator[dict[str, Any]]:
    """A sample per shape of x[b, m, k] z[b, k, n], z laid out as a transposed view, as keys are."""
    import torch

    stream, dtype = weight_stream(cache_bytes), getattr(torch, DTYPES[act])
    with torch.inference_mode():
        for (batch, m, n, k), shared in (*((x, False) for x in MATMUL_SHAPES), *((x, True) for x in SHARED_SHAPES)):
            x = (
                filler(m, batch, k).to(dtype, copy=True).transpose(0, 1)
                if shared
                else filler(batch, m, k).to(dtype, copy=True)
            )
            z = filler(n, k).to(dtype, copy=True) if shared else filler(batch, n, k).to(dtype, copy=True)
            step = lambda x=x, z=z: torch.matmul(x, z.transpose(-2, -1))  # noqa: E731
            timing = timed((step, (x,) if shared else (x, z)), seconds, stream)
            yield {
                "probe": "matmul", "act": act, "batch": batch, "m": m, "n": n, "k": k, "shared": shared,
                "seconds": timing.seconds, "spread": timing.spread, "n_samples": timing.samples,
            }  # fmt: skip


def module_kind_samples(act: str, seconds: float, cache_bytes: float) -> Iterator[dict[str, Any]]:
    """A sample per kind and grid point."""
    for kind, build in MODULE_KINDS.items():
        for rows, cols in ((1, 1),) if kind == "view" else POINTWISE_GRID:
            yield _sample("pointwise", kind, build, rows, cols, act, seconds, cache_bytes)
    yield from image_samples(act, seconds, cache_bytes)


def far_samples(act: str, seconds: float, cache_bytes: float) -> Iterator[dict[str, Any]]:
    """A sample per kind on tensors that no cache holds."""
    for kind, build in {**{k: KINDS[k] for k in _FAR_DECODER_KINDS}, **MODULE_KINDS}.items():
        if kind != "view":
            yield _sample("far", kind, build, *FAR_GRID, act, seconds, cache_bytes)
    yield from far_image_samples(act, seconds, cache_bytes)


_FAR_DECODER_KINDS = ("rms_norm", "layer_norm", "add", "silu_mul", "gelu_mul", "gelu", "relu", "scale")


def _sample(
    probe: str, kind: str, build: Callable[[int, int, Any], Made], rows: int, cols: int, act: str,
    seconds: float, cache_bytes: float,
) -> dict[str, Any]:  # fmt: skip
    import torch

    with torch.inference_mode():
        made = build(rows, cols, getattr(torch, DTYPES[act]))
        timing = timed(made, seconds, weight_stream(cache_bytes))
    return {
        "probe": probe, "kind": kind, "act": act, "rows": rows, "cols": cols,
        "seconds": timing.seconds, "spread": timing.spread, "n_samples": timing.samples,
    }  # fmt: skip


def _of(function: Callable[[Any], object]) -> Callable[[int, int, Any], Made]:
    """x[rows, 1, cols] into `function`."""

    def build(rows: int, cols: int, dtype: Any) -> Made:
        x = filler(rows, 1, cols).to(dtype, copy=True)
        return lambda: function(x), (x,)

    return build


def _softmax(x: Any) -> object:
    return x.softmax(-1)


def _gelu_erf(x: Any) -> object:
    from torch.nn import functional as F

    return F.gelu(x)


def _sigmoid(x: Any) -> object:
    return x.sigmoid()


def _reduce(x: Any) -> object:
    return x.mean(-1)


def _copy(x: Any) -> object:
    return x.clone()


def _transpose(rows: int, cols: int, dtype: Any) -> Made:
    x = filler(1, rows, cols).to(dtype, copy=True)
    return lambda: x.transpose(1, 2).contiguous(), (x,)


def _view(rows: int, cols: int, dtype: Any) -> Made:
    x = filler(8, 8).to(dtype, copy=True)
    return lambda: x.view(64), (x,)


def _batch_norm(rows: int, cols: int, dtype: Any) -> Made:
    """`rows` channels of one item."""
    from torch import nn

    x, module = filler(1, rows, cols).to(dtype, copy=True), nn.BatchNorm1d(rows).eval().to(dtype)
    return lambda: module(x), (x,)


def _group_norm(rows: int, cols: int, dtype: Any) -> Made:
    """`rows` groups of four channels of one item."""
    from torch import nn

    x, module = filler(1, 4 * rows, cols // 4).to(dtype, copy=True), nn.GroupNorm(rows, 4 * rows).to(dtype)
    return lambda: module(x), (x,)


def _instance_norm(rows: int, cols: int, dtype: Any) -> Made:
    """`rows` channels of one item."""
    from torch.nn import functional as F

    x = filler(1, rows, cols).to(dtype, copy=True)
    return lambda: F.instance_norm(x), (x,)


MODULE_KINDS: dict[str, Callable[[int, int, Any], Made]] = {
    "softmax": _of(_softmax),
    "gelu_erf": _of(_gelu_erf),
    "sigmoid": _of(_sigmoid),
    "reduce": _of(_reduce),
    "copy": _of(_copy),
    "transpose": _transpose,
    "batch_norm": _batch_norm,
    "group_norm": _group_norm,
    "instance_norm": _instance_norm,
    "view": _view,
}
