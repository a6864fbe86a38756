"""Seconds per step of each row of a module: recorded calls in turns with plain ones, less what recording adds."""

import time
from collections.abc import Callable, Sequence
from statistics import median

from ridgepoint.measurement.clock import Clock, timed
from ridgepoint.measurement.rows import BETWEEN
from ridgepoint.measurement.runnable import Runnable
from ridgepoint.measurement.trace.timing import Recorded, call_overhead_s, gap_overhead_s, recorded

__all__ = ["ModuleRows", "row_shares", "turn"]

_LEAST_TURNS, _MOST_TURNS, _SECONDS = 9, 60, 0.5
_KEPT = 0.6
"""Of the turns, the middle ones by how much longer the recorded call took."""
_MOST_OWN = 2.0
"""Recording cannot add more than so many times what it adds to a view by itself: beyond, it is the machine's noise."""


class ModuleRows:
    """Recorded calls of a module, each beside a plain one: both meet the machine in the same moment."""

    def __init__(self, run: Runnable, clock: Clock):
        self._run, self._clock = run, clock
        self._own: tuple[float, float] | None = None
        self._turns: list[tuple[float, Recorded]] = []

    def step(self) -> None:
        """One more turn, unless there are enough; plain and recorded call take turns in being the first."""
        if self._own is None:  # when the steps are warm: of a process that has just begun it is twice as much
            self._own = call_overhead_s(self._clock), gap_overhead_s(self._clock)
        if len(self._turns) < _MOST_TURNS:
            self._turns.append(turn(self._run.plain, self._run.rows, self._clock, len(self._turns)))

    def seconds(self, step_s: float) -> dict[str, float]:
        """Row -> seconds, where the whole plain step takes `step_s`."""
        until = time.monotonic() + _SECONDS
        while len(self._turns) < _LEAST_TURNS or (time.monotonic() < until and len(self._turns) < _MOST_TURNS):
            self.step()
        assert self._own is not None, "every turn has measured it"
        return {row: step_s * share for row, share in row_shares(self._turns, *self._own).items()}


def turn(
    call: Callable[[], object], rows: Sequence[tuple[str, str]], clock: Clock, number: int
) -> tuple[float, Recorded]:
    """Seconds of a plain call, and a recorded one beside it; of every other turn the recorded one is first."""
    if number % 2:
        told = recorded(call, rows, clock)
        return timed(call, clock), told
    plain_s = timed(call, clock)
    return plain_s, recorded(call, rows, clock)


def row_shares(turns: list[tuple[float, Recorded]], call_s: float, gap_s: float) -> dict[str, float]:
    """Row -> its share of a plain step, from (seconds of the plain step, the recorded one) of each turn.

    What recording adds to a call and to the gap behind it is measured where it is paid: the median of recorded less
    plain, over the number of calls; `call_s` and `gap_s`, what it adds to views and to the gaps between them, say how
    to part it and how much it can be at most. So shares add up to 1 by construction, but where that bound is reached or
    a row would fall below 0: how a step is parted among its rows is measured, not that the parts make the whole. What
    passes between the calls is the row `BETWEEN`.
    """
    turns = _middle([turn for turn in turns if turn[0] > 0])
    if not turns:
        return {}  # a step shorter than a tick of the clock
    calls = median(told.calls for _, told in turns)
    most_s = _MOST_OWN * (call_s + gap_s)
    own_s = min(max(0.0, median(told.whole_s - plain_s for plain_s, told in turns) / max(calls, 1)), most_s)
    in_call_s = own_s * call_s / (call_s + gap_s) if own_s > 0 else 0.0
    plain_s = sum(seconds for seconds, _ in turns)
    rows = dict.fromkeys(row for _, told in turns for row in told.rows_s)
    shares = {}
    for row in rows:
        spent_s = sum(told.rows_s.get(row, 0.0) - in_call_s * told.rows_calls.get(row, 0) for _, told in turns)
        shares[row] = max(0.0, spent_s) / plain_s
    gaps_s = sum(told.whole_s - sum(told.rows_s.values()) - (own_s - in_call_s) * told.calls for _, told in turns)
    return shares | {BETWEEN: max(0.0, gaps_s) / plain_s}


def _middle(turns: list[tuple[float, Recorded]]) -> list[tuple[float, Recorded]]:
    """Without the turns in which one of the two was disturbed more than the other."""
    ordered = sorted(turns, key=lambda turn: turn[1].whole_s / turn[0])
    dropped = int(len(ordered) * (1 - _KEPT) / 2)
    return ordered[dropped : len(ordered) - dropped]
