"""What follows from points: the fewest to measure, where a side flips, what is said of it, and how bets are scored."""

import dataclasses
import math
from collections.abc import Iterator
from itertools import count, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from ridgepoint.errors import BadInput, DoesNotFit, NotSupported, UnknownName
from ridgepoint.measurement.session import ChildDied, Session
from ridgepoint.prediction import predict, step_time
from ridgepoint.store import Provenance, Record, Store, new_record
from ridgepoint.study.betting import crossing_of, place_bet
from ridgepoint.study.choosing import first_points, next_point, side_of
from ridgepoint.study.document import Answer, Bet, Flip, Point, bet_from, plain
from ridgepoint.study.provenance import provenance
from ridgepoint.study.question import Question, ask, step_for
from ridgepoint.study.score import ScoreRow, score, score_answers
from ridgepoint.study.verdict import flip_bracket, measured_flip, verdict_line
from ridgepoint.study.why import Effort, check_fits, settle, stored_bet, why

DATA = Path(__file__).parent / "data"
MODEL, TARGET = str(DATA / "tiny-llama.json"), str(DATA / "test-target.calibrated.toml")
HERE = Provenance({"machine_id": "0test0target", "cpu": "a test's"}, {"ridgepoint": "0"}, {})
PLENTY = 2.0**40
FEW, EVERY = Effort(seconds=0.3), Effort(seconds=0.3, every_point=True)


def question(bet: str, **asked: Any) -> Question:
    return ask(MODEL, bet, on=TARGET, **asked)


def a_point(b: str, batch: int, predicted: float, measured: float | None, **changes: Any) -> Point:
    seen = None if measured is None else measured
    point = Point(
        a="bf16", b=b, batch=batch, predicted_speedup=predicted,
        predicted_low=predicted / 1.1, predicted_high=predicted * 1.1,
        measured_speedup=seen, measured_low=seen and seen / 1.04, measured_high=seen and seen * 1.04, verdict="",
        predicted_a_s=1.0, predicted_b_s=1 / predicted, measured_a_s=seen and 1.0, measured_b_s=seen and 1 / seen,
        roofline_speedup=2.0, roofline_a_s=0.5, roofline_b_s=0.25,
    )  # fmt: skip
    side = 0 if seen is None else side_of(seen)
    return replace(point, **{"verdict": {1: "faster", -1: "slower", 0: "tie"}[side], **changes})


# The fewest points


@pytest.mark.parametrize(("speedup", "side"), [(1.04, 1), (1.02, 0), (1.0, 0), (1 / 1.02, 0), (1 / 1.04, -1)])
def test_a_tie_is_within_three_percent_either_way(speedup, side):
    assert side_of(speedup) == side


@pytest.mark.parametrize(
    ("speedups", "flip", "points"),
    [
        ((3.0, 2.0, 1.1, 1.5), None, [1, 64, 16]),  # the closest call
        ((0.5, 0.9, 0.6, 0.3), None, [1, 64, 4]),  # also among the slower ones
        ((3.0, 2.0, 1.4, 1.1), None, [1, 64]),  # it is an end already
        ((3.0, 1.5, 0.8, 0.5), 9.0, [1, 64, 4, 16]),
        ((3.0, 1.5, 1.0, 0.5), 16.0, [1, 64, 16]),  # at a point of the grid: that one and the next
    ],
)
def test_first_points_are_the_ends_and_what_is_nearest_to_the_flip(speedups, flip, points):
    curve = replace(place_bet(question("bf16..int8")).curves[0], speedup=speedups)
    assert first_points(curve, flip and Flip(batch=flip, low=flip, high=flip)) == points


def test_one_batch_is_one_point():
    curve = place_bet(question("bf16..int8", batches=(4,))).curves[0]
    assert first_points(curve, None) == [4]


@pytest.mark.parametrize(
    ("measured", "batch"),
    [
        ({1: 2.0, 64: 0.5}, 8),
        ({1: 2.0, 8: 1.5, 64: 0.5}, 16),
        ({1: 2.0, 8: 1.5, 16: 0.6, 64: 0.5}, None),  # neighbours disagree, and nothing lies between them
        ({1: 2.0, 64: 1.5}, None),  # agree
        ({1: 2.0, 64: 1.01}, None),  # a tie disagrees with nobody
        ({1: 2.0}, None),
        ({}, None),
    ],
)
def test_next_point_halves_a_disagreement(measured, batch):
    assert next_point((1, 2, 4, 8, 16, 32, 64), measured) == batch


