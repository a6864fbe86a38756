"""The curve by batch as it is known: what was predicted and what was measured, each weighed by its error."""

from collections.abc import Callable, Mapping
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
    """The predicted curve and the measured step times, each weighed by its error (Gaussian process regression on
    log(measured / predicted); Rasmussen and Williams 2006, equations 2.23 and 2.24).

    The prior has mean 0 and the covariance that `sigma` and `apart` imply; the noise is that of the measurements, as if they were
    independent. Where they lie farther from the prediction than both errors allow (chi-squared per measurement above 1, the ratio
    of Birge 1932), a factor that all batches share is left open as far as it must be, and where that is not enough, all of the
    prior's errors are widened: a prediction that is wrong by a factor is not believed because it was sure of itself. Ignored:
    that the widening is itself uncertain.
    """
    whole = paper.apart[paper.at]
    if not measured:
        return Estimate(paper, paper.seconds, paper.sigma, whole)
    known = [i for i, batch in enumerate(paper.grid) if batch in measured]
    points = [measured[paper.grid[i]] for i in known]
    logs = np.log([p.seconds for p in points]) - np.log(paper.seconds[paper.at[known]])
    noise = np.diag([p.sigma**2 for p in points])
    shared = _shared(paper)
    seen = _possible(shared[paper.at[known]][:, known])
    common, wide = _widened(seen, noise, logs)
    seen, shared, sigma2 = wide * seen + common, wide * shared + common, wide * paper.sigma**2 + common
    gain = np.linalg.solve(seen + noise, shared[:, known].T).T
    left = sigma2 - np.einsum("ij,ij->i", gain, shared[:, known])
    pairs = shared[paper.at] - gain[paper.at] @ shared[paper.at][:, known].T
    variance = np.diag(pairs)
    apart = np.sqrt(np.maximum(variance[:, None] + variance[None, :] - pairs - pairs.T, 0.0))
    return Estimate(paper, paper.seconds * np.exp(gain @ logs), np.sqrt(np.maximum(left, _LEAST**2)), apart)


_LEAST = 1e-3
"""Standard deviation below which rounding decides."""


def _shared(paper: Paper) -> _Floats:
    """Covariance [n, g] of the log errors: var(a) + var(b) - var(a - b) = 2 cov(a, b)."""
    return 0.5 * (paper.sigma[:, None] ** 2 + paper.sigma[paper.at][None, :] ** 2 - paper.apart**2)


def _possible(covariance: _Floats) -> _Floats:
    """The nearest matrix without negative eigenvalues: errors of ratios that were put together from maxima may leave some."""
    values, vectors = np.linalg.eigh(0.5 * (covariance + covariance.T))
    found: _Floats = (vectors * np.maximum(values, 0.0)) @ vectors.T
    return found


def _widened(seen: _Floats, noise: _Floats, logs: _Floats) -> tuple[float, float]:
    """The least variance of a common factor, and then the least factor on the prior, under which measurements are no surprise."""

    def surprise(common: float, wide: float) -> float:
        return float(logs @ np.linalg.solve(wide * seen + common + noise, logs)) / len(logs)

    common = _least(lambda x: surprise(x, 1.0), float(np.min(np.diag(noise))))
    return common, 1.0 + _least(lambda x: surprise(common, 1.0 + x), 1.0)


def _least(surprise: Callable[[float], float], unit: float) -> float:
    """The least x from 0 to `_MOST` units at which a falling function is at most 1; the end where it is nowhere."""
    if surprise(0.0) <= 1.0:
        return 0.0
    low, high = 0.0, unit
    while surprise(high) > 1.0 and high < _MOST * unit:
        low, high = high, 4.0 * high
    for _ in range(40):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if surprise(middle) > 1.0 else (low, middle)
    return high


_MOST = 4.0**12
