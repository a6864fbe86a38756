"""Rows of a measured table: they add up to the step, what passes between a module's calls among them."""

from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from ridgepoint.measurement import leaves, module_rows
from ridgepoint.measurement.clock import ThreadCpu
from ridgepoint.measurement.leaves import LeafRows
from ridgepoint.measurement.module_rows import ModuleRows, Turns, profiled_shares, row_shares
from ridgepoint.measurement.rows import BETWEEN, OUTSIDE
from ridgepoint.measurement.trace.load import Built
from ridgepoint.measurement.trace.profiled import event_s, profiled
from ridgepoint.measurement.trace.recorder import _taken_whole, taken_apart
from ridgepoint.measurement.trace.timing import Recorded, gap_overhead_s, recorded, rows_of_calls
from ridgepoint.measurement.trace.trace import trace_built


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


def test_what_passes_between_calls_is_in_no_row() -> None:
    clock = Told()
    module, x = Slow(clock), torch.ones(4)
    traced = [("relu", "r")] * 3
    told = recorded(lambda: module(x), traced, clock)
    assert (told.whole_s, told.rows_s, told.rows_marks) == (17.0, {"r": 0.0}, {"r": 3})
    more = recorded(lambda: (module(x), x.sin())[0], traced, clock)
    assert (more.rows_s, more.rows_marks, more.marks) == ({"r": 0.0, OUTSIDE: 0.0}, {"r": 3, OUTSIDE: 1}, 4)


def test_the_recorder_s_own_gap_is_that_of_its_own_clock() -> None:
    assert gap_overhead_s(Told()) == 0.0


_ROWS = {"a": 3.0, "b": 5.0}
_CALLS = {"a": 2, "b": 8}


def turn(own_s: float, pace: float = 1.0, gaps_s: float = 2.0, disturbed_s: float = 0.0) -> tuple[float, Recorded]:
    """A plain step of 10 s and the recorded one beside it, on a machine slowed by `pace`; a third of `own_s` is in each
    of the ten calls, the rest behind it."""
    rows = {row: pace * (seconds + own_s / 3 * _CALLS[row]) for row, seconds in _ROWS.items()}
    gaps = pace * (gaps_s + own_s * 2 / 3 * 10) + disturbed_s
    return pace * (8.0 + gaps_s), Recorded(sum(rows.values()) + gaps, rows, _CALLS)


@pytest.mark.parametrize("own_s", [0.0, 0.1, 0.5])
def test_what_recording_adds_is_found_where_it_is_paid(own_s: float) -> None:
    shares = row_shares([turn(own_s) for _ in range(9)], 0.1, 0.2)
    assert shares == {"a": pytest.approx(0.3), "b": pytest.approx(0.5), BETWEEN: pytest.approx(0.2)}


def profile(own_s: float, gaps_s: float = 2.0) -> tuple[float, Recorded]:
    """A plain step of 10 s and the profiled one beside it; the profiler's cost lies in the calls."""
    rows = {row: seconds + own_s * _CALLS[row] for row, seconds in _ROWS.items()}
    return 10.0, Recorded(sum(rows.values()) + gaps_s, rows, _CALLS)


def test_shares_of_a_profile_are_not_made_to_add_up() -> None:
    shares = profiled_shares([profile(0.2)] * 9, 0.2)
    assert shares == {"a": pytest.approx(0.3), "b": pytest.approx(0.5), BETWEEN: pytest.approx(0.2)}
    assert sum(profiled_shares([profile(0.3)] * 9, 0.2).values()) == pytest.approx(1.1)
    assert sum(profiled_shares([profile(0.2, gaps_s=1.0)] * 9, 0.2).values()) == pytest.approx(0.9)
    assert profiled_shares([(0.0, profile(0.2)[1])] * 3, 0.2) == {}


