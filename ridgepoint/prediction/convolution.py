"""Which family of kernels torch takes for a convolution on a CPU, and the terms of its law."""

import numpy as np

from ridgepoint.hardware.law_contraction import conv_terms
from ridgepoint.quantity import Array
from ridgepoint.workload import Conv

__all__ = ["FORMS", "form_shares", "passes_of", "terms_of"]

FORMS = (
    "window", "1x1", "native", "native 1x1", "native transposed", "depthwise", "depthwise odd", "grouped", "grouped odd",
    "transposed",
)  # fmt: skip
"""oneDNN's kernels by what decides their rate (odd: channels that do not fill its blocks), and torch's own ("native": im2col
and a product), which it takes for small fp32 inputs and, with one thread, for 1x1 windows of few items."""
_BLOCK = 16
"""Channels that oneDNN's kernels with 512-bit vectors handle together."""
_FEW_CHANNELS = 4
"""The first layer of an image model has a kernel of its own, which does not pad its channels."""
_SMALL_INPUT = 20480
_LARGE_BATCH = 16


def form_shares(op: Conv, threads: int) -> dict[str, Array]:
    """Form -> 1 where torch takes it, along a sweep of the batch 0 elsewhere.

    The rule is torch's own (`ConvParams::use_mkldnn` in aten/src/ATen/native/Convolution.cpp, version 2.13).
    """
    blocked = _blocked_form(op)
    if op.dtype != "fp32":
        return {blocked: 1.0}
    batch = np.asarray(op.batch, float)
    wanted = op.spread | (batch >= _LARGE_BATCH) | (op.window != 1) | (threads > 1)
    worth = (op.groups > 1) | (op.window >= _LARGE_BATCH) | (batch > 1) | (np.asarray(op.inputs) > _SMALL_INPUT)
    mkldnn = np.where(wanted & worth, 1.0, 0.0)
    native = "native 1x1" if op.window == 1 else "native transposed" if op.transposed else "native"
    return {form: share for form, share in ((blocked, mkldnn), (native, 1.0 - mkldnn)) if np.any(share)}


_GROUP_BLOCK = 8
"""Channels of a group, in and out, that oneDNN's blocked kernels take; others go by slower ones."""


def passes_of(op: Conv, form: str) -> float:
    """How often the elements go past: oneDNN's kernels copy channels-first tensors into blocks and back."""
    return 1.0 if op.layout or form.startswith("native") else 3.0


def _blocked_form(op: Conv) -> str:
    if op.form == "depthwise" and op.channels_in % _BLOCK:
        return "depthwise odd"
    if op.form == "grouped" and (op.channels_in // op.groups % _GROUP_BLOCK or op.n // op.groups % _GROUP_BLOCK):
        return "grouped odd"
    return op.form if op.form in ("depthwise", "grouped", "transposed", "1x1") else "window"


def terms_of(op: Conv, form: str) -> tuple[Array, ...]:
    """The terms of the law: products with channels padded to blocks, where the family works in blocks."""
    return conv_terms(op.batch, op.inputs + op.outputs, op.weights, _products(op, form))


def _products(op: Conv, form: str) -> Array:
    inner, outer = op.channels_in // op.groups, op.n
    if form in ("window", "1x1", "transposed"):
        outer = _padded(outer)
        inner = inner if op.layout == "last" or inner <= _FEW_CHANNELS else _padded(inner)
    elif form == "grouped":
        outer = _padded(outer // op.groups) * op.groups
    pixels = op.pixels_in if op.transposed else op.pixels_out
    return op.batch * pixels * inner * outer * op.window


def _padded(channels: int) -> int:
    return -(-channels // _BLOCK) * _BLOCK
