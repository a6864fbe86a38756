"""Paired differences of scores, item by item: an interval that holds for right-or-wrong items, McNemar's test, a verdict."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ridgepoint.errors import BadInput
from ridgepoint.study.accuracy import Difference, judged, paired_difference

__all__ = ["Flips", "flips", "paired_scores"]

_Z95 = 1.959964
_FEWEST = 8


@dataclass(frozen=True, slots=True)
class Flips:
    """Items that only one of two sides gets right, and McNemar's exact two-sided p of such an imbalance by chance."""

    only_a: int
    only_b: int
    p: float


def paired_scores(a: Sequence[float], b: Sequence[float], tolerance: float) -> Difference:
    """What B loses of the score, a - b, with its 95 % interval and what follows for a tolerance; positive is a loss.

    Items that are right or wrong (0 or 1): the interval of Bonett and Price (2012, "Adjusted Wald confidence interval for a
    difference of binomial proportions based on paired data", eq. 8), one imagined item added to each kind of disagreement;
    it stays open where no item differs, as Student's would not. Other scores: Student's, by `paired_difference`.
    BadInput for fewer than 8 items.
    """
    n = len(a)
    if n < _FEWEST:
        raise BadInput(
            f"{n} items are too few for an interval; at least {_FEWEST}: raise --items or give a longer task"
        )
    if not set(a) | set(b) <= {0.0, 1.0}:
        return paired_difference([-x for x in a], [-x for x in b], tolerance)
    only_a, only_b = _discordant(a, b)
    lost, won = (only_a + 1) / (n + 2), (only_b + 1) / (n + 2)
    half = _Z95 * math.sqrt((lost + won - (lost - won) ** 2) / (n + 2))
    return judged((only_a - only_b) / n, max(-1.0, lost - won - half), min(1.0, lost - won + half), n, tolerance)


def flips(a: Sequence[float], b: Sequence[float]) -> Flips | None:
    """Of right-or-wrong items; None for other scores. p: McNemar (1947), by the binomial distribution."""
    if not set(a) | set(b) <= {0.0, 1.0}:
        return None
    only_a, only_b = _discordant(a, b)
    n = only_a + only_b
    tail = sum(math.comb(n, k) for k in range(min(only_a, only_b) + 1))
    return Flips(only_a, only_b, min(1.0, 2 * tail / 2**n))


def _discordant(a: Sequence[float], b: Sequence[float]) -> tuple[int, int]:
    first, second = np.asarray(a), np.asarray(b)
    return int(((first == 1) & (second == 0)).sum()), int(((first == 0) & (second == 1)).sum())
