"""What a rung of a kernel ladder is, and the few checks that several rungs share."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ridgepoint.kernels.codes import Codes, Grid, nearest

__all__ = [
    "TORCH_DTYPES",
    "LinearKernel",
    "PackCodes",
    "multiple_reason",
    "needs_compute_capability",
    "needs_cpu",
    "needs_cuda",
    "packs",
    "relative_error",
]

PackCodes = Callable[[Codes, Tensor | None, str], nn.Module]
"""(codes, bias[n] or None, act dtype name) -> the module that holds them."""

TORCH_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class LinearKernel:
    """One rung: how a linear layer whose weights are stored as `format` is computed on `device`.

    `name` is unique on its device. `pack(weight[n, k] fp32, bias[n] or None, act dtype name, group)` gives a module
    on the weight's device whose forward takes x[..., k] in the act dtype and returns y[..., n]; the module has
    `.kernel` (this name) and `.dequantised() -> [n, k] fp32`, and a deepcopy has its own memory.
    """

    name: str
    format: str
    rung: str
    """"dense", "naive" (dequantise, then dense) or "packed" (a kernel that reads the packed weights), "ort" (ONNX
    Runtime's, which nobody gets who does not name it), "emulated" (its roundings without its speed: for accuracy alone)."""
    acts: tuple[str, ...]
    device: str
    pack: Callable[[Tensor, Tensor | None, str, int], nn.Module]
    check: Callable[[int, int, int], str]
    """`check(n, k, group)`: "" or why this shape cannot run, with the nearest that can."""
    available: Callable[[], str]
    """"" or why this machine or torch cannot run it."""
    grid: Grid | None = None
    """The integers that it stores, for an algorithm that chooses them; None: the packing chooses."""
    pack_codes: PackCodes | None = None
    """Packs codes of `grid` (or of the same with another group)."""


def packs(grid: Grid, pack_codes: PackCodes) -> Callable[[Tensor, Tensor | None, str, int], nn.Module]:
    """`LinearKernel.pack` of a kernel that stores codes: rounds to nearest and packs them. A grid of whole rows stays so."""

    def pack(weight: Tensor, bias: Tensor | None, act: str, group: int) -> nn.Module:
        return pack_codes(nearest(weight, grid.grouped(group) if grid.group else grid), bias, act)

    return pack


def multiple_reason(what: str, value: int, of: int) -> str:
    """ "" if `value` is a positive multiple of `of`, else a sentence with the nearest that is."""
    if value > 0 and value % of == 0:
        return ""
    low = max(value // of * of, of)
    nearest = f"{low}" if low > value else f"{low} or {low + of}"
    return f"{what} is {value}; the kernel takes multiples of {of} (nearest: {nearest})"


def needs_cpu() -> str:
    """Every torch has a CPU."""
    return ""


def needs_cuda() -> str:
    """ "" if a CUDA device is there."""
    return "" if torch.cuda.is_available() else "no CUDA device here"


def needs_compute_capability(major: int, minor: int) -> str:
    """ "" if the current CUDA device has at least that compute capability."""
    if reason := needs_cuda():
        return reason
    have = torch.cuda.get_device_capability()
    return (
        "" if have >= (major, minor) else f"needs compute capability {major}.{minor}, this GPU has {have[0]}.{have[1]}"
    )


def relative_error(y: Tensor, reference: Tensor) -> float:
    """Frobenius norm of the difference over that of the reference, in fp32."""
    reference = reference.float()
    return float((y.float() - reference).norm() / reference.norm())
