"""INT4 weights, bf16 activations: a bf16 scale and zero point per group of inputs of a row.

Shapes: x[..., k], codes q[n, k] in 0..15, scale and zero[n, k/group]; weight ~ (q - 8) * scale + zero, torch's own
convention. Groups are 32, 64, 128 or 256 inputs.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ridgepoint.kernels.codes import INT4, Codes
from ridgepoint.kernels.ladder import (
    LinearKernel,
    PackCodes,
    multiple_reason,
    needs_compute_capability,
    needs_cpu,
    needs_cuda,
    packs,
)

__all__ = [
    "GROUPS",
    "LADDER",
    "Int4CpuLinear",
    "Int4CudaLinear",
    "Int4DequantiseLinear",
    "check_groups",
]

GROUPS = (32, 64, 128, 256)
NAIVE, PACKED_CPU, PACKED_CUDA = (
    "int4_dequantise_linear",
    "torch._weight_int4pack_mm_for_cpu",
    "torch._weight_int4pack_mm",
)


class Int4DequantiseLinear(nn.Module):
    """Naive: nibbles are unpacked and the whole weight becomes bf16 at every call, then a dense product."""

    kernel = NAIVE
    nibbles: Tensor
    scale: Tensor
    zero: Tensor
    bias: Tensor | None

    def __init__(self, codes: Codes, bias: Tensor | None):
        super().__init__()
        assert codes.zero is not None, "int4 has zero points"
        q, scale, zero = codes.q, codes.scale, codes.zero
        self.group = codes.grid.group
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

    def __init__(self, packed: Tensor, codes: Codes, bias: Tensor | None):
        super().__init__()
        assert codes.zero is not None, "int4 has zero points"
        self.n, self.k, self.group = *codes.q.shape, codes.grid.group
        self.register_buffer("packed", packed)
        self.register_buffer("scale_and_zero", torch.stack((codes.scale, codes.zero), -1).transpose(0, 1).contiguous())
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


def _pack_naive(codes: Codes, bias: Tensor | None, act: str) -> nn.Module:
    return Int4DequantiseLinear(codes, bias)


def _pack_cpu(codes: Codes, bias: Tensor | None, act: str) -> nn.Module:
    packed = torch._convert_weight_to_int4pack_for_cpu(codes.q.to(torch.int32), 1)  # innerKTiles is ignored on CPU
    return Int4CpuLinear(packed, codes, bias)


def _pack_cuda(codes: Codes, bias: Tensor | None, act: str) -> nn.Module:
    q = codes.q
    tiles = next(t for t in (8, 4, 2) if q.shape[1] % (16 * t) == 0)
    return Int4CudaLinear(torch._convert_weight_to_int4pack(q[:, ::2] << 4 | q[:, 1::2], tiles), codes, bias)


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


def _rung(
    name: str, rung: str, device: str, pack: PackCodes, check: Callable[[int, int, int], str],
    available: Callable[[], str],
) -> LinearKernel:  # fmt: skip
    return LinearKernel(name, "int4", rung, ("bf16",), device, packs(INT4, pack), check, available, INT4, pack)


LADDER = (
    _rung(NAIVE, "naive", "cpu", _pack_naive, check_groups, needs_cpu),
    _rung(PACKED_CPU, "packed", "cpu", _pack_cpu, _check_cpu, needs_cpu),
    _rung(NAIVE, "naive", "cuda", _pack_naive, check_groups, needs_cuda),
    _rung(PACKED_CUDA, "packed", "cuda", _pack_cuda, _check_cuda, _ampere),
)
