"""2:4 sparsity on GPUs since Ampere: of four weights in a row two are stored, and tensor cores skip the others.

Shapes: x[..., k], W[n, k]; stored are n x k/2 values and 2 bits for each (Mishra et al. 2021, arXiv 2104.08378, section 3).
"""

import torch.nn.functional as F
from torch import Tensor, nn

from ridgepoint.kernels.ladder import TORCH_DTYPES, LinearKernel, multiple_reason, needs_compute_capability

__all__ = ["LADDER", "TwoOfFourLinear"]

PACKED = "torch.sparse.to_sparse_semi_structured"
_N, _K = 32, 64
"""Multiples that torch's kernels take in 16 bits."""


class TwoOfFourLinear(nn.Module):
    """torch's own tensor of semi-structured zeros, multiplied by cuSPARSELt or CUTLASS, whichever torch has."""

    kernel = PACKED
    bias: Tensor | None

    def __init__(self, weight: Tensor, bias: Tensor | None):
        super().__init__()
        from torch.sparse import to_sparse_semi_structured

        self.weight = nn.Parameter(to_sparse_semi_structured(weight.contiguous()), requires_grad=False)
        self.register_buffer("bias", bias)

    @property
    def packed_bytes(self) -> int:
        """Bytes of the stored values and their places: the tensor hides its parts from `parameters`."""
        parts = (getattr(self.weight, name, None) for name in ("packed", "meta"))
        return sum(part.nbytes for part in parts if part is not None)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight, self.bias)

    def dequantised(self) -> Tensor:
        """[n, k] fp32, zeros included."""
        return self.weight.to_dense().float()


def _pack(weight: Tensor, bias: Tensor | None, act: str, group: int) -> nn.Module:
    to = TORCH_DTYPES[act]
    return TwoOfFourLinear(weight.to(to), None if bias is None else bias.to(to, copy=True))


def _check(n: int, k: int, group: int) -> str:
    return multiple_reason("n", n, _N) or multiple_reason("k", k, _K)


def _needs_ampere() -> str:
    return needs_compute_capability(8, 0)


LADDER = (LinearKernel(PACKED, "2:4", "packed", ("bf16", "fp16"), "cuda", _pack, _check, _needs_ampere),)