@given(st.sets(st.integers(1, 4096), min_size=2, max_size=40), st.floats(0.5, 5000))
def test_a_flip_is_bracketed_by_neighbours_in_few_points(batches, flip):
    grid = tuple(sorted(batches))
    known = {b: 2.0 if b < flip else 0.5 for b in (grid[0], grid[-1])}
    for _ in grid:
        batch = next_point(grid, known)
        if batch is None:
            break
        assert batch not in known
        known[batch] = 2.0 if batch < flip else 0.5
    assert batch is None
    changes = [(b, c) for b, c in pairwise(sorted(known)) if known[b] != known[c]]
    if known[grid[0]] != known[grid[-1]]:
        (left, right) = changes[0]
        assert grid.index(right) == grid.index(left) + 1
    else:
        assert len(known) == 2


# Where it flips

GRID = [1, 4, 16, 64]


@pytest.mark.parametrize(
    ("logs", "flip"),
    [
        ([1.0, 1 / 3, -1 / 3, -1.0], 8.0),  # a straight line in log batch
        ([0.6, 0.2, -0.6, -0.9], 4 * 4**0.25),
        ([1.0, 0.5, 0.0, -1.0], 16.0),  # exactly at a point
        ([1.0, 0.5, 0.4, 0.3], None),
        ([0.02, 0.01, -0.01, -0.02], None),  # ties all along
        ([1.0, 0.5, 0.1, -0.02], None),  # ends as a tie
        ([0.5, -0.2, 0.2, -0.2], 32.0),  # of several the last
        ([0.5, -0.5, -0.02, 0.02], 2.0),  # what ties do after the last decided point is noise
        ([-0.02, 0.02, 0.5, -0.5], 32.0),  # and before the first
        ([0.5, -0.5, -0.5, 0.5], None),  # there and back
    ],
)
def test_crossing_obeys_the_tie_rule(logs, flip):
    found = crossing_of(GRID, np.array(logs))
    assert (found is None) if flip is None else found == pytest.approx(flip)


@given(st.lists(st.floats(-2, 2), min_size=2, max_size=6), st.integers(2, 9))
def test_crossing_is_the_same_for_swapped_sides_and_moves_with_the_grid(logs, factor):
    grid = [2**i for i in range(len(logs))]
    found = crossing_of(grid, np.array(logs))
    assert crossing_of(grid, -np.array(logs)) == found
    moved = crossing_of([b * factor for b in grid], np.array(logs))
    assert (moved is None) if found is None else moved == pytest.approx(found * factor)


def test_measured_flip_and_its_neighbours_leave_out_what_was_not_measured():
    points = [a_point("int4", b, 1.0, s) for b, s in ((1, 2.0), (8, 1.4), (12, None), (16, 1 / 1.4), (64, 0.5))]
    flip = measured_flip(points)
    assert flip == pytest.approx(math.sqrt(8 * 16))
    assert flip_bracket(points, flip) == "8–16"
    assert measured_flip(points[:1]) is None
    assert measured_flip([p for p in points if p.measured_speedup is None]) is None


# The sentence


def line(points: list[Point], flip: float | None = None, because: str = "") -> str:
    bet = place_bet(question("bf16..int4"))
    return verdict_line(
        replace(bet, flips={"int4": flip and Flip(batch=flip, low=flip, high=flip)}), "int4", points, because
    )


def test_the_sentence_names_both_ends_the_flip_and_the_reason():
    points = [
        a_point("int4", b, p, m) for b, p, m in ((1, 3.0, 3.1), (8, 1.3, 1.3), (16, 0.8, 0.8), (64, 0.5, 1 / 2.2))
    ]
    assert line(points, 12.0, "bytes") == (
        "int4: 3.1x faster than bf16 at batch 1; 2.2x slower at batch 64; flips at 8–16, predicted 12"
        " (predicted within 10 %); because bytes"
    )
    assert "flips at 8–16, no flip predicted" in line(points, None)


