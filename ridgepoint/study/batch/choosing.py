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
_NEAREST, _BESIDE = 0.4, 0.15
"""What the neighbours of an SLO's crossing count at least: before a doubtful candidate for the knee, and after it."""


def budget_of(grid: Collection[int]) -> int:
    """How many of the grid's batches are measured: a third, rounded up; of 2 or 3 batches two."""
    return max(min(len(grid), _LEAST), math.ceil(len(grid) / 3))


def next_batch(
    estimate: Estimate, measured: Collection[int], out: Collection[int], upto: int, slo_s: float | None
) -> int | None:
    """The batch whose measurement is most likely to change an answer; where all are settled, the least certain one.

    `out`: batches that cannot be measured, though they may fit; `upto`: where memory ends. None: nothing is left.
    A batch decides the knee as far as it may be the knee; the SLO as far as it may lie on the other side of the bound, and
    as a neighbour of the crossing, which lies between batches and is as near as its neighbours are known.
    """
    grid, sigma = estimate.paper.grid, estimate.grid_sigma
    left = [i for i, b in enumerate(grid) if b <= upto and b not in measured and b not in out]
    if not left:
        return None
    decides = _knee_doubt(estimate, upto)
    if slo_s is not None:
        decides = np.maximum(decides, _slo_doubt(estimate, measured, slo_s))
    best = max(left, key=lambda i: (decides[i], sigma[i]))
    if decides[best] < _UNDECIDED:
        best = max(left, key=lambda i: (sigma[i], i))
    return grid[best]


def _slo_doubt(estimate: Estimate, measured: Collection[int], slo_s: float) -> "np.ndarray":
    """For each batch of the grid how likely it is on the other side of the bound; of the two beside the crossing at least
    what brings the nearer one to be measured, and then the other before any batch that decides nothing."""
    grid, seconds = estimate.paper.grid, estimate.grid_seconds
    gaps = [math.log(s / slo_s) for s in seconds]
    out = np.array([normal_share(-abs(g) / x) for g, x in zip(gaps, estimate.grid_sigma, strict=True)])
    keeps = [i for i, gap in enumerate(gaps) if gap <= 0]
    if keeps and keeps[-1] + 1 < len(grid):
        beside = sorted((keeps[-1], keeps[-1] + 1), key=lambda i: abs(gaps[i]))
        known = any(grid[i] in measured for i in beside)
        for i, least in zip(beside, (_BESIDE, _BESIDE) if known else (_NEAREST, _BESIDE), strict=True):
            out[i] = max(out[i], least)
    return out


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
