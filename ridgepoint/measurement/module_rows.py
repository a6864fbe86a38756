"""Seconds per step of each row of a module: recorded calls in turns with plain ones, less what recording adds."""

import time
from collections.abc import Callable, Sequence
from statistics import median

from ridgepoint.measurement.clock import Clock, CudaEvents, timed
from ridgepoint.measurement.rows import BETWEEN
from ridgepoint.measurement.runnable import Runnable
from ridgepoint.measurement.trace.profiled import event_s, profiled
from ridgepoint.measurement.trace.timing import Recorded, call_overhead_s, gap_overhead_s, recorded

__all__ = ["ModuleRows", "Turns", "profiled_shares", "row_shares"]

_LEAST_TURNS, _MOST_TURNS, _SECONDS = 9, 60, 0.5
_KEPT = 0.6
"""Of the turns, the middle ones by how much longer the recorded call took."""
_MOST_OWN = 2.0
"""Recording cannot add more than so many times what it adds to a view by itself: beyond, it is the machine's noise."""


class ModuleRows:
    """Recorded calls of a module, each beside a plain one: both meet the machine in the same moment."""

    def __init__(self, run: Runnable, clock: Clock):
        self._run, self._turns = run, Turns(clock)

    def step(self) -> None:
        """One more turn, unless there are enough."""
        if len(self._turns) < _MOST_TURNS:
            self._turns.more(self._run.plain, self._run.rows)

    def seconds(self, step_s: float) -> dict[str, float]:
        """Row -> seconds, where the whole plain step takes `step_s`."""
        until = time.monotonic() + _SECONDS
        while len(self._turns) < _LEAST_TURNS or (time.monotonic() < until and len(self._turns) < _MOST_TURNS):
            self.step()
        return {row: step_s * share for row, share in self._turns.shares().items()}


class Turns:
    """Plain calls of a module and recorded ones beside them.

    By torch's profiler, where it tells the operators that the recorder tells, which made the trace: not of some that are
    made of others (recurrent layers, operators of the user's own), and not on a GPU, whose clock are its events.
    """

    def __init__(self, clock: Clock):
        self._clock, self._profiles = clock, not isinstance(clock, CudaEvents)
        self._own: tuple[float, ...] = ()
        self.taken: list[tuple[float, Recorded]] = []

    def __len__(self) -> int:
        return len(self.taken)

    def more(self, call: Callable[[], object], rows: Sequence[tuple[str, str]]) -> None:
        """One more; plain and recorded call take turns in being the first."""
        clock = self._clock
        if not self._own:  # when the steps are warm: of a process that has just begun it is twice as much
            self._profiles = self._profiles and (profiled(call, rows, clock).names == recorded(call, rows, clock).names)
            self._own = (event_s(clock),) if self._profiles else (call_overhead_s(clock), gap_overhead_s(clock))
        record = profiled if self._profiles else recorded
        told = record(call, rows, clock) if len(self) % 2 else None
        if self._profiles:
            call()  # as of the recorded: what came between has displaced the step's code
        plain_s = timed(call, clock)
        self.taken.append((plain_s, told or record(call, rows, clock)))

    def shares(self) -> dict[str, float]:
        """Row -> its share of a plain step."""
        return profiled_shares(self.taken, *self._own) if self._profiles else row_shares(self.taken, *self._own)


def profiled_shares(turns: list[tuple[float, Recorded]], event_s: float) -> dict[str, float]:
    """Row -> its share of a plain step, from (seconds of the plain step, the profiled one) of each turn.

    `event_s`, the profiler's own cost for each mark, is taken off; it was measured elsewhere, so that the shares add up to 1
    only if rows and gaps make the step. What passes between the calls is the row `BETWEEN`; a part of the cost lies there,
    and of calls that are shorter than the cost it is taken from there.
    """
    turns = _middle([turn for turn in turns if turn[0] > 0])
    plain_s = sum(seconds for seconds, _ in turns)
    rows = dict.fromkeys(row for _, told in turns for row in told.rows_s)
    spent = {
        row: sum(told.rows_s.get(row, 0.0) - event_s * told.rows_marks.get(row, 0) for _, told in turns) for row in rows
    }
    if not turns:
        return {}  # a step shorter than a tick of the clock
    spent[BETWEEN] = sum(told.whole_s - sum(told.rows_s.values()) for _, told in turns)
    spent[BETWEEN] += sum(min(0.0, seconds) for row, seconds in spent.items() if row != BETWEEN)
    return {row: max(0.0, seconds) / plain_s for row, seconds in spent.items()}


def row_shares(turns: list[tuple[float, Recorded]], call_s: float, gap_s: float) -> dict[str, float]:
    """Row -> its share of a plain step, from (seconds of the plain step, the recorded one) of each turn.

    For a recorder in Python, whose cost depends on how much of it the step displaces (5 to 25 microseconds a call). What it
    adds to a call and to the gap behind it is measured where it is paid: the median of recorded less
    plain, over the number of calls; `call_s` and `gap_s`, what it adds to views and to the gaps between them, say how
    to part it and how much it can be at most. So shares add up to 1 by construction, but where that bound is reached or
    a row would fall below 0: how a step is parted among its rows is measured, not that the parts make the whole. What
    passes between the calls is the row `BETWEEN`.
    """
    turns = _middle([turn for turn in turns if turn[0] > 0])
    if not turns:
        return {}  # a step shorter than a tick of the clock
    calls = median(told.marks for _, told in turns)
    most_s = _MOST_OWN * (call_s + gap_s)
    own_s = min(max(0.0, median(told.whole_s - plain_s for plain_s, told in turns) / max(calls, 1)), most_s)
    in_call_s = own_s * call_s / (call_s + gap_s) if own_s > 0 else 0.0
    plain_s = sum(seconds for seconds, _ in turns)
    rows = dict.fromkeys(row for _, told in turns for row in told.rows_s)
    shares = {}
    for row in rows:
        spent_s = sum(told.rows_s.get(row, 0.0) - in_call_s * told.rows_marks.get(row, 0) for _, told in turns)
        shares[row] = max(0.0, spent_s) / plain_s
    gaps_s = sum(told.whole_s - sum(told.rows_s.values()) - (own_s - in_call_s) * told.marks for _, told in turns)
    return shares | {BETWEEN: max(0.0, gaps_s) / plain_s}


def _middle(turns: list[tuple[float, Recorded]]) -> list[tuple[float, Recorded]]:
    """Without the turns in which one of the two was disturbed more than the other."""
    ordered = sorted(turns, key=lambda turn: turn[1].whole_s / turn[0])
    dropped = int(len(ordered) * (1 - _KEPT) / 2)
    return ordered[dropped : len(ordered) - dropped]
