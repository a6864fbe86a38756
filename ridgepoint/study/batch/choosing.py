"""Which batches to measure: at most a third of the grid, first where the knee and the SLO are predicted, then what decides."""

import math
from collections.abc import Collection

import numpy as np

from ridgepoint.study.batch.estimate import Estimate
from ridgepoint.study.batch.knee import chances, normal_share

__all__ = ["budget_of", "next_batch"]

_LEAST = 2
"""Points below which a curve has no slope."""
_UNDECIDED = 0.1
"""Chance of another answer from which on a batch is worth a measurement for it: the tail of an 80 % interval."""


def budget_of(grid: Collection[int]) -> int:
    """How many of the grid's batches are measured: a third, rounded up; of 2 or 3 batches two."""
    return max(min(len(grid), _LEAST), math.ceil(len(grid) / 3))


def next_batch(
    estimate: Estimate, measured: Collection[int], out: Collection[int], upto: int, slo_s: float | None
) -> int | None:
    """The batch whose measurement is most likely to change an answer; where all are settled, the least certain one.

    `out`: batches that cannot be measured, though they may fit; `upto`: where memory ends. None: nothing is left.
    A batch decides the knee as far as it may be the knee; the SLO as far as it may lie on the other side of the bound.
    """
    grid, seconds, sigma = estimate.paper.grid, estimate.grid_seconds, estimate.grid_sigma
    left = [i for i, b in enumerate(grid) if b <= upto and b not in measured and b not in out]
    if not left:
        return None
    decides = _knee_doubt(estimate, upto)
    if slo_s is not None:
        slo = [normal_share(-abs(math.log(s / slo_s)) / x) for s, x in zip(seconds, sigma, strict=True)]
        decides = np.maximum(decides, slo)
    best = max(left, key=lambda i: (decides[i], sigma[i]))
    if decides[best] < _UNDECIDED:
        best = max(left, key=lambda i: (sigma[i], i))
    return grid[best]


def _knee_doubt(estimate: Estimate, upto: int) -> "np.ndarray":
    """For each batch of the grid how likely it is the knee instead; for the knee itself how likely any other is."""
    grid, n = estimate.paper.grid, sum(b <= upto for b in estimate.paper.grid)
    out = np.zeros(len(grid))
    if n < 2:
        return out
    knee = grid.index(estimate.knee(upto).batch)
    out[:n] = chances(grid[:n], estimate.grid_seconds[:n], estimate.apart[:n, :n])
    out[knee] = 0.0
    out[knee] = out.max()
    return out
