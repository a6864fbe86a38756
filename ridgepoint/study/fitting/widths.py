"""Fit the width of intervals to errors of rows that a fit had not seen: a quantile regression."""

import numpy as np

from ridgepoint.errors import NotSupported
from ridgepoint.prediction.physics.optime import PhysicalTime
from ridgepoint.prediction.physics.spread import SPREAD_TERMS, Z80, spread_features
from ridgepoint.study.published.table import Floats

__all__ = ["fit_spread", "robust_sigma"]

_COVERED = 0.8
_FEW = 40
"""Rows below which one width serves all."""
_LEAST = 1e-3


def fit_spread(time: PhysicalTime, log_errors: Floats) -> tuple[float, ...]:
    """Coefficients of `spread_sigma` with which 80 % of the errors lie inside.

    The quantile of a logarithm is the logarithm of the quantile, so the 0.8 quantile of log |error| is linear in the
    features (Koenker and Bassett 1978, doi 10.2307/1913643), and a linear program finds it exactly.
    """
    try:
        from scipy.optimize import linprog
    except ImportError:
        raise NotSupported("fitting needs SciPy, which is not installed; pip install 'ridgepoint[fit]'") from None
    good = np.isfinite(log_errors)
    y = np.log(np.maximum(np.abs(log_errors[good]), _LEAST) / Z80)
    if len(y) < _FEW:
        return (float(np.quantile(y, _COVERED)) if len(y) else 0.0, *([0.0] * (SPREAD_TERMS - 1)))
    x = np.stack([np.broadcast_to(f, log_errors.shape)[good] for f in spread_features(time)], axis=1)
    rows, terms = x.shape
    cost = np.concatenate([np.zeros(terms), np.full(rows, _COVERED), np.full(rows, 1 - _COVERED)])
    equal = np.hstack([x, np.eye(rows), -np.eye(rows)])
    bounds = [(None, None), *([(-_STEEPEST, _STEEPEST)] * (terms - 1)), *([(0, None)] * (2 * rows))]
    found = linprog(cost, A_eq=equal, b_eq=y, bounds=bounds, method="highs")
    return tuple(float(c) for c in found.x[:terms])


_STEEPEST = 3.0
"""Largest coefficient: a factor of e^3 in width between one bound and another is more than any table has shown."""


def robust_sigma(log_errors: Floats) -> float:
    """Standard deviation of a normal distribution with the same central 80 %."""
    good = np.abs(log_errors[np.isfinite(log_errors)])
    return float(np.quantile(good, _COVERED)) / Z80 if len(good) else float("nan")
