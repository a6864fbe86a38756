"""Fit the width of intervals to errors of rows that a fit had not seen: a quantile regression over all cells of an operator."""

from collections.abc import Sequence

import numpy as np

from ridgepoint.errors import NotSupported
from ridgepoint.prediction.physics.optime import PhysicalTime
from ridgepoint.prediction.physics.spread import SPREAD_TERMS, Z80, spread_features
from ridgepoint.study.published.table import Floats

__all__ = ["fit_spreads", "robust_sigma"]

_COVERED = 0.8
_LEAST = 1e-3
_MOST_ROWS = 6000
"""Rows, drawn from all, from which the slopes are fitted."""
_FEW = 40
"""Rows below which one width serves all."""
_STEEPEST = 3.0
"""Largest slope: a factor of e^3 in width between one bound and another is more than any table has shown."""
_KEPT = 0.5
"""Of the slopes. Widths that follow the scale of the errors wholly hold 80 % everywhere and are wide on average; with half
the slope they are narrowest on average for 80 % of all rows of a cell (tried from 0 to 1 on the tables' main operators)."""


def fit_spreads(
    times: Sequence[PhysicalTime], log_errors: Sequence[Floats], telling: Sequence[bool] | None = None
) -> list[tuple[float, ...]]:
    """For each cell the coefficients of `spread_sigma` with which 80 % of its errors lie inside.

    The quantile of a logarithm is the logarithm of the quantile, so the 0.8 quantile of log |error| is linear in the
    features (Koenker and Bassett 1978, doi 10.2307/1913643), and a linear program finds it exactly. Slopes are what all
    cells share, `_KEPT` of them is used; the constant is each cell's own. Errors that are no number count nothing.
    `telling`: the cells from which slopes are fitted; None: all.
    """
    if not times:
        return []
    features, sizes = [], []
    for time, errors in zip(times, log_errors, strict=True):
        good = np.isfinite(errors)
        columns = [np.broadcast_to(f, errors.shape)[good] for f in spread_features(time)[1:]]
        features.append(np.stack(columns, axis=1))
        sizes.append(np.log(np.maximum(np.abs(errors[good]), _LEAST) / Z80))
    chosen = [i for i in range(len(sizes)) if telling is None or telling[i]]
    slopes = _KEPT * _slopes([features[i] for i in chosen], [sizes[i] for i in chosen])
    return [
        (float(np.quantile(y - x @ slopes, _COVERED)) if len(y) else 0.0, *map(float, slopes))
        for x, y in zip(features, sizes, strict=True)
    ]


def _slopes(features: Sequence[Floats], sizes: Sequence[Floats]) -> Floats:
    """Shared slopes of the quantile, each cell with a constant of its own."""
    if sum(map(len, sizes)) < _FEW + SPREAD_TERMS * len(sizes):
        return np.zeros(SPREAD_TERMS - 1)
    try:
        from scipy.optimize import linprog
        from scipy.sparse import csr_matrix, hstack, identity
    except ImportError:
        raise NotSupported("fitting needs SciPy, which is not installed; pip install 'ridgepoint[fit]'") from None
    cell, x, y = (
        np.repeat(np.arange(len(sizes)), [len(s) for s in sizes]),
        np.concatenate(features),
        np.concatenate(sizes),
    )
    some = np.sort(np.random.default_rng(0).permutation(len(y))[:_MOST_ROWS])
    cell, x, y, rows = cell[some], x[some], y[some], len(some)
    own = csr_matrix((np.ones(rows), (np.arange(rows), cell)), shape=(rows, len(sizes)))
    equal = hstack([own, csr_matrix(x), identity(rows), -identity(rows)])
    cost = np.concatenate([np.zeros(len(sizes) + x.shape[1]), np.full(rows, _COVERED), np.full(rows, 1 - _COVERED)])
    bounds = [
        *([(None, None)] * len(sizes)), *([(-_STEEPEST, _STEEPEST)] * x.shape[1]), *([(0, None)] * (2 * rows)),
    ]  # fmt: skip
    found = linprog(cost, A_eq=equal, b_eq=y, bounds=bounds, method="highs")
    return np.asarray(found.x[len(sizes) : len(sizes) + x.shape[1]], dtype=np.float64)


def robust_sigma(log_errors: Floats) -> float:
    """Standard deviation of a normal distribution with the same central 80 %."""
    good = np.abs(log_errors[np.isfinite(log_errors)])
    return float(np.quantile(good, _COVERED)) / Z80 if len(good) else float("nan")
