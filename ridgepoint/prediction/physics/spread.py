"""Width of an interval: how far measurements lie from a prediction, by what bounds the operator."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from ridgepoint.prediction.physics.optime import PhysicalTime
from ridgepoint.quantity import Array

__all__ = ["SPREAD_TERMS", "Z80", "spread_features", "spread_sigma"]

Z80 = 1.2816
"""Half-width of a central 80 % interval in standard deviations of a normal distribution."""
SPREAD_TERMS = 5
_NARROWEST, _WIDEST = 0.01, 1.5


def spread_features(time: PhysicalTime) -> tuple[Array, ...]:
    """1; shares of arithmetic and of memory in what bounds the operator; how even the two are; how much of the time no part
    explains. All between 0 and 1, so that no machine leads far out of what was seen."""
    seconds, compute, memory = (np.asarray(x, float) for x in (time.seconds, time.compute_s, time.memory_s))
    of_compute, of_memory = np.minimum(compute / seconds, 1.0), np.minimum(memory / seconds, 1.0)
    explained = np.maximum(np.maximum(of_compute, of_memory), time.fixed_s / seconds)
    unexplained = np.minimum(np.maximum(1.0 - explained, 0.0), 1.0)
    return np.ones_like(seconds), of_compute, of_memory, 4.0 * of_compute * of_memory, unexplained


def spread_sigma(time: PhysicalTime, coefficients: Sequence[float]) -> npt.NDArray[np.float64]:
    """Standard deviation of the log error, such that `Z80` of them hold 80 %: exp of a sum of the features."""
    log = sum((c * x for c, x in zip(coefficients, spread_features(time), strict=True)), start=0.0)
    return np.minimum(np.maximum(np.exp(log), _NARROWEST), _WIDEST)