def test_the_sentence_of_a_flip_that_did_not_come():
    points = [a_point("int4", 1, 1.5, 1.5), a_point("int4", 64, 1.2, 1.25)]
    assert "1.50x faster than bf16 at batch 1; 1.25x faster at batch 64; no flip measured, predicted at 12" in line(
        points, 12.0
    )
    assert "flip" not in line(points, None)


def test_the_sentence_of_a_tie_says_as_fast():
    said = line([a_point("int4", 1, 1.0, 1.02), a_point("int4", 64, 1.0, 0.99)])
    assert said.startswith("int4: as fast as bf16 at batch 1 (1.02x); as fast at batch 64 (0.99x)")
    assert "faster" not in said and "slower" not in said


def test_the_sentence_of_an_undecided_point_takes_no_side():
    said = line([a_point("int4", 4, 1.0, 1.2, verdict="undecided")])
    assert said.startswith("int4: undecided at batch 4 (1.20x)")
    assert "faster" not in said and "slower" not in said


def test_the_sentence_of_nothing_measured_repeats_that_side_of_the_bet_only():
    bet = place_bet(question("bf16..int4,int8"))
    said = verdict_line(bet, "int8", [a_point("int8", 1, 1.0, None), a_point("int4", 1, 1.0, 2.0)], "")
    assert said.startswith("int8: not measured; predicted: ")
    assert "int4" not in said


# The bet


def test_a_bet_on_the_same_thing_states_a_tie():
    bet = place_bet(question("bf16..bf16"))
    assert bet.curves[0].speedup == pytest.approx((1.0,) * 4)
    assert bet.flips == {"bf16": None}
    assert bet.statement == "bf16: as fast as bf16 at batch 1, as fast at 64; no flip"


def test_the_bet_holds_what_the_laws_say_at_each_point():
    asked = question("bf16..int8", batches=(64, 1, 4, 4))
    bet = place_bet(asked)
    assert bet.grid == (1, 4, 64)
    for i, batch in enumerate(bet.grid):
        step = step_for(asked, batch)
        a, b = (step_time(s.plan(asked.workload, step), asked.target) for s in (asked.a, asked.b[0]))
        assert bet.curves[0].speedup[i] == pytest.approx(float(a.seconds / b.seconds))
        assert bet.curves[0].low[i] < bet.curves[0].speedup[i] < bet.curves[0].high[i]
        assert bet.curves[0].a_s[i] == pytest.approx(float(a.seconds))


def test_the_ceiling_is_what_the_choice_leaves_as_it_is():
    asked = question("bf16..int8", batches=(1,))
    rows = predict(asked.a.plan(asked.workload, step_for(asked, 1)), asked.target).ops
    left = sum(r.time_s for r in rows if r.kind != "linear" or r.role == "head")
    curve = place_bet(asked).curves[0]
    assert curve.ceiling[0] == pytest.approx(sum(r.time_s for r in rows) / left)
    assert curve.ceiling[0] > 1


@pytest.mark.parametrize("bet", ["fp32..bf16", "threads:1..threads:2", "batch:1..batch:4"])
def test_a_choice_that_changes_every_operator_has_no_ceiling(bet):
    curve = place_bet(question(bet)).curves[0]
    assert min(curve.ceiling) >= 1e6


def test_batches_are_compared_per_token():
    asked = question("batch:1..batch:4")
    one, four = (
        float(step_time(s.plan(asked.workload, step_for(asked, 1)), asked.target).seconds)
        for s in (asked.a, asked.b[0])
    )
    curve = place_bet(asked).curves[0]
    assert curve.batch == (1,)
    assert curve.speedup[0] == pytest.approx(4 * one / four)
    assert curve.speedup[0] > 2  # four sequences of a tiny model cost little more than one


def test_threads_divide_the_time_by_what_the_target_says():
    asked = question("threads:1..threads:2", batches=(16,))
    speedups = [float(law.at(16)) for law in asked.target.scaling if law.threads == 2]
    whole = place_bet(asked).curves[0].speedup[0]
    assert 1 < whole < max(speedups), "what a call costs is not divided"
    free = dataclasses.replace(asked, target=replace(asked.target, correction=None))
    assert place_bet(free).curves[0].speedup[0] == pytest.approx(max(speedups)), "all scale alike in this target"


