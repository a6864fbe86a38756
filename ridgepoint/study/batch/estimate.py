"""The curve by batch as it is known: predicted, then scaled by what was measured, with errors that shrink beside it."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ridgepoint.prediction import Z80
from ridgepoint.study.batch.knee import Knee, knee_of

__all__ = ["SETTLED", "Estimate", "Measured", "Paper", "Reach", "estimate_of"]

SETTLED = 0.02
"""Error of a measured step time that more steps do not average out: two copies of the same weights differ by 1-3 %."""
_Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Paper:
    """The predicted curve: step time by batch, dense, and how its errors hang together.

    `batch` [n] ascending, with all of `grid` [g] in it; `apart` [n, g]: standard deviation of the log of the ratio of
    step times at the two batches; `sigma` [n]: of a step time itself.
    """

    batch: npt.NDArray[np.int64]
    seconds: _Floats
    sigma: _Floats
    grid: tuple[int, ...]
    apart: _Floats

    @property
    def at(self) -> npt.NDArray[np.int64]:
        """Where each batch of the grid stands in `batch`."""
        return np.searchsorted(self.batch, np.asarray(self.grid))


@dataclass(frozen=True, slots=True)
class Measured:
    """Seconds of a step, and the standard deviation of their log."""

    seconds: float
    sigma: float


@dataclass(frozen=True, slots=True)
class Reach:
    """The largest batch whose step keeps a bound, 0 if none does, with its 80 % interval.

    `at_end`: the largest batch that was asked about keeps it, so that the true one may lie beyond.
    """

    batch: int
    low: int
    high: int
    at_end: bool


@dataclass(frozen=True)
class Estimate:
    """Step time by batch [n] as known, with the standard deviation of its log, and the same for ratios of the grid [g, g]."""

    paper: Paper
    seconds: _Floats
    sigma: _Floats
    apart: _Floats

    @property
    def grid_seconds(self) -> _Floats:
        """Step time at each batch of the grid."""
        return self.seconds[self.paper.at]

    @property
    def grid_sigma(self) -> _Floats:
        """Standard deviation of its log."""
        return self.sigma[self.paper.at]

    def knee(self, upto: int) -> Knee:
        """The knee among the batches of the grid up to `upto`, where memory ends; of the first where none fits."""
        n = max(1, sum(b <= upto for b in self.paper.grid))
        return knee_of(self.paper.grid[:n], self.grid_seconds[:n], self.apart[:n, :n])

    def reach(self, bound_s: float, upto: int) -> Reach:
        """The largest batch up to `upto` that keeps the bound."""
        inside = self.paper.batch <= upto
        spread = np.exp(Z80 * self.sigma)

        def last(seconds: _Floats) -> int:
            keeps = self.paper.batch[inside & (seconds <= bound_s)]
            return int(keeps[-1]) if len(keeps) else 0

        ends = sorted((last(self.seconds * spread), last(self.seconds), last(self.seconds / spread)))
        largest = int(self.paper.batch[inside][-1]) if inside.any() else 0
        return Reach(ends[1], ends[0], ends[2], 0 < largest == ends[1])


def estimate_of(paper: Paper, measured: Mapping[int, Measured]) -> Estimate:
    """The predicted curve times measured / predicted, interpolated in log batch between measured batches and held constant
    beyond them.

    The error of a scaled step time: that of its ratio to the nearest measured batch on each side, both together where
    there are two (as if they were independent), and the measurement's own. Ignored: that errors of neighbours are alike.
    """
    at = paper.at
    whole = paper.apart[at]
    if not measured:
        return Estimate(paper, paper.seconds, paper.sigma, whole)
    known = [i for i, batch in enumerate(paper.grid) if batch in measured]
    places, x = np.log([paper.grid[i] for i in known]), np.log(paper.batch)
    points = [measured[paper.grid[i]] for i in known]
    ratios = np.log([p.seconds for p in points]) - np.log(paper.seconds[at[known]])
    sigma = _sigma(paper, known, x, np.interp(x, places, [p.sigma for p in points]))
    seconds = paper.seconds * np.exp(np.interp(x, places, ratios))
    both = np.hypot(*np.meshgrid(sigma[at], sigma[at]))
    return Estimate(paper, seconds, sigma, np.minimum(both, np.maximum(whole, 2**0.5 * SETTLED)))


def _sigma(paper: Paper, known: list[int], x: _Floats, own: _Floats) -> _Floats:
    places = np.log([paper.grid[i] for i in known])
    precision = np.zeros(len(x))
    for side in (-1, 1):
        here = np.searchsorted(places, x, side="right") - 1 if side < 0 else np.searchsorted(places, x, side="left")
        there = (here >= 0) & (here < len(known))
        column = np.asarray(known)[np.clip(here, 0, len(known) - 1)]
        apart = np.maximum(paper.apart[np.arange(len(x)), column], 1e-9)
        precision += np.where(there, apart**-2.0, 0.0)
    exact = np.isin(np.round(np.exp(x)).astype(int), [paper.grid[i] for i in known])
    return np.where(exact, own, np.hypot(own, precision**-0.5))