class Deep(nn.Module):
    """A linear layer, an operator that a trace takes apart, and a norm whose result takes a second look."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.norm = nn.Linear(64, 64), nn.LayerNorm(64)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(torch.vander(self.layer(x)[0], 64))


def test_a_profile_tells_the_calls_that_a_trace_tells() -> None:
    module, x, clock = Deep().eval(), torch.randn(2, 64), ThreadCpu()
    traced = trace_built("t:t", Built(Deep().eval(), (x,), {}, 2), ("fp32",)).in_order("fp32")
    with torch.inference_mode():
        told = profiled(lambda: module(x), traced, clock)
        by_hand = recorded(lambda: module(x), traced, clock)
    assert OUTSIDE not in told.rows_marks
    assert by_hand.rows_marks.keys() == told.rows_marks.keys() == set(told.rows_s)
    assert all(told.rows_marks[row] >= calls for row, calls in by_hand.rows_marks.items())
    assert told.rows_marks["layer"] > by_hand.rows_marks["layer"] == 1, "what the layer calls in turn is its own"
    assert 0 < sum(told.rows_s.values()) < told.whole_s
    assert told.names == by_hand.names


def test_a_large_product_is_most_of_a_profile() -> None:
    module, x = nn.Sequential(nn.Linear(1024, 1024), nn.ReLU()).eval(), torch.randn(256, 1024)
    with torch.inference_mode():
        told = profiled(lambda: module(x), [("linear", "layer"), ("relu", "r")], ThreadCpu())
    assert 0.7 < told.rows_s["layer"] / told.whole_s < 1.0
    assert told.rows_s["r"] > 0


@pytest.mark.parametrize("made", ["recurrent", "conv"])
def test_the_profiler_is_used_where_it_tells_what_the_recorder_tells(made: str) -> None:
    module = nn.GRU(16, 16) if made == "recurrent" else nn.Conv2d(3, 4, 3)
    x = torch.randn(3, 2, 16) if made == "recurrent" else torch.randn(2, 3, 8, 8)
    turns = Turns(ThreadCpu())
    with torch.inference_mode():
        traced = [(name, name) for name in recorded(lambda: module(x), [], ThreadCpu()).names]
        for _ in range(3):
            turns.more(lambda: module(x), traced)
    assert all(told.names == tuple(name for name, _ in traced) for _, told in turns.taken)
    assert (
        all((max(told.rows_marks.values()) > 3) == (made == "conv") for _, told in turns.taken) or made == "recurrent"
    )


def test_calls_are_told_by_name_though_there_are_as_many() -> None:
    traced = [("linear", "l"), ("", "views"), ("add", "a")]
    assert rows_of_calls(["linear", "select", "add"], traced) == ["l", "views", "a"]
    assert rows_of_calls(["linear", "add", "mul"], traced) == ["l", "a", OUTSIDE]
    assert rows_of_calls(["linear", "upsample_bilinear2d", "add"], traced) == ["l", OUTSIDE, "a"]
    assert rows_of_calls(["linear", "one_hot", "view", "add"], traced) == ["l", OUTSIDE, "views", "a"]


def test_overloads_of_one_name_are_told_apart() -> None:
    up = torch.ops.aten.upsample_bilinear2d
    assert _taken_whole("upsample_bilinear2d", up.default)
    assert not _taken_whole("upsample_bilinear2d", up.vec)
    assert not taken_apart("upsample_bilinear2d")


def test_what_the_profiler_costs_is_a_fraction_of_a_microsecond() -> None:
    assert 5e-8 < event_s(ThreadCpu()) < 5e-6
    assert event_s(Told()) == 0.0


def test_it_is_not_taken_for_more_than_twice_what_views_pay() -> None:
    shares = row_shares([turn(1.2) for _ in range(9)], 0.1, 0.2)
    assert sum(shares.values()) == pytest.approx(1.0 + 0.6)  # of 12 s of recording, 6 are known to be its own


def test_a_machine_that_changes_its_pace_changes_no_share() -> None:
    turns = [turn(0.0, pace) for pace in (1.0, 1.3, 1.1, 2.0, 1.0)]
    assert row_shares(turns, 0.1, 0.2) == {
        "a": pytest.approx(0.3),
        "b": pytest.approx(0.5),
        BETWEEN: pytest.approx(0.2),
    }


def test_a_disturbed_turn_is_left_out() -> None:
    turns = [turn(0.1) for _ in range(8)]
    assert row_shares([*turns, turn(0.1, disturbed_s=50.0)], 0.1, 0.2) == pytest.approx(row_shares(turns, 0.1, 0.2))


def test_a_step_shorter_than_a_tick_of_the_clock_has_no_rows() -> None:
    assert row_shares([(0.0, turn(0.1)[1])] * 3, 0.1, 0.2) == {}


def test_plain_and_recorded_calls_take_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []
    monkeypatch.setattr(module_rows, "_SECONDS", 0.0)
    monkeypatch.setattr(module_rows, "timed", lambda step, clock: made.append("plain") or 10.0)
    monkeypatch.setattr(module_rows, "profiled", lambda *_: made.append("recorded") or turn(0.0)[1])
    monkeypatch.setattr(module_rows, "event_s", lambda clock: 0.0)
    monkeypatch.setattr(module_rows, "recorded", lambda *_: turn(0.0)[1])
    rows = ModuleRows(SimpleNamespace(plain=lambda: made.append("before"), rows=()), Told())  # type: ignore[arg-type]
    assert rows.seconds(40.0) == {"a": pytest.approx(12.0), "b": pytest.approx(20.0), BETWEEN: pytest.approx(8.0)}
    assert made[1:7] == [
        "before",
        "plain",
        "recorded",
        "recorded",
        "before",
        "plain",
    ]  # the first asks what the profiler tells
    assert made.count("plain") == made.count("recorded") - 1 == 9


def test_rows_of_a_decoder_are_those_of_its_faster_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    steps = iter([{"a": 10.0 + i, "b": 10.0 - (i % 3)} for i in range(10)])
    monkeypatch.setattr(leaves, "leaf_totals", lambda run, clock, own_s: next(steps))
    monkeypatch.setattr(leaves, "_SECONDS", 0.0)
    rows = LeafRows(None, Told())  # type: ignore[arg-type]
    for _ in range(10):
        rows.step()
    totals = sorted(20.0 + i - (i % 3) for i in range(10))
    assert sum(rows.seconds(0.0).values()) == pytest.approx(sum(totals[:4]) / 4)
