"""GPTQ: rounds the inputs of a layer one by one, and lets those not yet rounded make up for the error.

Shapes: weight[n, k], hessian[k, k] = sum over tokens of x xᵀ.
"""

import torch
from torch import Tensor

from ridgepoint.kernels.codes import Codes, Grid

__all__ = ["DAMP", "gptq"]

DAMP = 0.01
"""Share of the mean diagonal added to the diagonal (Frantar et al. 2022, arXiv 2210.17323, section 3, step 3)."""
_BLOCK = 128
"""Columns whose updates are kept back before the rest of the matrix is updated at once (same section, "lazy batches")."""


@torch.no_grad()
def gptq(weight: Tensor, hessian: Tensor, grid: Grid) -> Codes:
    """Codes that minimise |(W - Ŵ) X|² column by column (arXiv 2210.17323, equations 2 and 3, by Cholesky of H⁻¹).

    Columns go in the order of falling diagonal of H, which the paper's implementation calls act-order; scales are those of
    static groups, fitted to the original weights, so that the stored groups stay in their own order. Inputs that were never
    seen (a zero on the diagonal) are rounded to nearest and take no part. Ignored: grids that change with the updates.
    """
    n, k = weight.shape
    w = weight.float().clone()
    group = grid.group or k
    scale, zero = grid.fit(grid.groups(w))
    order = torch.argsort(hessian.diagonal(), descending=True, stable=True)
    upper = _inverse_factor(hessian.float()[order][:, order])
    w = w[:, order]
    q = torch.empty_like(w)
    for first in range(0, k, _BLOCK):
        last = min(first + _BLOCK, k)
        errors = torch.empty(n, last - first)
        for j in range(first, last):
            at = int(order[j]) // group
            s, z = scale[:, at], None if zero is None else zero[:, at]
            column = w[:, j : j + 1]
            q[:, j : j + 1] = grid.codes(column, s, z)
            error = (column - grid.values(q[:, j : j + 1], s, z)) / upper[j, j]
            w[:, j:last] -= error * upper[j, j:last]
            errors[:, j - first] = error[:, 0]
        w[:, last:] -= errors @ upper[first:last, last:]
    return grid.pack(q[:, torch.argsort(order)], scale, zero)


def _inverse_factor(hessian: Tensor) -> Tensor:
    """Upper triangular U with Uᵀ U = (H + λ)⁻¹; row j holds what rounding input j does to those after it."""
    h = hessian.double()
    dead = h.diagonal() <= 0
    h[dead, dead] = 1.0
    damp = DAMP * h.diagonal().mean()
    while True:
        factor, failed = torch.linalg.cholesky_ex(h + damp * torch.eye(h.shape[0], dtype=h.dtype))
        if not failed:
            return torch.linalg.cholesky(torch.cholesky_inverse(factor), upper=True).float()
        damp = 10 * damp
