"""INT8 weights and activations: fbgemm's dynamic linear (a scale per tensor) and torch._int_mm (a scale per token).

Shapes: x[..., k], M rows of x, q[n, k] int8 with one fp32 scale per output row.
"""

import warnings
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ridgepoint.kernels.codes import INT8_FP32, Codes
from ridgepoint.kernels.ladder import (
    TORCH_DTYPES,
    LinearKernel,
    multiple_reason,
    needs_compute_capability,
    needs_cpu,
    packs,
)

__all__ = ["LADDER", "FbgemmDynamicLinear", "IntMmLinear"]

FBGEMM, INT_MM = "torch.ops.quantized.linear_dynamic", "torch._int_mm"
_CUDA_MIN_ROWS = 17  # cuBLASLt's int8 product refuses fewer


class FbgemmDynamicLinear(nn.Module):
    """What torch's `quantize_dynamic` runs: activations get one scale and zero point per call, in 7 bits.

    7 bits (`reduce_range`) because without VNNI the kernel's 16-bit sums could overflow; torch does the same.
    """

    kernel = FBGEMM

    def __init__(self, q: Tensor, scale: Tensor, bias: Tensor | None):
        super().__init__()
        self.params = _prepack(q, scale, bias)

    def forward(self, x: Tensor) -> Tensor:
        return torch.ops.quantized.linear_dynamic(x, self.params, True)

    @property
    def packed_bytes(self) -> int:
        """Codes, scales (8 bytes each, as torch keeps them), zero points and bias: none of them is a buffer."""
        q, scale, bias = self.unpacked()
        return q.numel() + 16 * scale.numel() + (0 if bias is None else bias.nbytes)

    def unpacked(self) -> tuple[Tensor, Tensor, Tensor | None]:
        """q[n, k] int8, scale[n] and bias[n] or None, read back from the packed weights."""
        weight, bias = torch.ops.quantized.linear_unpack(self.params)
        return weight.int_repr(), weight.q_per_channel_scales().float(), bias

    @property
    def bias(self) -> Tensor | None:
        """bias[n], read back as well."""
        return self.unpacked()[2]

    def dequantised(self) -> Tensor:
        """[n, k] fp32; activations are rounded on top of it."""
        q, scale, _ = self.unpacked()
        return q.float() * scale[:, None]

    def __deepcopy__(self, memo: dict[int, Any]) -> "FbgemmDynamicLinear":
        return FbgemmDynamicLinear(*self.unpacked())


def _prepack(q: Tensor, scale: Tensor, bias: Tensor | None) -> Any:
    with warnings.catch_warnings():  # torch marks its quantised tensors as deprecated; the kernel takes nothing else
        warnings.filterwarnings("ignore", message=".*torch.*quantiz.*deprecated.*")
        zeros = torch.zeros(q.shape[0], dtype=torch.long)
        weight = torch._make_per_channel_quantized_tensor(q, scale.double(), zeros, 0)
        return torch.ops.quantized.linear_prepack(weight, bias)


class IntMmLinear(nn.Module):
    """Activations get one symmetric scale per token, 8 bits; int32 sums are scaled back in fp32."""

    kernel = INT_MM
    q: Tensor
    scale: Tensor
    bias: Tensor | None

    def __init__(self, q: Tensor, scale: Tensor, bias: Tensor | None, dtype: torch.dtype):
        super().__init__()
        self.dtype = dtype
        self.register_buffer("q", q)
        self.register_buffer("scale", scale)
        self.register_buffer("bias", bias)

    def forward(self, x: Tensor) -> Tensor:
        rows = x if x.dim() == 2 else x.flatten(0, -2)
        codes, token_scale = quantise_tokens(rows)
        y = (self._product(codes) * token_scale).mul_(self.scale)
        if self.bias is not None:
            y.add_(self.bias)
        y = y.to(self.dtype)
        return y if x.dim() == 2 else y.view(*x.shape[:-1], -1)

    def _product(self, codes: Tensor) -> Tensor:
        m = codes.shape[0]
        if not codes.is_cuda or m >= _CUDA_MIN_ROWS:
            return torch._int_mm(codes, self.q.t())
        return torch._int_mm(F.pad(codes, (0, 0, 0, _CUDA_MIN_ROWS - m)), self.q.t())[:m]

    def dequantised(self) -> Tensor:
        """[n, k] fp32; activations are rounded on top of it."""
        return self.q.float() * self.scale[:, None]


def quantise_tokens(x_MK: Tensor) -> tuple[Tensor, Tensor]:
    """Symmetric int8 codes and the fp32 scale[M, 1] of each row, error at most half a scale."""
    x = x_MK.float()
    scale = torch.linalg.vector_norm(x, torch.inf, -1, keepdim=True).clamp_(min=1e-10).div_(127)
    return x.div(scale).round_().to(torch.int8), scale


def _pack_fbgemm(codes: Codes, bias: Tensor | None, act: str) -> nn.Module:
    return FbgemmDynamicLinear(codes.q, codes.scale[:, 0], None if bias is None else bias.float())


def _pack_int_mm(codes: Codes, bias: Tensor | None, act: str) -> nn.Module:
    bias = None if bias is None else bias.to(torch.float32, copy=True)
    return IntMmLinear(codes.q, codes.scale[:, 0].contiguous(), bias, TORCH_DTYPES[act])


def _any_shape(n: int, k: int, group: int) -> str:
    return ""


def _multiples_of_8(n: int, k: int, group: int) -> str:
    return multiple_reason("n", n, 8) or multiple_reason("k", k, 8)


def _has_fbgemm() -> str:
    engine = torch.backends.quantized.engine
    return (
        ""
        if engine in ("x86", "fbgemm")
        else f"torch's quantised engine here is {engine!r}; this kernel is fbgemm's (x86)"
    )


def _turing() -> str:
    return needs_compute_capability(7, 5)


_FBGEMM = packs(INT8_FP32, _pack_fbgemm)
_INT_MM = packs(INT8_FP32, _pack_int_mm)
_TOKEN = ("fp32", "bf16")

LADDER = (
    LinearKernel(
        FBGEMM, "int8:dyn", "packed", ("fp32",), "cpu", _FBGEMM, _any_shape, _has_fbgemm, INT8_FP32, _pack_fbgemm
    ),
    LinearKernel(
        INT_MM, "int8:dyn:token", "packed", _TOKEN, "cpu", _INT_MM, _any_shape, needs_cpu, INT8_FP32, _pack_int_mm
    ),
    LinearKernel(
        INT_MM, "int8:dyn:token", "packed", _TOKEN, "cuda", _INT_MM, _multiples_of_8, _turing, INT8_FP32, _pack_int_mm
    ),
)
