"""INT8 weights, bf16 activations: one bf16 scale per output row (weight-only quantisation).

Shapes: x[..., k], q[n, k] int8, scale[n] bf16. Both rungs hold the same storage; only the forward differs.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ridgepoint.kernels.codes import INT8, Codes
from ridgepoint.kernels.ladder import LinearKernel, PackCodes, multiple_reason, needs_cpu, needs_cuda, packs

__all__ = ["LADDER", "Int8DequantiseLinear", "Int8PackedLinear"]

NAIVE, PACKED = "int8_dequantise_linear", "torch._weight_int8pack_mm"


class Int8DequantiseLinear(nn.Module):
    """Naive: the whole weight becomes bf16 at every call, then a dense product."""

    kernel = NAIVE
    q: Tensor
    scale: Tensor
    bias: Tensor | None

    def __init__(self, q: Tensor, scale: Tensor, bias: Tensor | None):
        super().__init__()
        self.register_buffer("q", q)
        self.register_buffer("scale", scale)
        self.register_buffer("bias", bias)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.q.to(x.dtype).mul_(self.scale[:, None]), self.bias)

    def dequantised(self) -> Tensor:
        """[n, k] fp32, the weight that the product really uses."""
        return self.q.float() * self.scale.float()[:, None]


class Int8PackedLinear(Int8DequantiseLinear):
    """torch's kernel: int8 rows are widened in registers, the scale is applied to the result."""

    kernel = PACKED

    def forward(self, x: Tensor) -> Tensor:
        if x.dim() == 2:
            y = torch._weight_int8pack_mm(x, self.q, self.scale)
        else:
            y = torch._weight_int8pack_mm(x.flatten(0, -2), self.q, self.scale).view(*x.shape[:-1], -1)
        return y if self.bias is None else y.add_(self.bias)


def _pack_naive(codes: Codes, bias: Tensor | None, act: str) -> nn.Module:
    return Int8DequantiseLinear(codes.q, codes.scale[:, 0], _bias(bias))


def _pack_packed(codes: Codes, bias: Tensor | None, act: str) -> nn.Module:
    return Int8PackedLinear(codes.q, codes.scale[:, 0], _bias(bias))


def _bias(bias: Tensor | None) -> Tensor | None:
    return None if bias is None else bias.to(torch.bfloat16, copy=True)


def _any_shape(n: int, k: int, group: int) -> str:
    return ""


def _check_packed(n: int, k: int, group: int) -> str:
    # the kernel does not check: other k read past the end of the rows and return garbage or crash
    return multiple_reason("k", k, 16)


def _rung(
    name: str, rung: str, device: str, pack: PackCodes, check: Callable[[int, int, int], str],
    available: Callable[[], str],
) -> LinearKernel:  # fmt: skip
    return LinearKernel(name, "int8", rung, ("bf16",), device, packs(INT8, pack), check, available, INT8, pack)


LADDER = (
    _rung(NAIVE, "naive", "cpu", _pack_naive, _any_shape, needs_cpu),
    _rung(PACKED, "packed", "cpu", _pack_packed, _check_packed, needs_cpu),
    _rung(NAIVE, "naive", "cuda", _pack_naive, _any_shape, needs_cuda),
)
