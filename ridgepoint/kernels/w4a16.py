"""INT4 weights, bf16 activations: a bf16 scale and zero point per group of inputs of a row.

Shapes: x[..., k], codes q[n, k] in 0..15, scale and zero[n, k/group]; weight ~ (q - 8) * scale + zero, torch's own
convention. Groups are 32, 64, 128 or 256 inputs.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ridgepoint.kernels.ladder import LinearKernel, multiple_reason, needs_compute_capability, needs_cpu, needs_cuda

__all__ = [
    "GROUPS",
    "LADDER",
    "Int4CpuLinear",
    "Int4CudaLinear",
    "Int4DequantiseLinear",
    "check_groups",
    "quantise_groups",
]

GROUPS = (32, 64, 128, 256)
NAIVE, PACKED_CPU, PACKED_CUDA = (
    "int4_dequantise_linear",
    "torch._weight_int4pack_mm_for_cpu",
    "torch._weight_int4pack_mm",
)


def quantise_groups(weight: Tensor, group: int) -> tuple[Tensor, Tensor, Tensor]:
    """Codes q[n, k] uint8 and bf16 scale, zero[n, k/group] of the least and greatest weight of each group."""
    n, k = weight.shape
    w = weight.float().view(n, k // group, group)
    low, high = w.aminmax(dim=-1)
    scale = ((high - low) / 15).clamp_(min=1e-8)
    scale, zero = scale.bfloat16(), (low + 8 * scale).bfloat16()
    q = ((w - zero.float()[..., None]) / scale.float()[..., None]).round_().add_(8).clamp_(0, 15)
    return q.to(torch.uint8).view(n, k), scale, zero


class Int4DequantiseLinear(nn.Module):
    """Naive: nibbles are unpacked and the whole weight becomes bf16 at every call, then a dense product."""

    kernel = NAIVE
    nibbles: Tensor
    scale: Tensor
    zero: Tensor
    bias: Tensor | None

    def __init__(self, weight: Tensor, bias: Tensor | None, group: int):
        super().__init__()
        q, scale, zero = quantise_groups(weight, group)
        self.group = group
        self.register_buffer("nibbles", q[:, ::2] | q[:, 1::2] << 4)  # [n, k/2], even inputs in the low half
        self.register_buffer("scale", scale[..., None])
        self.register_buffer("zero", zero[..., None])
        self.register_buffer("bias", _bias(bias))

    def _weight(self, dtype: torch.dtype) -> Tensor:
        n = self.nibbles.shape[0]
        q = torch.stack((self.nibbles & 15, self.nibbles >> 4), -1).view(n, -1, self.group)
        return torch.addcmul(self.zero.to(dtype), q.to(dtype).sub_(8), self.scale.to(dtype)).view(n, -1)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self._weight(x.dtype), self.bias)

    def dequantised(self) -> Tensor:
        """[n, k] fp32, before the rounding to bf16 that the forward adds."""
        return self._weight(torch.float32)


class _Int4Packed(nn.Module):
    """What the two packed rungs share: scales laid out [k/group, n, 2] and the flattening of x."""

    packed: Tensor
    scale_and_zero: Tensor
    bias: Tensor | None

    def __init__(self, packed: Tensor, scale: Tensor, zero: Tensor, bias: Tensor | None, shape: torch.Size, group: int):
        super().__init__()
        self.n, self.k, self.group = *shape, group
        self.register_buffer("packed", packed)
        self.register_buffer("scale_and_zero", torch.stack((scale, zero), -1).transpose(0, 1).contiguous())
        self.register_buffer("bias", _bias(bias))

    def _product(self, x_MK: Tensor) -> Tensor:
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        y = self._product(x) if x.dim() == 2 else self._product(x.flatten(0, -2)).view(*x.shape[:-1], -1)
        return y if self.bias is None else y.add_(self.bias)

    def dequantised(self) -> Tensor:
        """[n, k] fp32: codes are read back by multiplying one-hots, with scale 1 and zero 0."""
        device = self.packed.device
        unit = torch.tensor([1.0, 0.0], device=device).bfloat16().expand_as(self.scale_and_zero).contiguous()
        stored, self.scale_and_zero = self.scale_and_zero, unit
        try:
            eye = torch.eye(self.k, dtype=torch.bfloat16, device=device)
            codes = torch.cat([self._product(rows).float() for rows in eye.split(1024)]).t()
        finally:
            self.scale_and_zero = stored
        scale, zero = (part.repeat_interleave(self.group, 0).t() for part in stored.float().unbind(-1))
        return codes * scale + zero


class Int4CpuLinear(_Int4Packed):
    """torch's AVX512/AVX2 kernel on interleaved nibbles."""

    kernel = PACKED_CPU

    def _product(self, x_MK: Tensor) -> Tensor:
        return torch._weight_int4pack_mm_for_cpu(x_MK, self.packed, self.group, self.scale_and_zero)