def test_int8_picks_the_best_kernel_and_naive_pins_the_other():
    bet = place_bet(question("int8..int8:naive", batches=(1,)))
    assert {bet.a.kernels[op] for op in bet.a.kernels if op != "lm_head"} == {"torch._weight_int8pack_mm"}
    assert {bet.b[0].kernels[op] for op in bet.b[0].kernels if op != "lm_head"} == {"int8_dequantise_linear"}
    assert bet.curves[0].high[0] < 1, "dequantising at every call is slower, and the bet is sure of it"
    assert bet.a.weight_bytes == bet.b[0].weight_bytes, "one algorithm, two kernels"


@pytest.mark.parametrize(
    ("asked", "error", "says"),
    [
        ({"bet": "bf16..int8,int8"}, BadInput, "twice"),
        ({"bet": "bf16..int8", "isl": 0}, BadInput, "isl 0"),
        ({"bet": "bf16..int8", "isl": -3, "phase": "prefill"}, BadInput, "isl -3"),
        ({"bet": "bf16..int8", "isl": 1024}, BadInput, "at most 1024 positions"),
        ({"bet": "bf16..int8", "device": "cuda"}, BadInput, "test-target"),
        ({"bet": "bf16..int8", "device": "tpu"}, BadInput, "cpu or cuda"),
        ({"bet": "bf16..int8", "phase": "train"}, BadInput, "decode, prefill, forward"),
        ({"bet": "bf16..int8", "batches": ()}, BadInput, "--batch"),
        ({"bet": "bf16..fp8"}, NotSupported, "fp8"),
        ({"bet": "bf16..in8"}, UnknownName, "int8"),
    ],
)
def test_a_question_that_cannot_be_asked_is_refused_before_anything_runs(asked, error, says):
    with pytest.raises(error, match=says):
        question(**asked)


def test_what_does_not_fit_is_refused_with_the_batches_that_do():
    asked = question("bf16..int8", batches=(1, 4, 64))
    check_fits(asked, PLENTY)
    with pytest.raises(DoesNotFit, match="no batch of the grid fits"):
        check_fits(asked, 1e5)
    with pytest.raises(DoesNotFit, match="at batch 64 .* batches up to 4 fit"):
        check_fits(asked, 5e6)


# From the bet to the answer, with a measuring process that answers by script


class Scripted(Session):
    """Answers each request by `speedup(batch)`; `raised` are exceptions by number of the request, from 0."""

    def __init__(self, store: Store, speedup: Any = lambda batch: 1.5, raised: dict[int, BaseException] | None = None):
        super().__init__()
        self.store, self.speedup, self.raised = store, speedup, raised or {}
        self.asked: list[tuple[str, int]] = []
        self.bets_at_first: list[Any] = []

    def ask(self, request: Any) -> Iterator[dict[str, Any]]:
        if not self.asked:
            self.bets_at_first = self.store.records(kind="bet")
        batch = request.step.groups[0][0]
        self.asked.append((request.b.spec, batch))
        if error := self.raised.get(len(self.asked) - 1):
            raise error
        speedup = self.speedup(batch)
        paired = {"speedup": speedup, "low": speedup * 0.97, "high": speedup * 1.03, "verdict": "faster", "n": 12,
                  "a_s": 1.0, "b_s": 1 / speedup, "spread": 0.01}  # fmt: skip
        yield {"kind": "stage", "text": "measuring"}
        yield {"kind": "done", "paired": paired, "tokens_a": batch, "tokens_b": batch, "clock": "scripted", "load": "",
               "peak_memory_bytes": None, "flags": []}  # fmt: skip

    @property
    def batches(self) -> list[int]:
        return [batch for _, batch in self.asked]


class Silent:
    """A watcher that keeps what it was shown."""

    def __init__(self) -> None:
        self.points: list[Point] = []

    def bet(self, bet: Bet, record: Any) -> None: ...

    def stage(self, text: str, done: int, total: int) -> None: ...

    def point(self, point: Point) -> None:
        self.points.append(point)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store(tmp_path / "ridge.db") as opened:
        yield opened


def run(asked: Question, store: Store, session: Scripted, effort: Effort = FEW) -> Answer:
    return why(asked, store, HERE, Silent(), effort, PLENTY, session)


def test_the_bet_is_stored_before_the_first_measurement_and_its_digest_holds(store):
    session = Scripted(store)
    answer = run(question("bf16..int8"), store, session)
    (bet,) = session.bets_at_first
    assert (bet.id, bet.digest) == (answer.id, answer.digest)
    assert bet_from(bet.body["bet"]) == answer.bet
    assert store.get(bet.id).digest == store.digest_of(bet.id) == answer.digest


