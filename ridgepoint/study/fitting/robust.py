"""Fit the parameters of a time model to measured times: robust least squares of log errors, in logarithms."""

from collections.abc import Callable, Mapping
from typing import TypeVar

import msgspec
import numpy as np
import numpy.typing as npt

from ridgepoint.errors import NotSupported
from ridgepoint.prediction.physics.parameters import Parameters, parameters_of

__all__ = ["fit_parameters", "robust_cost"]

P = TypeVar("P", bound=Parameters)
Seconds = npt.NDArray[np.float64]

_SOFT = 0.08
"""Log error from which a row counts linearly rather than by its square: outliers of published tables are many."""


def fit_parameters(
    model: type[P],
    predict: Callable[[P], Seconds],
    measured_s: Seconds,
    *,
    start: P | None = None,
    fixed: Mapping[str, float] | None = None,
    weights: Seconds | None = None,
    evaluations: int = 60,
    prior: P | None = None,
    pull: float = 0.0,
) -> P:
    """Parameters with the smallest robust log error of `predict` against `measured_s`; `fixed` ones stay as given.

    `prior` draws the logarithm of each parameter towards its own, as strongly as `pull` rows whose error is the
    distance; so that few rows do not decide what many of a like machine have told.
    """
    try:
        from scipy.optimize import least_squares
    except ImportError:
        raise NotSupported("fitting needs SciPy, which is not installed; pip install 'ridgepoint[fit]'") from None
    first = msgspec.structs.replace(start or prior or model(), **dict(fixed or {}))
    free = [p for p in parameters_of(model) if p.name not in (fixed or {})]
    low, high = np.log([p.low for p in free]), np.log([p.high for p in free])
    x0 = np.clip(np.log([getattr(first, p.name) for p in free]), low + 1e-6, high - 1e-6)
    centre = np.log([getattr(prior or first, p.name) for p in free])
    weight = np.ones_like(measured_s) if weights is None else np.sqrt(weights)

    def at(x: Seconds) -> P:
        return msgspec.structs.replace(first, **{p.name: float(v) for p, v in zip(free, np.exp(x), strict=True)})

    def error(x: Seconds) -> Seconds:
        misses = weight * np.log(predict(at(x)) / measured_s)
        return np.concatenate([misses, np.sqrt(pull) * _SOFT * (x - centre)]) if pull else misses

    found = least_squares(
        error, x0, bounds=(low, high), loss="soft_l1", f_scale=_SOFT, diff_step=1e-3, max_nfev=evaluations
    )
    return at(np.clip(found.x, low, high))


def robust_cost(predicted_s: Seconds, measured_s: Seconds) -> float:
    """What a fit makes small: the sum over rows of the soft loss of the log error."""
    squared = np.square(np.log(predicted_s / measured_s) / _SOFT)
    return float(np.sum(2.0 * (np.sqrt(1.0 + squared) - 1.0)))
