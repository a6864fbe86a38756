"""Weights as integer codes with scales: what an algorithm chooses and a kernel packs, whatever the order of its bytes.

Shapes: weight[n, k] of n outputs and k inputs, in n x k/group groups; group 0 is a whole row.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

__all__ = ["INT3", "INT4", "INT8", "INT8_FP32", "Codes", "Grid", "nearest"]


@dataclass(frozen=True)
class Codes:
    """q[n, k] and scale[n, k/group], zero[n, k/group] (None: symmetric); weight ~ (q - grid.offset) * scale + zero."""

    q: Tensor
    scale: Tensor
    zero: Tensor | None
    grid: "Grid"

    def dequantised(self) -> Tensor:
        """[n, k] fp32, the weight that the codes stand for."""
        n, k = self.q.shape
        return self.grid.values(self.q.view(n, self.scale.shape[1], -1), self.scale, self.zero).reshape(n, k)


@dataclass(frozen=True)
class Grid:
    """Integers from `low` to `high`, a scale per `group` inputs of a row, and a real-valued zero point unless symmetric.

    `stored`: dtype in which scale and zero are kept; codes are rounded against the stored values, so that their own
    rounding is no error of its own.
    """

    low: int
    high: int
    group: int = 0
    symmetric: bool = False
    stored: torch.dtype = torch.bfloat16

    @property
    def offset(self) -> int:
        """What is taken off a code: the middle of an unsigned range (torch's convention for int4), 0 of a signed one."""
        return (self.high + 1) // 2 if self.low == 0 else 0

    def grouped(self, group: int) -> "Grid":
        """The same integers with another group."""
        return replace(self, group=group)

    def groups(self, weight: Tensor) -> Tensor:
        """weight[n, k] as [n, k/group, group] in fp32."""
        n, k = weight.shape
        return weight.float().reshape(n, k // self.group if self.group else 1, -1)

    def fit(self, w: Tensor, shrink: float = 1.0) -> tuple[Tensor, Tensor | None]:
        """Scale and zero of each group of w[..., group] from its range, which `shrink` < 1 narrows towards 0."""
        if self.symmetric:
            scale = (w.abs().amax(-1) * shrink).clamp(min=1e-10) / self.high
            return scale.to(self.stored), None
        low, high = w.aminmax(dim=-1)
        low, high = low * shrink, high * shrink
        scale = ((high - low) / (self.high - self.low)).clamp_(min=1e-8)
        return scale.to(self.stored), (low + (self.offset - self.low) * scale).to(self.stored)

    def codes(self, w: Tensor, scale: Tensor, zero: Tensor | None) -> Tensor:
        """The nearest codes of w[..., group] for scale and zero[...], as fp32 integers."""
        shifted = w if zero is None else w - zero.float()[..., None]
        return (shifted / scale.float()[..., None]).round_().add_(self.offset).clamp_(self.low, self.high)

    def values(self, q: Tensor, scale: Tensor, zero: Tensor | None) -> Tensor:
        """What codes q[..., group] stand for, fp32."""
        w = (q.float() - self.offset) * scale.float()[..., None]
        return w if zero is None else w + zero.float()[..., None]

    def rounded(self, weight: Tensor, shrink: float = 1.0) -> Tensor:
        """weight[n, k] as it is after rounding to nearest, fp32."""
        w = self.groups(weight)
        scale, zero = self.fit(w, shrink)
        return self.values(self.codes(w, scale, zero), scale, zero).reshape(weight.shape)

    def pack(self, q: Tensor, scale: Tensor, zero: Tensor | None) -> Codes:
        """Codes of fp32 integers q[n, k]; scale and zero[n, k/group]."""
        return Codes(q.to(torch.uint8 if self.low == 0 else torch.int8), scale, zero, self)


INT8 = Grid(-127, 127, symmetric=True)
INT8_FP32 = Grid(-127, 127, symmetric=True, stored=torch.float32)
INT4 = Grid(0, 15, 32)
INT3 = Grid(0, 7, 32)
"""No kernel of ours reads it: for accuracy alone."""


def nearest(weight: Tensor, grid: Grid) -> Codes:
    """Round to nearest: each weight takes the code that is nearest to it, on a grid over the range of its group."""
    w = grid.groups(weight)
    scale, zero = grid.fit(w)
    return grid.pack(grid.codes(w, scale, zero).reshape(weight.shape), scale, zero)
