"""The cheapest format for each layer that keeps a tolerance: assignments in the order of their cost, measured till one holds."""

import heapq
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = ["Assignment", "Found", "by_cost", "cheapest"]

Assignment = tuple[int, ...]
"""Index of the format of each layer."""
_Floats = npt.NDArray[np.float64]

SLACK = 1.5
"""Before anything was measured: the factor by which summed losses may exceed the tolerance and still be worth a try."""
_ROOM = 0.8
"""After that: a try is spared where the summed loss, times the least ratio of measured to summed loss that was seen, times
this, is beyond the tolerance."""
_PATIENCE = 3
"""Failures among assignments of one cost, in the order of their summed losses, after which the rest of them are passed by."""


@dataclass(frozen=True, slots=True)
class Found:
    """The cheapest assignment that was measured to keep the tolerance (None: none was), its loss, and how many were tried.

    `complete`: no cheaper one was passed by that the summed losses did not rule out.
    """

    assignment: Assignment | None
    loss: float
    tried: int
    complete: bool


def by_cost(cost_LF: _Floats, loss_LF: _Floats, most: float) -> Iterator[tuple[float, float, Assignment]]:
    """(cost, summed loss, assignment) of every assignment with a summed loss of at most `most`, cheapest first, ties by loss.

    Best-first search: a partial assignment is ordered by its cost and the least that the layers still open can cost, and is
    dropped where even their least losses exceed `most`; so the first complete one is the cheapest (A*, Hart et al. 1968).
    Costs are compared to 9 digits, so that equal layers tie.
    """
    layers, formats = cost_LF.shape
    left_cost = np.concatenate([np.cumsum(cost_LF.min(1)[::-1])[::-1], [0.0]])
    left_loss = np.concatenate([np.cumsum(loss_LF.min(1)[::-1])[::-1], [0.0]])
    scale = float(np.abs(cost_LF).sum()) or 1.0
    heap: list[tuple[float, float, int, Assignment, float, float]] = [(0.0, 0.0, 0, (), 0.0, 0.0)]
    while heap:
        _, _, _, chosen, cost, loss = heapq.heappop(heap)
        at = len(chosen)
        if at == layers:
            yield cost, loss, chosen
            continue
        for f in range(formats):
            c, x = cost + float(cost_LF[at, f]), loss + float(loss_LF[at, f])
            least = x + float(left_loss[at + 1])
            if least <= most:
                rank = round((c + float(left_cost[at + 1])) / scale, 9)
                heapq.heappush(heap, (rank, least, -at, (*chosen, f), c, x))


def cheapest(
    cost_LF: Sequence[Sequence[float]], loss_LF: Sequence[Sequence[float]], tolerance: float,
    measure: Callable[[Assignment], float], most_tried: int = 40, patience: int = _PATIENCE,
) -> Found:  # fmt: skip
    """The cheapest assignment of a format to each layer whose measured loss is at most `tolerance`.

    `cost_LF`: what layer L costs in format F; costs add up. `loss_LF`: what it loses alone, at least 0; it decides the order
    among equal costs and what is not worth a try, never what is accepted. `measure` gives the loss of a whole assignment.
    """
    cost, loss = np.asarray(cost_LF, float), np.maximum(np.asarray(loss_LF, float), 0.0)
    tried, failed, last, whole = 0, 0, float("nan"), True
    ratio = 1 / (_ROOM * SLACK)
    scale = float(np.abs(cost).sum()) or 1.0
    for price, summed, assignment in by_cost(cost, loss, SLACK * 4 * tolerance):
        failed, last = (failed, last) if abs(price - last) <= 1e-8 * scale else (0, price)
        if summed * ratio * _ROOM > tolerance:
            continue
        if failed >= patience or tried == most_tried:
            whole = False
            if tried == most_tried:
                break
            continue
        tried += 1
        seen = measure(assignment)
        if seen <= tolerance:
            return Found(assignment, seen, tried, whole)
        failed += 1
        if summed > 0:
            ratio = min(ratio, seen / summed) if tried > 1 else seen / summed
    return Found(None, float("inf"), tried, whole)
