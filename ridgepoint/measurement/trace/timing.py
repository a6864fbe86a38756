"""Seconds of each row of a traced module in one call of it, every operator timed where it is called."""

from collections.abc import Callable, Sequence
from difflib import SequenceMatcher
from statistics import median

import torch

from ridgepoint.measurement.clock import Clock
from ridgepoint.measurement.optime import overhead_s
from ridgepoint.measurement.trace.recorder import Recorder

__all__ = ["OUTSIDE", "call_overhead_s", "call_totals"]


OUTSIDE = "not in the trace"
"""Row of calls that were made, but not when the module was traced."""


def call_totals(
    call: Callable[[], object], traced: Sequence[tuple[str, str]], clock: Clock, own_s: float
) -> dict[str, float]:
    """Row -> seconds, less `own_s` per call, never below 0. `traced`: (operator, row) of each call as it was traced.

    Where other operators are called than in the trace, the two sequences are aligned by name; calls without a partner
    are in the row `OUTSIDE`.
    """
    recorder = Recorder(clock)
    clock.prepare()
    with recorder:
        call()
    rows = [row for _, row in traced]
    if len(recorder.marks) != len(rows):
        rows = _aligned(recorder.names, traced)
    totals = dict.fromkeys((row for _, row in traced), 0.0)
    for row, (start, stop) in zip(rows, recorder.marks, strict=True):
        totals[row] = totals.get(row, 0.0) + max(0.0, clock.between_s(start, stop) - own_s)
    return totals


def _aligned(names: Sequence[str], traced: Sequence[tuple[str, str]]) -> list[str]:
    """The row of each call that was made: that of its partner in the longest common sequence of operators."""
    wanted = [aten for aten, _ in traced]
    made = [name if name in wanted else "" for name in names]  # what the trace does not name may be one of its views
    rows = [OUTSIDE] * len(names)
    for block in SequenceMatcher(None, wanted, made, autojunk=False).get_matching_blocks():
        for i in range(block.size):
            rows[block.b + i] = traced[block.a + i][1]
    return rows


def call_overhead_s(clock: Clock, readings: int = 300) -> float:
    """What being recorded adds to the time of a call: a view as timed by the recorder, less the same view called plainly."""
    x = torch.empty(8, 8)
    recorder, plain = Recorder(clock), []
    clock.prepare()
    with torch.inference_mode():
        with recorder:
            for _ in range(readings):
                x.view(64)
        for _ in range(readings):
            start = clock.mark()
            x.view(64)
            plain.append((start, clock.mark()))
    recorded = median(clock.between_s(*pair) for pair in recorder.marks)
    return max(0.0, recorded - median(clock.between_s(*pair) for pair in plain)) + overhead_s(clock)
