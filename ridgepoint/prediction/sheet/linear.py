"""A linear layer from the datasheet: the matrix product of its weight format, weights from memory."""

import math
from dataclasses import replace

import msgspec
import numpy as np

from ridgepoint.errors import NotSupported
from ridgepoint.prediction.physics.found import Found
from ridgepoint.prediction.physics.gemm import GemmParameters, Loop, gemm_time
from ridgepoint.prediction.physics.gemm_format import FORMATS, GemmFormat
from ridgepoint.prediction.sheet.context import Sheet, Timed, parameters_for
from ridgepoint.quantity import Array
from ridgepoint.workload import Linear

__all__ = ["alike", "format_of", "linear_time"]

_IN_A_NETWORK = Loop(weights=np.inf, acts=1)
"""Weights have left the cache since the last step; activations were just written by the operator before."""
_GRAPH_LAUNCH_S = 1.5e-5
"""What a product and the kernels that quantise for it can cost between kernels of a CUDA graph: the largest that tables of
graphs show. Loops of vLLM's blocked fp8 took 75 to 220 us a call, which is its host."""
_NAMES = {"int8": "int8_wo", "int8:dyn": "sq", "int8:dyn:token": "sq", "fp8": "fp8", "fp8:block": "fp8_block",
          "nvfp4": "nvfp4", "fp32": "fp32", "bf16": "bf16", "fp16": "fp16"}  # fmt: skip


_TWO_OF_FOUR = GemmFormat("2:4", 1 + 1 / 8, 2, 2, ("bf16", "fp16"), products=0.5)
"""Of four weights two in 16 bits and 2 bits for the place of each (Mishra et al. 2021, arXiv 2104.08378)."""
_TWO_OF_FOUR_SIGMA = 0.3
"""Assumed: no kernel for 2:4 was measured; it is taken to reach what the dense kernel of its dtype reaches."""


def format_of(op_weight: str) -> str:
    """Name of a weight format among the matrix products that were measured; NotSupported for others, as NF4."""
    name = "int4_wo" if op_weight.startswith("int4") else _NAMES.get(op_weight, "")
    if not name:
        raise NotSupported(f"no kernel for {op_weight} was measured on a GPU; measured: {', '.join(FORMATS)}")
    return name


def alike(dtype: str) -> tuple[str, ...]:
    """The dtype, and the one whose kernels move and compute alike."""
    return {"bf16": ("bf16", "fp16"), "fp16": ("fp16", "bf16")}.get(dtype, (dtype,))


def linear_time(sheet: Sheet, op: Linear) -> Timed:
    """One call; raises NotSupported where the device cannot multiply in the format."""
    sparse = op.weight == "2:4"
    name = op.dtype if sparse else format_of(op.weight)
    form = _TWO_OF_FOUR if sparse else FORMATS[name]
    form.peak(sheet.device)
    _check_activations(sheet, op.dtype)
    p, found = parameters_for(sheet, "gemm", alike(name), GemmParameters)
    if sparse:
        found = _assumed(sheet, op.dtype, found)
    if p.launch_s > _GRAPH_LAUNCH_S:
        p = msgspec.structs.replace(p, launch_s=_GRAPH_LAUNCH_S)
    n, k = _of_all_adapters(op)
    return Timed(gemm_time(sheet.device, p, form, op.m, n, k, _IN_A_NETWORK), found)


def _assumed(sheet: Sheet, dtype: str, found: Found) -> Found:
    """The dense kernel's parameters with the error of taking them for a sparse one; refuses devices without sparse units."""
    if dtype not in sheet.device.sparse_dtypes:
        skips = ", ".join(sheet.device.sparse_dtypes) or "no dtype"
        raise NotSupported(f"{sheet.device.name} skips 2:4 zeros in {skips}, not in {dtype}, as far as its sources say")
    fit = msgspec.structs.replace(found.fit, variant="2:4")  # a name of its own: its error is not the dense kernel's
    return replace(found, fit=fit, sigma=math.hypot(found.sigma, _TWO_OF_FOUR_SIGMA))


def _of_all_adapters(op: Linear) -> tuple[Array, Array]:
    """Outputs and inputs; of several adapters in one batch the ranks of all side by side, as one product.

    Its bytes are those of segmented kernels (Punica, arXiv 2310.18547), its FLOPs an upper bound: most are with zeros.
    """
    if op.role != "adapter":
        return op.n, op.k
    inward = bool(np.all(np.asarray(op.n) < op.k))
    return (op.n * op.active, op.k) if inward else (op.n, op.k * op.active)


def _check_activations(sheet: Sheet, dtype: str) -> None:
    """Refuse activations that the device has no unit for: what software emulates is not predicted."""
    device = sheet.device
    have = {*device.tensor_flops_per_s, *device.vector_flops_per_s}
    if dtype not in have:
        raise NotSupported(f"{device.name} multiplies no {dtype}; it has {', '.join(sorted(have)) or 'none'}")