def test_few_points_find_a_flip_that_was_not_predicted(store):
    grid = (1, 2, 4, 8, 16, 32, 64)
    session = Scripted(store, lambda batch: 2.0 if batch < 10 else 0.5)
    answer = run(question("bf16..bf16", batches=grid), store, session)
    assert session.batches[:2] == [1, 64]
    assert {8, 16} <= set(session.batches)
    assert len(session.batches) < len(grid)
    assert answer.flip_predicted is None
    assert answer.flip_measured == pytest.approx(math.sqrt(8 * 16))
    assert [p.batch for p in answer.points] == sorted(session.batches)


def test_every_point_and_asked_points_are_measured(store):
    grid = (1, 2, 4, 8, 16, 32, 64)
    session = Scripted(store)
    run(question("bf16..bf16", batches=grid), store, session, EVERY)
    assert sorted(session.batches) == list(grid)
    session = Scripted(store)
    run(question("bf16..bf16", batches=grid), store, session, Effort(also=(32,)))
    assert 32 in session.batches and len(session.batches) <= 4


@pytest.mark.parametrize("error", [ChildDied("killed"), DoesNotFit("too large"), NotSupported("no kernel")])
def test_a_point_that_fails_is_recorded_and_the_rest_goes_on(store, error):
    session = Scripted(store, raised={1: error})
    answer = run(question("bf16..int8,int4"), store, session, EVERY)
    assert len(session.asked) == 8
    (failure,) = store.records(kind="failure", study=answer.id)
    assert len(store.records(kind="point", study=answer.id)) == 7
    (missing,) = [p for p in answer.points if p.measured_speedup is None]
    assert (missing.batch, missing.b, missing.record) == (4, "int8", failure.id)
    assert f"int8 at batch 4: {type(error).__name__}: {error}" in answer.flags
    assert failure.body["flags"] == [f"{type(error).__name__}: {error}"]
    assert answer.complete


def test_an_interrupted_bet_goes_on_under_its_id_and_a_settled_one_does_not(store):
    asked = question("bf16..int8")
    first = Scripted(store, raised={2: KeyboardInterrupt()})
    cut = run(asked, store, first, EVERY)
    assert not cut.complete
    assert [p.batch for p in cut.points] == [1, 4]
    assert any(flag.startswith("interrupted") for flag in cut.flags)
    second = Scripted(store)
    whole = run(asked, store, second, EVERY)
    assert (whole.id, whole.digest, whole.complete) == (cut.id, cut.digest, True)
    assert second.batches == [16, 64]
    assert [p.batch for p in whole.points] == [1, 4, 16, 64]
    assert whole.points[:2] == cut.points
    assert not any(flag.startswith("interrupted") for flag in whole.flags)
    third = Scripted(store)
    assert run(asked, store, third, EVERY).id != cut.id
    assert third.batches == [1, 4, 16, 64]


def test_a_bet_that_was_killed_before_its_answer_settles_from_the_store_alone(store, monkeypatch):
    append = store.append

    def until_the_answer(record: Record) -> None:
        if record.kind == "answer":
            raise SystemError("killed here")
        append(record)

    monkeypatch.setattr(store, "append", until_the_answer)
    with pytest.raises(SystemError):
        run(question("bf16..int8"), store, Scripted(store), EVERY)
    monkeypatch.undo()
    (bet,) = store.records(kind="bet")
    session = Scripted(store)
    answer = run(question("bf16..int8"), store, session, EVERY)
    assert answer.id == bet.id
    assert session.asked == []
    assert [p.batch for p in answer.points] == [1, 4, 16, 64]


def test_an_open_bet_is_taken_up_only_for_the_same_question_on_the_same_machine(store):
    record, _ = stored_bet(question("bf16..int8"), store, HERE)
    assert stored_bet(question("bf16..int8"), store, HERE)[0].id == record.id
    elsewhere = Provenance({"machine_id": "another"}, {}, {})
    for other, place in (
        (question("bf16..int8", isl=64), HERE),
        (question("bf16..int8", batches=(1, 4)), HERE),
        (question("bf16..int4"), HERE),
        (question("fp32..int8"), HERE),
        (question("bf16..int8"), elsewhere),
    ):
        assert stored_bet(other, store, place)[0].id != record.id


