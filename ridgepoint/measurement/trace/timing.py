"""Seconds of each row of a traced module in one call of it, every operator timed where it is called."""

from collections.abc import Callable
from statistics import median

import torch

from ridgepoint.errors import NotSupported
from ridgepoint.measurement.clock import Clock
from ridgepoint.measurement.optime import overhead_s
from ridgepoint.measurement.trace.recorder import Recorder

__all__ = ["call_overhead_s", "call_totals"]


def call_totals(call: Callable[[], object], rows: tuple[str, ...], clock: Clock, own_s: float) -> dict[str, float]:
    """Row -> seconds, less `own_s` per call, never below 0. `rows`: the row of each call in the order of the trace."""
    recorder = Recorder(clock)
    clock.prepare()
    with recorder:
        call()
    if len(recorder.marks) != len(rows):
        raise NotSupported(f"the module made {len(recorder.marks)} operator calls, but {len(rows)} when it was traced")
    totals = dict.fromkeys(rows, 0.0)
    for row, (start, stop) in zip(rows, recorder.marks, strict=True):
        totals[row] += max(0.0, clock.between_s(start, stop) - own_s)
    return totals


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
