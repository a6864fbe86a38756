"""The knee of a throughput curve: from which batch on a larger one costs more latency than it gains throughput."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from ridgepoint.prediction import Z80
from ridgepoint.study.betting import TIE

__all__ = ["DEFINITION", "End", "Knee", "chances", "knee_of", "log_power"]

DEFINITION = (
    "knee.half-gain.v1: largest batch whose throughput / latency is within a tie of the highest; a tie is what 3 % of step "
    "time makes; a batch r times as large gains less than √r throughput, a doubled one less than 1.41x"
)
_TIE = 2 * np.log1p(TIE)
"""Of log power: power has step time squared."""

End = Literal["", "first", "last"]
_Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Knee:
    """The batch, the smallest and the largest that are too close to call at 80 %, and the end of the grid that it is at.

    At the last batch the knee lies there or beyond; at the first it lies there or before.
    """

    batch: int
    low: int
    high: int
    end: End = ""


def log_power(batches: Sequence[int], seconds: Sequence[float] | _Floats) -> _Floats:
    """log of throughput / latency = log(batch / seconds²), up to a constant.

    Power in the sense of Kleinrock (Power and deterministic rules of thumb, ICC 1979); its maximum is the knee of Jain,
    Ramakrishnan and Chiu (Congestion avoidance, DEC-TR-506, 1987). Where step time is fixed + marginal x batch, it lies
    where the two are equal, at half of the highest throughput: the n½ of Hockney and Jesshope (Parallel Computers,
    1981); where step time is max(weights / bandwidth, FLOPs / peak), at the ridge point. At the maximum
    d log seconds / d log batch = 1/2: a doubled batch costs 1.41x latency and gains 1.41x throughput, half of the
    doubling. Units, the unit of a batch and the length of the grid drop out; in Kneedle (Satopaa et al., 2011) the knee
    moves with the ends of the grid, which are normalised to 0 and 1.
    """
    return np.log(np.asarray(batches, float)) - 2 * np.log(np.asarray(seconds, float))


def knee_of(batches: Sequence[int], seconds: Sequence[float] | _Floats, apart: _Floats | None = None) -> Knee:
    """The knee of these batches, which are sorted; any subset of a sweep will do.

    `apart` [n, n]: standard deviation of log(seconds[i] / seconds[j]), from which the interval comes; None: no error.
    The larger of two batches that tie counts: it has the throughput. Ignored: batches between those given.
    """
    found = _index(log_power(batches, seconds))
    chance = chances(batches, seconds, np.zeros((len(batches),) * 2) if apart is None else apart)
    near = [i for i in range(len(batches)) if i == found or chance[i] >= _UNLIKELY]
    end: End = "" if len(batches) == 1 else "last" if found == len(batches) - 1 else "first" if found == 0 else ""
    return Knee(batches[found], batches[min(near)], batches[max(near)], end)


def chances(batches: Sequence[int], seconds: Sequence[float] | _Floats, apart: _Floats) -> _Floats:
    """How likely each batch is to be the knee in the place of the one that `knee_of` names (1 for that one).

    By its own error against the knee (smaller batches) or against the highest power (larger ones), one at a time.
    """
    power = log_power(batches, seconds)
    found, best = _index(power), int(np.argmax(power))
    out = np.ones(len(power))
    for i in range(len(power)):
        if i < found:
            out[i] = _share_above(power[i] - power[found] - _TIE, 2 * apart[i, found])
        elif i > found:
            out[i] = _share_above(power[i] - power[best] + _TIE, 2 * apart[i, best])
    return out


def _index(power: _Floats) -> int:
    return int(np.max(np.nonzero(power >= np.max(power) - _TIE)))


def _share_above(mean: float, sigma: float) -> float:
    """P(x > 0) for x normal."""
    if sigma <= 0:
        return 1.0 if mean > 0 else 0.0
    return normal_share(mean / sigma)


def normal_share(z: float) -> float:
    """P(x < z) for x standard normal."""
    from math import erf, sqrt

    return 0.5 * (1 + erf(z / sqrt(2)))


_UNLIKELY = normal_share(-Z80)
"""10 %: each end of an 80 % interval leaves that much out."""