def test_an_answer_says_when_another_machine_than_the_predicted_one_measured(store):
    asked = question("bf16..int8", batches=(1,))
    record, bet = stored_bet(asked, store, HERE)
    point = [a_point("int8", 1, 1.2, 1.2)]
    assert settle(asked, bet, record, point, HERE).flags == ()
    (flag,) = settle(asked, bet, record, point, Provenance({"machine_id": "another"}, {}, {})).flags
    assert "test-target" in flag and "another machine" in flag


def test_one_side_answers_with_a_number_and_several_with_a_table(store):
    one = run(question("bf16..int8"), store, Scripted(store))
    assert one.flip_measured is None and (one.flip_predicted is None or one.flip_predicted > 0)
    both = run(question("bf16..int8,int4"), store, Scripted(store))
    assert set(both.flip_measured) == set(both.flip_predicted) == {"int8", "int4"}
    assert len(both.verdict.splitlines()) == 2


# The score


def an_answer(points: list[Point], flips: dict[str, tuple[float | None, float | None]], **changes: Any) -> Answer:
    asked = question(f"bf16..{','.join(flips)}")
    bet = place_bet(asked)
    foretold = {b: f[0] and Flip(batch=f[0], low=f[0], high=f[0]) for b, f in flips.items()}
    bet = replace(bet, flips=foretold, **changes)
    return Answer(
        id="x", created="", digest="", bet=bet, points=tuple(points), flip_predicted=None,
        flip_measured={b: f[1] for b, f in flips.items()}, accuracy={}, energy={}, verdict="",
    )  # fmt: skip


POINTS = [
    a_point("int8", 1, 2.0, 1.6),  # right; ratio 1.25; outside of the interval
    a_point("int8", 4, 1.2, 0.8),  # wrong; 1.5; outside
    a_point("int8", 16, 1.05, 1.06),  # an effect of 3 to 10 %: right; inside
    a_point("int8", 32, 1.0, 1.01),  # a tie; inside
    a_point("int8", 64, 0.5, None),  # not measured: not counted
    a_point("int4", 1, 3.0, 3.0),  # right
    a_point("int4", 64, 0.5, 0.5),  # right
]


def rows(answers: list[Answer], by: str = "b") -> dict[str, ScoreRow]:
    return {row.group: row for row in score_answers(answers, by)}


def test_score_counts_by_hand():
    table = rows([an_answer(POINTS, {"int8": (20.0, 40.0), "int4": (16.0, 12.0)})])
    int8 = table["bf16..int8"]
    assert (int8.n, int8.sign_right, int8.sign_n) == (4, 1, 2)
    assert (int8.small_right, int8.small_n, int8.tie_n) == (1, 1, 1)
    assert int8.coverage80 == 0.5
    assert int8.width == pytest.approx(1.1**2 - 1)
    assert int8.speedup_mape == pytest.approx((0.25 + 0.5 + (1 - 1.05 / 1.06) + (1 - 1 / 1.01)) / 4)
    # side a is predicted exactly (1 s, 1 s); side b is off by measured / predicted of the speed-ups
    b_errors = [1.6 / 2.0 - 1, 0.8 / 1.2 - 1, 1.06 / 1.05 - 1, 1.01 / 1.0 - 1]
    assert int8.mape == pytest.approx(sum(abs(e) for e in b_errors) / 8)
    assert int8.bias == pytest.approx(0.0)
    assert (int8.flips_n, int8.flips_right) == (1, 0), "20 against 40 is a factor of 2"
    int4 = table["bf16..int4"]
    assert (int4.n, int4.sign_right, int4.sign_n) == (2, 2, 2)
    assert (int4.flips_n, int4.flips_right) == (1, 1), "16 against 12 is within a factor of 1.5"
    everything = table["all"]
    assert (everything.n, everything.sign_right, everything.sign_n) == (6, 3, 4)
    assert (everything.flips_n, everything.flips_right) == (2, 1)
    assert everything.roofline_sign == pytest.approx(2 / 4), "it says 2.0 everywhere"


