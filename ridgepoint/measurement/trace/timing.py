"""Seconds of each row of a traced module in one call of it, every operator timed where it is called."""

from collections.abc import Callable

from ridgepoint.errors import NotSupported
from ridgepoint.measurement.clock import Clock
from ridgepoint.measurement.trace.recorder import Recorder

__all__ = ["call_totals"]


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
