"""Seconds of each row of a traced module in one call of it, by torch's profiler, which marks operators in C++."""

import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import numpy as np
import torch
from torch.autograd import profiler

from ridgepoint.measurement.clock import Clock, timed
from ridgepoint.measurement.trace.recorder import taken_apart
from ridgepoint.measurement.trace.timing import PASSED_BYTES, Recorded, rows_of_calls

__all__ = ["event_s", "profiled"]

_BEFORE = "ridgepoint: the call before"


def profiled(call: Callable[[], object], traced: Sequence[tuple[str, str]], clock: Clock) -> Recorded:
    """`traced`: (operator, row) of each call as it was traced; other operators as in `timing.recorded`.

    The call before the one that is timed brings back what starting the profiler displaced. Spans are of wall time, and
    scaled to what the clock says of the whole. The profiler's own cost is in every figure: `event_s` for each of a row's
    `rows_marks`, which are its operators and those that they call in turn.
    """
    with profiler.profile() as profile:
        with profiler.record_function(_BEFORE):
            call()
        wall, begin = time.perf_counter_ns(), clock.mark()
        call()
        end, wall = clock.mark(), time.perf_counter_ns() - wall
    spans = _spans(_events(profile))
    whole_s = clock.between_s(begin, end)
    rows = rows_of_calls([span.name for span in spans], traced)
    seconds, marks = dict.fromkeys((row for _, row in traced), 0.0), Counter[str]()
    for row, span in zip(rows, spans, strict=True):
        seconds[row] = seconds.get(row, 0.0) + span.ns / max(wall, 1) * whole_s
        marks[row] += span.marks
    return Recorded(whole_s, seconds, marks, tuple(span.name for span in spans))


def _events(profile: profiler.profile) -> list[Any]:
    assert profile.kineto_results is not None, "the profiler has stopped"
    return profile.kineto_results.events()


@dataclass(slots=True)
class _Span:
    name: str
    ns: int
    marks: int = 1


def _spans(events: Iterable[Any]) -> list[_Span]:
    """The calls that a trace tells apart, in order: what they call in turn is marks of theirs, and an operator that a trace
    takes apart is what it calls. The call before is left out."""
    spans: list[_Span] = []
    until, inside = 0, None
    for event in sorted(events, key=lambda e: (e.start_ns(), -e.duration_ns())):
        name = event.name()
        if event.start_ns() < until:
            if inside is not None:
                inside.marks += 1
        elif name == _BEFORE or (name.startswith("aten::") and not taken_apart(name.removeprefix("aten::"))):
            until = event.start_ns() + event.duration_ns()
            inside = None if name == _BEFORE else _Span(name.removeprefix("aten::"), event.duration_ns())
            spans += [inside] if inside else []
    return spans


def event_s(clock: Clock, readings: int = 60) -> float:
    """What the profiler adds to a step for each operator, and for each that it calls in turn: of small linear layers behind
    a pass over more bytes than a second-level cache holds, profiled less plain. Not measured in the step itself, so that
    rows that add up to the step say something."""
    layer, x, block = torch.nn.Linear(8, 8), torch.ones(8, 8), np.ones(PASSED_BYTES // 8)

    def behind() -> float:
        block.sum()
        return timed(lambda: layer(x), clock)

    with torch.inference_mode():
        plain_s = median(behind() for _ in range(readings))
        with profiler.profile() as profile:
            profiled_s = median(behind() for _ in range(readings))
    return max(0.0, profiled_s - plain_s) * readings / max(1, len(_events(profile)))
