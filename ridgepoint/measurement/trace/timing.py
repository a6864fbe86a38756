"""Seconds of each row of a traced module in one call of it, every operator timed where it is called."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from itertools import pairwise
from statistics import median
from typing import Any

import numpy as np
import torch

from ridgepoint.measurement.clock import Clock
from ridgepoint.measurement.optime import overhead_s
from ridgepoint.measurement.rows import OUTSIDE
from ridgepoint.measurement.trace.aten import may_be_view
from ridgepoint.measurement.trace.recorder import Recorder

__all__ = ["PASSED_BYTES", "Recorded", "call_overhead_s", "gap_overhead_s", "recorded", "rows_of_calls"]


@dataclass(frozen=True, slots=True)
class Recorded:
    """One call of a module as the recorder saw it, with its own cost in every figure: paid once for each of a row's marks.
    `names`: of the calls, in order."""

    whole_s: float
    rows_s: dict[str, float]
    rows_marks: dict[str, int]
    names: tuple[str, ...] = ()

    @property
    def marks(self) -> int:
        """Of all rows."""
        return sum(self.rows_marks.values())


def recorded(call: Callable[[], object], traced: Sequence[tuple[str, str]], clock: Clock) -> Recorded:
    """`traced`: (operator, row) of each call as it was traced.

    Where other operators are called than in the trace, the two sequences are aligned by name; calls without a partner
    are in the row `OUTSIDE`.
    """
    recorder = Recorder(clock)
    clock.prepare()
    with recorder:
        begin = clock.mark()
        call()
        end = clock.mark()
    rows = rows_of_calls(recorder.names, traced)
    seconds, calls = dict.fromkeys((row for _, row in traced), 0.0), Counter(rows)
    for row, (start, stop) in zip(rows, recorder.marks, strict=True):
        seconds[row] = seconds.get(row, 0.0) + clock.between_s(start, stop)
    return Recorded(clock.between_s(begin, end), seconds, calls, tuple(recorder.names))


def rows_of_calls(names: Sequence[str], traced: Sequence[tuple[str, str]]) -> list[str]:
    """The row of each call by the operators' names; they are taken one by one where they are those of the trace."""
    same = len(names) == len(traced) and all(_alike(name, aten) for name, (aten, _) in zip(names, traced, strict=True))
    return [row for _, row in traced] if same else _aligned(names, traced)


def _alike(name: str, aten: str) -> bool:
    """Whether a call may be that one of the trace, which does not name its views."""
    return name == aten if aten else may_be_view(name)


def _aligned(names: Sequence[str], traced: Sequence[tuple[str, str]]) -> list[str]:
    """The row of each call that was made: that of its partner in the longest common sequence of operators."""
    wanted = [aten for aten, _ in traced]
    made = [name if name in wanted else "" if may_be_view(name) else "?" for name in names]
    rows = [OUTSIDE] * len(names)
    for block in SequenceMatcher(None, wanted, made, autojunk=False).get_matching_blocks():
        for i in range(block.size):
            rows[block.b + i] = traced[block.a + i][1]
    return rows


def call_overhead_s(clock: Clock, readings: int = 300) -> float:
    """What being recorded adds to the time of a call: a view as timed by the recorder, less the same view called plainly."""
    recorder, _, plain, _ = _views(clock, readings)
    return max(0.0, recorder - plain) + overhead_s(clock)


def gap_overhead_s(clock: Clock, readings: int = 200) -> float:
    """What being recorded adds between two calls, with caches as they are behind an operator on large tensors: the
    recorder's Python then comes from the last-level cache, and takes several times as long."""
    _, recorded, _, plain = _views(clock, readings, _pass_over(np.ones(PASSED_BYTES // 8)))
    return max(0.0, recorded - plain)


PASSED_BYTES = 2 * 2**20
"""More than a second-level cache holds."""


def _pass_over(block: "np.ndarray") -> Callable[[], None]:
    """NumPy reads it, which no recorder sees."""

    def read() -> None:
        block.sum()

    return read


def _views(
    clock: Clock, readings: int, between: Callable[[], None] = lambda: None
) -> tuple[float, float, float, float]:
    """Median seconds of a view and between two of them: recorded, and called plainly between two marks."""
    x = torch.empty(8, 8)
    recorder, plain = Recorder(clock), []
    clock.prepare()
    with torch.inference_mode():
        with recorder:
            for _ in range(readings):
                between()
                x.view(64)
        for _ in range(readings):
            between()
            start = clock.mark()
            x.view(64)
            plain.append((start, clock.mark()))
    return (*_spans_and_gaps(recorder.marks, clock), *_spans_and_gaps(plain, clock))


def _spans_and_gaps(marks: Sequence[tuple[Any, Any]], clock: Clock) -> tuple[float, float]:
    spans = [clock.between_s(*pair) for pair in marks]
    gaps = [clock.between_s(one[1], other[0]) for one, other in pairwise(marks)]
    return median(spans), median(gaps)
