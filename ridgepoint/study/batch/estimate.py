"""The curve by batch as it is known: what was predicted and what was measured, each weighed by its error."""

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

    `batch` [n] ascending, with all of `grid` [g] in it; `apart` [g, g]: standard deviation of the log of the ratio of
    step times at two batches of the grid; `sigma` [n]: of a step time itself.
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
    """The predicted curve and the measured step times, each weighed by its error: Gaussian process regression on
    log(measured / predicted) at the batches of the grid (Rasmussen and Williams 2006, equations 2.23 and 2.24), interpolated in
    log batch between them.

    The prior has mean 0, the covariance that `sigma` and `apart` imply, and a factor that all batches share, as far as the
    measurements together lie farther from the prediction than both errors allow (the moment estimate of DerSimonian and Laird
    1986): a prediction that is wrong by a factor is not believed because it was sure of itself. Measurements that are farther
    apart among themselves than that leave the curve as it is and widen all of its errors (the ratio of Birge 1932). The noise is
    that of the measurements, as if they were independent. Ignored: that the factor and the widening are themselves uncertain.
    """
    if not measured:
        return Estimate(paper, paper.seconds, paper.sigma, paper.apart)
    known = [i for i, batch in enumerate(paper.grid) if batch in measured]
    points = [measured[paper.grid[i]] for i in known]
    logs = np.log([p.seconds for p in points]) - np.log(paper.seconds[paper.at[known]])
    noise, prior = np.diag([p.sigma**2 for p in points]), _possible(_prior(paper))
    prior = prior + _common(prior[np.ix_(known, known)] + noise, logs)
    total = prior[np.ix_(known, known)] + noise
    gain = np.linalg.solve(total, prior[known]).T
    wide = max(1.0, float(logs @ np.linalg.solve(total, logs)) / len(logs))
    after = wide * (prior - gain @ prior[known])
    variance = np.diag(after)
    apart = np.sqrt(np.maximum(variance[:, None] + variance[None, :] - after - after.T, 0.0))
    places, x = np.log(paper.grid), np.log(paper.batch)
    seconds = paper.seconds * np.exp(np.interp(x, places, gain @ logs))
    return Estimate(paper, seconds, np.interp(x, places, np.sqrt(np.maximum(variance, _LEAST**2))), apart)


_LEAST = 1e-3
"""Standard deviation below which rounding decides."""


def _prior(paper: Paper) -> _Floats:
    """Covariance [g, g] of the log errors: var(a) + var(b) - var(a - b) = 2 cov(a, b)."""
    variance = paper.sigma[paper.at] ** 2
    return 0.5 * (variance[:, None] + variance[None, :] - paper.apart**2)


def _possible(covariance: _Floats) -> _Floats:
    """The nearest matrix without negative eigenvalues: errors of ratios that were put together from maxima may leave some."""
    values, vectors = np.linalg.eigh(0.5 * (covariance + covariance.T))
    found: _Floats = (vectors * np.maximum(values, 0.0)) @ vectors.T
    return found


def _common(total: _Floats, logs: _Floats) -> float:
    """Variance of a factor that all share: the square of their weighted mean, less what it would be without one."""
    weights = np.linalg.solve(total, np.ones(len(logs)))
    information = float(weights.sum())
    return max(0.0, (float(weights @ logs) / information) ** 2 - 1.0 / information)