def test_missed_and_invented_flips_are_failures():
    ends = [a_point("int8", 1, 2.0, 2.0), a_point("int8", 64, 0.5, 0.5)]
    for foretold, seen in ((20.0, None), (None, 20.0)):
        row = rows([an_answer(ends, {"int8": (foretold, seen)})])["all"]
        assert (row.flips_n, row.flips_right) == (1, 0)
    assert rows([an_answer(ends, {"int8": (None, None)})])["all"].flips_n == 0


def test_flips_are_counted_in_the_rows_that_they_belong_to():
    ends = [a_point("int8", 1, 2.0, 2.0), a_point("int8", 64, 0.5, 0.5)]
    answers = [an_answer(ends, {"int8": (20.0, 20.0)}), an_answer(ends, {"int8": (20.0, 80.0)}, phase="prefill")]
    table = rows(answers, "phase")
    assert [(table[g].flips_n, table[g].flips_right) for g in ("decode", "prefill", "all")] == [(1, 1), (1, 0), (2, 1)]
    for by in ("batch", "regime"):
        table = rows(answers, by)
        assert {row.flips_n for name, row in table.items() if name != "all"} == {0}, "a flip has no one batch or regime"
        assert table["all"].flips_n == 2


def test_an_interrupted_answer_is_scored_by_its_points_but_not_by_its_flips():
    answer = replace(an_answer(POINTS, {"int8": (20.0, None), "int4": (16.0, None)}), complete=False)
    row = rows([answer])["all"]
    assert (row.n, row.flips_n) == (6, 0)


def test_the_score_of_a_store_takes_the_newest_answer_of_each_bet(store):
    asked = question("bf16..int8", batches=(1,))
    record, bet = stored_bet(asked, store, HERE)
    for measured in (5.0, 1.25):
        answer = settle(asked, bet, record, [a_point("int8", 1, 1.25, measured)], HERE)
        store.append(new_record("answer", {"answer": plain(answer)}, HERE, study=record.id))
    (row, everything) = score(store)
    assert row.n == everything.n == 1
    assert row.speedup_mape == 0.0


def test_an_empty_store_has_no_score(store):
    assert score(store) == []


# On metal, with the real measuring process


@pytest.fixture(scope="module")
def metal(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """`measured(bet, effort)`: the answer of one question on a tiny model; all share one process."""
    numbers = count()
    with Session() as session:

        def measured(bet: str, effort: Effort = FEW, **asked: Any) -> Answer:
            with Store(tmp_path_factory.mktemp(f"metal{next(numbers)}") / "ridge.db") as store:
                return why(question(bet, **asked), store, provenance(), Silent(), effort, PLENTY, session)

        yield measured


def test_the_same_against_itself_is_never_called(metal):
    (point,) = metal("bf16..bf16", batches=(1,), isl=16).points
    assert point.verdict in ("tie", "undecided")
    assert point.measured_low < 1 < point.measured_high


def test_a_side_that_is_slowed_down_is_called_slower(metal):
    (point,) = metal("bf16..bf16", Effort(seconds=0.6, slow_b=1.5), batches=(1,), isl=16).points
    assert point.verdict == "slower"
    assert point.measured_speedup == pytest.approx(1 / 1.5, rel=0.15)


def test_measured_batches_are_compared_per_token(metal):
    answer = metal("batch:1..batch:4", isl=16)
    (point,) = answer.points
    assert point.measured_speedup == pytest.approx(4 * point.measured_a_s / point.measured_b_s, rel=0.25)
    assert point.measured_speedup > 1.5
    assert point.verdict == "faster"


def test_naive_dequantising_measures_slower_than_the_packed_kernel(metal):
    answer = metal("int8..int8:naive", batches=(1,), isl=16)
    (point,) = answer.points
    assert point.measured_speedup is not None, point.flags
    assert point.verdict == "slower"
    assert point.clock and point.rounds >= 2 and point.peak_memory_bytes > 0
    assert answer.accuracy == {
        "measured": False,
        "reason": "random weights: speed is measured, accuracy would mean nothing",
    }
    assert not answer.energy["measured"] or answer.energy["points"]


def test_two_threads_are_measured_in_wall_time_or_refused_with_the_evidence(metal):
    (point,) = metal("threads:1..threads:2", batches=(4,), isl=16).points
    if point.measured_speedup is None:
        assert point.flags[0].startswith("MachineBusy: wall time cannot be trusted here now")
    else:
        assert "wall" in point.clock