class Int4CudaLinear(_Int4Packed):
    """torch's tensor-core kernel (tinygemm) on tiles of nibbles."""

    kernel = PACKED_CUDA

    def _product(self, x_MK: Tensor) -> Tensor:
        return torch._weight_int4pack_mm(x_MK, self.packed, self.group, self.scale_and_zero)


def _bias(bias: Tensor | None) -> Tensor | None:
    return None if bias is None else bias.to(torch.bfloat16, copy=True)


def _pack_naive(weight: Tensor, bias: Tensor | None, act: str, group: int) -> nn.Module:
    return Int4DequantiseLinear(weight, bias, group)


def _pack_cpu(weight: Tensor, bias: Tensor | None, act: str, group: int) -> nn.Module:
    q, scale, zero = quantise_groups(weight, group)
    packed = torch._convert_weight_to_int4pack_for_cpu(q.to(torch.int32), 1)  # innerKTiles is ignored on CPU
    return Int4CpuLinear(packed, scale, zero, bias, weight.shape, group)


def _pack_cuda(weight: Tensor, bias: Tensor | None, act: str, group: int) -> nn.Module:
    q, scale, zero = quantise_groups(weight, group)
    tiles = next(t for t in (8, 4, 2) if weight.shape[1] % (16 * t) == 0)
    packed = torch._convert_weight_to_int4pack(q[:, ::2] << 4 | q[:, 1::2], tiles)
    return Int4CudaLinear(packed, scale, zero, bias, weight.shape, group)


def check_groups(n: int, k: int, group: int) -> str:
    """ "" if rows of k inputs split into groups of a size that has a kernel, else the reason, with the groups that fit."""
    if group not in GROUPS:
        return f"groups of {group} weights have no kernel; groups of {', '.join(map(str, GROUPS))} do"
    if k % group == 0:
        return ""
    fitting = [g for g in GROUPS if k % g == 0]
    return multiple_reason("k", k, group) + (f"; groups of {', '.join(map(str, fitting))} fit" if fitting else "")


def _check_cpu(n: int, k: int, group: int) -> str:
    return check_groups(n, k, group) or multiple_reason("n", n, 16)


def _check_cuda(n: int, k: int, group: int) -> str:
    return check_groups(n, k, group) or multiple_reason("n", n, 8)


def _ampere() -> str:
    return needs_compute_capability(8, 0)


LADDER = (
    LinearKernel(NAIVE, "int4", "naive", ("bf16",), "cpu", _pack_naive, check_groups, needs_cpu),
    LinearKernel(PACKED_CPU, "int4", "packed", ("bf16",), "cpu", _pack_cpu, _check_cpu, needs_cpu),
    LinearKernel(NAIVE, "int4", "naive", ("bf16",), "cuda", _pack_naive, check_groups, needs_cuda),
    LinearKernel(PACKED_CUDA, "int4", "packed", ("bf16",), "cuda", _pack_cuda, _check_cuda, _ampere),
)
