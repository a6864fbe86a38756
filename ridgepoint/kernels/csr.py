"""Weights that are mostly zero, as compressed sparse rows in fp32: only what is not zero is stored and multiplied.

Shapes: x[..., k], W[n, k] with `stored` weights that are not zero: value[stored] fp32, column[stored] int32, first[n + 1] int32
(where each row begins in them).
"""

import warnings
from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ridgepoint.kernels.ladder import LinearKernel, needs_cpu

__all__ = ["LADDER", "CsrDensifyLinear", "CsrLinear"]

NAIVE, PACKED = "csr_densify_linear", "torch.sparse_csr (MKL)"


class CsrLinear(nn.Module):
    """torch's products of a CSR matrix, MKL's on x86: matrix by vector for one row, else matrix by matrix.

    The product is W xᵀ, so that several rows are transposed on the way in and out; both copies are part of the layer. MKL
    takes them in eights and the rest one by one, at nearly twice the cost of eight: rows of zeros fill the last eight up.
    """

    kernel = PACKED
    first: Tensor
    column: Tensor
    value: Tensor
    bias: Tensor | None

    def __init__(self, weight: Tensor, bias: Tensor | None):
        super().__init__()
        with warnings.catch_warnings():
            warnings.filterwarnings(
                "ignore", "Sparse CSR tensor support", UserWarning
            )  # its interface may still change
            rows = weight.to_sparse_csr()
        self.shape = weight.shape
        self.register_buffer("first", rows.crow_indices().to(torch.int32))
        self.register_buffer("column", rows.col_indices().to(torch.int32))
        self.register_buffer("value", rows.values().clone())
        self.register_buffer("bias", bias)

    def matrix(self) -> Tensor:
        """[n, k] as torch's sparse tensor over the same memory: made for each call, because it cannot be copied."""
        return torch.sparse_csr_tensor(self.first, self.column, self.value, size=self.shape, check_invariants=False)

    def forward(self, x: Tensor) -> Tensor:
        x_MK = x.reshape(-1, x.shape[-1])
        rows = self.matrix()
        y_MN = (rows @ x_MK[0])[None] if len(x_MK) == 1 else (rows @ _filled_up(x_MK)).t()[: len(x_MK)].contiguous()
        if self.bias is not None:
            y_MN = y_MN.add_(self.bias)
        return y_MN.view(*x.shape[:-1], -1)

    def dequantised(self) -> Tensor:
        """[n, k] fp32, zeros included."""
        return self.matrix().to_dense()


def _filled_up(x_MK: Tensor) -> Tensor:
    """xᵀ [k, m'], in the order of k, with columns of zeros up to the next 2, 4, 8, 16, 24…"""
    m, k = x_MK.shape
    filled = m if m <= 2 else 4 if m <= 4 else -(-m // _BLOCK) * _BLOCK
    if filled == m:
        return x_MK.t().contiguous()
    xt_KM = x_MK.new_zeros(k, filled)
    xt_KM[:, :m] = x_MK.t()
    return xt_KM


_BLOCK = 8


class CsrDensifyLinear(CsrLinear):
    """Naive: the zeros are put back at every call, then a dense product."""

    kernel = NAIVE

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.matrix().to_dense(), self.bias)


def _pack(module: type[CsrLinear], weight: Tensor, bias: Tensor | None, act: str, group: int) -> nn.Module:
    return module(weight.float(), None if bias is None else bias.to(torch.float32, copy=True))


def _any_shape(n: int, k: int, group: int) -> str:
    return ""


def _has_mkl() -> str:
    return needs_cpu() or ("" if torch.backends.mkl.is_available() else "torch was built without MKL's sparse products")


def _rung(rung: str, module: type[CsrLinear], available: Callable[[], str]) -> LinearKernel:
    return LinearKernel(module.kernel, "csr", rung, ("fp32",), "cpu", partial(_pack, module), _any_shape, available)


LADDER = (_rung("naive", CsrDensifyLinear, needs_cpu), _rung("packed", CsrLinear, _has_mkl))
