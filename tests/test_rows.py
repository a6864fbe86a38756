"""Rows of a measured table: they add up to the step, what passes between a module's calls among them."""

import pytest
import torch
from torch import Tensor, nn

from ridgepoint.measurement import bench
from ridgepoint.measurement.rows import BETWEEN, OUTSIDE
from ridgepoint.measurement.trace.timing import call_totals, gap_overhead_s


class Told:
    """A clock that moves only when it is told to."""

    name, cold = "told", False

    def __init__(self) -> None:
        self.now = 0.0

    def prepare(self) -> None: ...

    def mark(self) -> float:
        return self.now

    def between_s(self, start: float, stop: float) -> float:
        return stop - start


class Slow(nn.Module):
    """Three operators, with seconds of its own before each and behind the last."""

    def __init__(self, clock: Told) -> None:
        super().__init__()
        self.clock = clock

    def forward(self, x: Tensor) -> Tensor:
        for seconds in (2.0, 3.0, 5.0):
            self.clock.now += seconds
            x = torch.relu(x)
        self.clock.now += 7.0
        return x


def test_what_passes_between_calls_is_a_row() -> None:
    clock = Told()
    module, x = Slow(clock), torch.ones(4)
    traced = [("relu", "r")] * 3
    totals = call_totals(lambda: module(x), traced, clock, 0.0, 0.5)
    assert totals == {"r": 0.0, BETWEEN: pytest.approx(17.0 - 3 * 0.5)}
    assert BETWEEN not in call_totals(lambda: module(x), traced, clock, 0.0)
    more = call_totals(lambda: (module(x), x.sin())[0], traced, clock, 0.0, 0.0)
    assert more == {"r": 0.0, OUTSIDE: 0.0, BETWEEN: pytest.approx(17.0)}


def test_the_recorder_s_own_gap_is_that_of_its_own_clock() -> None:
    assert gap_overhead_s(Told()) == 0.0


def test_rows_add_up_to_steps_of_the_faster_two_fifths(monkeypatch: pytest.MonkeyPatch) -> None:
    steps = iter([{"a": 10.0 + i, "b": 10.0 - (i % 3)} for i in range(10)])
    monkeypatch.setattr(bench, "leaf_totals", lambda run, clock, own: next(steps))
    monkeypatch.setattr(bench, "own_cost", lambda run, clock: None)
    monkeypatch.setattr(bench, "_LEAF_SECONDS", 0.0)
    rows = bench._Rows(None, None)  # type: ignore[arg-type]
    for _ in range(10):
        rows.step()
    totals = sorted(20.0 + i - (i % 3) for i in range(10))
    assert sum(rows.seconds().values()) == pytest.approx(sum(totals[:4]) / 4)
