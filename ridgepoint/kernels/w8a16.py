"""INT8 weights, bf16 activations: one bf16 scale per output row (weight-only quantisation).

Shapes: x[..., k], q[n, k] int8, scale[n] bf16. Both rungs hold the same storage; only the forward differs.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ridgepoint.kernels.ladder import LinearKernel, multiple_reason, needs_cpu, needs_cuda

__all__ = ["LADDER", "Int8DequantiseLinear", "Int8PackedLinear", "quantise_rows"]

NAIVE, PACKED = "int8_dequantise_linear", "torch._weight_int8pack_mm"


def quantise_rows(weight: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Symmetric int8 q[n, k] and scale[n] in `dtype` with weight ~ q * scale, error at most half a scale."""
    scale = (weight.abs().amax(1).clamp(min=1e-10) / 127).to(dtype)
    # rounding against the stored scale keeps its rounding out of the error; bf16 moves 127 to 127.25 at most
    return (weight / scale.float()[:, None]).round_().clamp_(-127, 127).to(torch.int8), scale


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


def _storage(weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
    q, scale = quantise_rows(weight, torch.bfloat16)
    return q, scale, None if bias is None else bias.to(torch.bfloat16, copy=True)


def _pack_naive(weight: Tensor, bias: Tensor | None, act: str, group: int) -> nn.Module:
    return Int8DequantiseLinear(*_storage(weight, bias))


def _pack_packed(weight: Tensor, bias: Tensor | None, act: str, group: int) -> nn.Module:
    return Int8PackedLinear(*_storage(weight, bias))


def _any_shape(n: int, k: int, group: int) -> str:
    return ""


def _check_packed(n: int, k: int, group: int) -> str:
    # the kernel does not check: other k read past the end of the rows and return garbage or crash
    return multiple_reason("k", k, 16)


LADDER = (
    LinearKernel(NAIVE, "int8", "naive", ("bf16",), "cpu", _pack_naive, _any_shape, needs_cpu),
    LinearKernel(PACKED, "int8", "packed", ("bf16",), "cpu", _pack_packed, _check_packed, needs_cpu),
    LinearKernel(NAIVE, "int8", "naive", ("bf16",), "cuda", _pack_naive, _any_shape, needs_cuda),
)
