"""Dense weights: torch's own linear in fp32, bf16 and fp16, on CPU (oneDNN, MKL) and CUDA (cuBLAS)."""

from functools import partial

import torch.nn.functional as F
from torch import Tensor, nn

from ridgepoint.kernels.ladder import TORCH_DTYPES, LinearKernel, needs_cpu, needs_cuda

__all__ = ["LADDER", "Dense"]


class Dense(nn.Module):
    """y[..., n] = x[..., k] W[n, k]ᵀ + b, everything in one dtype."""

    weight: Tensor
    bias: Tensor | None

    def __init__(self, weight: Tensor, bias: Tensor | None, kernel: str):
        super().__init__()
        self.kernel = kernel
        self.register_buffer("weight", weight)
        self.register_buffer("bias", bias)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight, self.bias)

    def dequantised(self) -> Tensor:
        """The weight as stored, in fp32."""
        return self.weight.float()


def _pack(dtype: str, weight: Tensor, bias: Tensor | None, act: str, group: int) -> Dense:
    to = TORCH_DTYPES[dtype]
    bias = None if bias is None else bias.to(to, copy=True)
    return Dense(weight.to(to, copy=True).contiguous(), bias, f"F.linear:{dtype}")


def _any_shape(n: int, k: int, group: int) -> str:
    return ""


LADDER = tuple(
    LinearKernel(f"F.linear:{dtype}", dtype, "dense", (dtype,), device, partial(_pack, dtype), _any_shape, available)
    for device, available in (("cpu", needs_cpu), ("cuda", needs_cuda))
    for dtype in TORCH_DTYPES
)
