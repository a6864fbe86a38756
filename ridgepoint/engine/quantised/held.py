"""What a quantised checkpoint holds of one linear layer, whatever the order of its bits: integers, scales, zero points.

Shapes: n outputs, k inputs, G groups of inputs that share a scale and a zero point.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from ridgepoint.kernels.codes import Codes, Grid

__all__ = ["Held", "unpacked"]


@dataclass(frozen=True)
class Held:
    """weight[n, k] = (q[n, k] - zero[n, G]) * scale[n, G]; q and zero are integers, zero None is 0.

    `group_of[k]`: the group of each input, where they are not runs of k / G inputs (act-order); None: they are.
    """

    q: Tensor
    scale: Tensor
    zero: Tensor | None
    group_of: Tensor | None = None

    def dequantised(self) -> Tensor:
        """[n, k] fp32, the weight as the file means it."""
        k = self.q.shape[1]
        group_of = torch.arange(k) * self.scale.shape[1] // k if self.group_of is None else self.group_of
        w = self.q.float()
        if self.zero is not None:
            w = w - self.zero.float()[:, group_of]
        return w * self.scale.float()[:, group_of]

    def codes(self, grid: Grid) -> Codes:
        """The same integers for a kernel of `grid`, whose scales and zero points are kept in `grid.stored`.

        A kernel with a real-valued zero point has q - offset where the file has q - zero; (offset - zero) * scale makes up
        for it. Scales are rounded first and the zero point follows the rounded scale, so that a code that stands for 0
        goes on to do so, up to the rounding of the zero point itself.
        """
        assert self.group_of is None, "refused when it was read: no kernel takes groups that are not runs of inputs"
        scale = self.scale.to(grid.stored)
        if grid.symmetric:
            assert self.zero is None, "refused by the stored format: no symmetric kernel takes zero points"
            return Codes(self.q, scale, None, grid)
        zero = torch.zeros_like(self.scale, dtype=torch.float32) if self.zero is None else self.zero.float()
        return Codes(self.q, scale, ((grid.offset - zero) * scale.float()).to(grid.stored), grid)


def unpacked(words: Tensor, bits: int, count: int) -> Tensor:
    """words[r, c] int32 -> uint8[r, count]: `bits` each, from the lowest bit of the first word on, without gaps."""
    rows = words.shape[0]
    if 32 % bits == 0:  # none lies across two words
        shifts = torch.arange(0, 32, bits, dtype=torch.int32)
        parts = words[:, :, None].bitwise_right_shift(shifts).bitwise_and_(2**bits - 1)
        return parts.to(torch.uint8).view(rows, -1)[:, :count].contiguous()
    single = torch.arange(32, dtype=torch.int32)
    stream = words[:, :, None].bitwise_right_shift(single).bitwise_and_(1).to(torch.uint8).view(rows, -1)
    weights = 2 ** torch.arange(bits, dtype=torch.uint8)
    return (stream[:, : count * bits].view(rows, count, bits) * weights).sum(-1, dtype=torch.uint8)
