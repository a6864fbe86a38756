"""Seconds per step of each operator of a plan: leaves of the same last name are added up over layers."""

import time

from ridgepoint.measurement.clock import Clock
from ridgepoint.measurement.optime import overhead_s, timed_leaves
from ridgepoint.measurement.runnable import Runnable

__all__ = ["LeafRows", "leaf_totals"]

_LEAST_STEPS, _MOST_STEPS, _SECONDS = 7, 60, 0.3
_FASTER = 0.4


class LeafRows:
    """Steps of a decoder or a layer timed leaf by leaf, between blocks of plain ones."""

    def __init__(self, run: Runnable, clock: Clock):
        self._run, self._clock = run, clock
        self._own_s: float | None = None
        self._steps: list[dict[str, float]] = []

    def step(self) -> None:
        """One more, unless there are enough. What timing costs is measured before the first, when the steps are warm: of a
        process that has just begun it is twice as much."""
        if self._own_s is None:
            self._own_s = overhead_s(self._clock)
        if len(self._steps) < _MOST_STEPS:
            self._steps.append(leaf_totals(self._run, self._clock, self._own_s))

    def seconds(self, _step_s: float) -> dict[str, float]:
        """Seconds per step of each operator: the mean of the faster two fifths of the steps, whose total is about the
        20th percentile that the whole step has; quantiles of single operators would not add up to it."""
        until = time.monotonic() + _SECONDS
        while len(self._steps) < _LEAST_STEPS or (time.monotonic() < until and len(self._steps) < _MOST_STEPS):
            self.step()
        self._steps.sort(key=lambda step: sum(step.values()))
        fast = self._steps[: max(1, round(_FASTER * len(self._steps)))]
        names = dict.fromkeys(name for step in fast for name in step)
        return {name: sum(step.get(name, 0.0) for step in fast) / len(fast) for name in names}


def leaf_totals(run: Runnable, clock: Clock, own_s: float | None = None) -> dict[str, float]:
    """One step of `run`, operator by operator; `own_s`, what timing adds to each call, is measured now where it is not given."""
    with timed_leaves(run.model, clock, own_s) as times:
        run.plain()
    totals: dict[str, float] = {}
    for name, values in times.items():
        row = run.row_of(name)
        totals[row] = totals.get(row, 0.0) + sum(values)
    return totals
