"""Measured time of each operator of a torch model: every leaf module's forward, timed where it is called."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from statistics import median
from typing import TYPE_CHECKING, Any

from ridgepoint.measurement.clock import Clock

if TYPE_CHECKING:
    from torch import nn

__all__ = ["overhead_s", "timed_leaves"]

_Marks = list[tuple[Any, Any]]


@contextmanager
def timed_leaves(model: "nn.Module", clock: Clock, own_s: float | None = None) -> "Iterator[dict[str, list[float]]]":
    """Time every leaf of `model` while the block runs; the dict it gives (dotted name -> seconds) is full at its end.

    One entry per call, in order, less the wrapper's own cost (`own_s`, else measured now), never below 0. A leaf is a
    module without children; one that is shared under several names is listed under the first. What a parent computes outside its
    leaves is in no row, nor is the cost of `Module.__call__` itself: the step's time less the sum of the rows.
    A cold clock is not made cold again before each leaf. Everything is put back at the end, also after an exception.
    """
    own_s = overhead_s(clock) if own_s is None else own_s
    leaves = {name: module for name, module in model.named_modules() if next(module.children(), None) is None}
    marks: dict[str, _Marks] = {name: [] for name in leaves}
    before: dict[str, Any] = {}
    times: dict[str, list[float]] = {}
    try:
        for name, module in leaves.items():
            before[name] = module.__dict__.get("forward", _ABSENT)
            module.forward = _timed_forward(module.forward, clock, marks[name])
        yield times
    finally:
        for name, forward in before.items():
            if forward is _ABSENT:
                del leaves[name].forward
            else:
                leaves[name].forward = forward
        for name, pairs in marks.items():
            if pairs:
                times[name] = [max(0.0, clock.between_s(start, stop) - own_s) for start, stop in pairs]


def overhead_s(clock: Clock, readings: int = 300) -> float:
    """What the wrapper of `timed_leaves` adds to a reading: the median around a forward that returns its argument."""
    pairs: _Marks = []
    forward = _timed_forward(_same, clock, pairs)
    clock.prepare()
    for _ in range(readings):
        forward(None)
    return median(clock.between_s(start, stop) for start, stop in pairs)


_ABSENT = object()


def _timed_forward(forward: Callable[..., Any], clock: Clock, marks: _Marks) -> Callable[..., Any]:
    """`forward` with a mark before and after; marks are read later, so that a device is not made to wait per leaf."""
    mark = clock.mark

    @wraps(forward)
    def timed(*args: Any, **kwargs: Any) -> Any:
        start = mark()
        out = forward(*args, **kwargs)
        marks.append((start, mark()))
        return out

    return timed


def _same(value: Any) -> Any:
    return value
