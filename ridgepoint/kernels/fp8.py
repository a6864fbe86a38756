"""FP8 (e4m3) weights and activations: a scale per output row and per token, by torch._scaled_mm on CUDA, emulated on a CPU.

Shapes: x[..., k], M rows of x, q[n, k] e4m3, scale[1, n] fp32. The emulation has the roundings and none of the speed: it is
for accuracy alone, is taken only by name, and no law times it.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ridgepoint.kernels.ladder import LinearKernel, multiple_reason, needs_compute_capability, needs_cpu

__all__ = ["LADDER", "Fp8EmulatedLinear", "Fp8Linear", "quantise_rows_e4m3"]

NAME, EMULATED = "torch._scaled_mm", "fp8_emulated_linear"
_E4M3 = torch.float8_e4m3fn
_LARGEST = torch.finfo(_E4M3).max


def quantise_rows_e4m3(x_MK: Tensor) -> tuple[Tensor, Tensor]:
    """e4m3 values and the fp32 scale[M, 1] that maps the largest magnitude of each row to 448."""
    x = x_MK.float()
    scale = torch.linalg.vector_norm(x, torch.inf, -1, keepdim=True).clamp_(min=1e-10).div_(_LARGEST)
    return x.div(scale).clamp_(-_LARGEST, _LARGEST).to(_E4M3), scale


class Fp8Linear(nn.Module):
    """Activations are scaled per token and rounded to e4m3 at each call; the product comes out in bf16."""

    kernel = NAME
    q: Tensor
    scale: Tensor
    bias: Tensor | None

    def __init__(self, weight: Tensor, bias: Tensor | None):
        super().__init__()
        q, scale = quantise_rows_e4m3(weight)
        self.register_buffer("q", q)
        self.register_buffer("scale", scale.t().contiguous())
        self.register_buffer("bias", None if bias is None else bias.to(torch.bfloat16, copy=True))

    def forward(self, x: Tensor) -> Tensor:
        rows, token_scale = quantise_rows_e4m3(x if x.dim() == 2 else x.flatten(0, -2))
        y = torch._scaled_mm(
            rows, self.q.t(), token_scale, self.scale, bias=self.bias, out_dtype=torch.bfloat16, use_fast_accum=True
        )
        return y if x.dim() == 2 else y.view(*x.shape[:-1], -1)

    def dequantised(self) -> Tensor:
        """[n, k] fp32; activations are rounded on top of it."""
        return self.q.float() * self.scale.t()


class Fp8EmulatedLinear(nn.Module):
    """The same roundings of weights and activations, multiplied and summed in fp32: what tensor cores give but for the order
    of their sums."""

    kernel = EMULATED
    q: Tensor
    scale: Tensor
    bias: Tensor | None

    def __init__(self, weight: Tensor, bias: Tensor | None):
        super().__init__()
        q, scale = quantise_rows_e4m3(weight)
        self.register_buffer("q", q)
        self.register_buffer("scale", scale)
        self.register_buffer("bias", None if bias is None else bias.to(torch.float32, copy=True))

    def forward(self, x: Tensor) -> Tensor:
        rows, token_scale = quantise_rows_e4m3(x)
        return F.linear(rows.float() * token_scale, self.dequantised(), self.bias).to(x.dtype)

    def dequantised(self) -> Tensor:
        """[n, k] fp32; activations are rounded on top of it."""
        return self.q.float() * self.scale


def _pack(weight: Tensor, bias: Tensor | None, act: str, group: int) -> nn.Module:
    return Fp8Linear(weight, bias)


def _pack_emulated(weight: Tensor, bias: Tensor | None, act: str, group: int) -> nn.Module:
    return Fp8EmulatedLinear(weight, bias)


def _any_shape(n: int, k: int, group: int) -> str:
    return ""


def _check(n: int, k: int, group: int) -> str:
    return multiple_reason("n", n, 16) or multiple_reason("k", k, 16)


def _ada() -> str:
    return needs_compute_capability(8, 9)


LADDER = (
    LinearKernel(EMULATED, "fp8", "emulated", ("bf16", "fp32"), "cpu", _pack_emulated, _any_shape, needs_cpu),
    LinearKernel(NAME, "fp8", "packed", ("bf16",), "cuda", _pack, _check, _ada),
)
