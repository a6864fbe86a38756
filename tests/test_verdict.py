"""What is said once points are measured: where it flips, the sentence that a person quotes, and the score."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from ridgepoint.store import Provenance, Store, new_record
from ridgepoint.study.betting import place_bet
from ridgepoint.study.choosing import side_of
from ridgepoint.study.document import Answer, Flip, Point, plain
from ridgepoint.study.question import Question, ask
from ridgepoint.study.score import ScoreRow, score, score_answers
from ridgepoint.study.score_times import score_operators
from ridgepoint.study.verdict import flip_bracket, measured_flip, verdict_line
from ridgepoint.study.why import settle, stored_bet

DATA = Path(__file__).parent / "data"
MODEL, TARGET = str(DATA / "tiny-llama.json"), str(DATA / "test-target.calibrated.toml")
HERE = Provenance({"machine_id": "0test0target", "cpu": "a test's"}, {"ridgepoint": "0"}, {})


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


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store(tmp_path / "ridge.db") as opened:
        yield opened


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
    a_point("int8", 1, 1.6, 2.0),  # right; off by 0.2; above the interval
    a_point("int8", 4, 1.2, 0.8),  # wrong; off by 0.5; below
    a_point("int8", 16, 1.05, 1.06),  # an effect of 3 to 10 %: right; inside
    a_point("int8", 32, 1.0, 1.01),  # a tie; inside
    a_point("int8", 64, 0.5, None),  # not measured: not counted
    a_point("int4", 1, 3.0, 3.0),  # right
    a_point("int4", 64, 0.5, 0.5),  # right
]


def rows(answers: list[Answer], by: str = "b") -> dict[str, ScoreRow]:
    return {row.group: row for row in score_answers(answers, by)}


def test_score_by_side_is_of_step_times_alone():
    table = rows([an_answer(POINTS, {"int8": (20.0, 40.0), "int4": (16.0, 12.0)})], "side")
    assert set(table) == {"bf16", "int8", "int4", "all"}
    assert (table["bf16"].n, table["bf16"].mape) == (6, 0.0), "side a is predicted exactly, wherever it was measured"
    b_errors = [2.0 / 1.6 - 1, 0.8 / 1.2 - 1, 1.06 / 1.05 - 1, 1.01 / 1.0 - 1]
    assert table["int8"].mape == pytest.approx(sum(abs(e) for e in b_errors) / 4)
    assert table["int8"].roofline_mape == pytest.approx(sum(abs(0.25 * m - 1) for m in (2.0, 0.8, 1.06, 1.01)) / 4)
    assert (table["int8"].sign_n, table["int8"].flips_n, table["int8"].coverage80) == (0, 0, None)
    assert table["all"].n == 12


def an_operator(name: str, kind: str, kernel: str, time_s: float, half: float = 0.1) -> dict[str, Any]:
    ends = {"low_s": time_s * (1 - half), "high_s": time_s * (1 + half)}
    return {"name": name, "kind": kind, "kernel": kernel, "time_s": time_s, **ends}


def test_score_by_operator_is_by_kernel_or_kind():
    predicted = [
        an_operator("q_proj", "linear", "F.linear:bf16", 1.1), an_operator("o_proj", "linear", "F.linear:bf16", 0.8),
        an_operator("norm", "rms_norm", "rms_norm", 1.0),
        an_operator("gone", "add", "add", 1.0),
    ]  # fmt: skip
    measured = [
        an_operator("q_proj", "linear", "F.linear:bf16", 1.0), an_operator("o_proj", "linear", "F.linear:bf16", 1.0),
        an_operator("norm", "rms_norm", "rms_norm", 2.0),
    ]  # fmt: skip
    old = {"result": {"ops": measured}}  # stored before predictions were stored beside it
    pair = {"pair": {"a_s": 1.0}}  # of a benchmark, imported
    table = {
        r.group: r for r in score_operators([{"predicted": {"ops": predicted}, "result": {"ops": measured}}, old, pair])
    }
    assert set(table) == {"linear F.linear:bf16", "rms_norm", "all"}
    linear = table["linear F.linear:bf16"]
    assert (linear.n, linear.coverage80) == (2, 0.5)
    assert linear.mape == pytest.approx(0.15) and linear.bias == pytest.approx(-0.05)
    assert linear.width == pytest.approx(1.1 / 0.9 - 1)
    assert table["all"].n == 3
    assert score_operators([old]) == []


def test_score_counts_by_hand():
    table = rows([an_answer(POINTS, {"int8": (20.0, 40.0), "int4": (16.0, 12.0)})])
    int8 = table["bf16..int8"]
    assert (int8.n, int8.sign_right, int8.sign_n) == (4, 1, 2)
    assert (int8.small_right, int8.small_n, int8.tie_n) == (1, 1, 1)
    assert int8.coverage80 == 0.5
    assert int8.width == pytest.approx(1.1**2 - 1)
    assert int8.speedup_mape == pytest.approx((0.2 + 0.5 + (1 - 1.05 / 1.06) + (1 - 1 / 1.01)) / 4)
    # side a is predicted exactly (1 s, 1 s); side b is off by measured / predicted of the speed-ups
    b_errors = [2.0 / 1.6 - 1, 0.8 / 1.2 - 1, 1.06 / 1.05 - 1, 1.01 / 1.0 - 1]
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
    assert int8.flip_error == pytest.approx(2.0) and int4.flip_error == pytest.approx(4 / 3)
    assert everything.flip_error == pytest.approx(math.sqrt(2.0 * 4 / 3)), "the median of the logarithms"


def test_missed_and_invented_flips_are_failures():
    ends = [a_point("int8", 1, 2.0, 2.0), a_point("int8", 64, 0.5, 0.5)]
    for foretold, seen in ((20.0, None), (None, 20.0)):
        row = rows([an_answer(ends, {"int8": (foretold, seen)})])["all"]
        assert (row.flips_n, row.flips_right) == (1, 0)
    assert rows([an_answer(ends, {"int8": (None, None)})])["all"].flips_n == 0


def test_flips_between_ends_of_5_to_10_percent_are_counted_apart():
    ends = [a_point("int8", 1, 1.02, 1.4), a_point("int8", 64, 0.97, 0.93)]
    answer = an_answer(ends, {"int8": (None, 30.0)})
    flat = tuple(replace(c, speedup=(1.0,) * len(c.batch)) for c in answer.bet.curves)
    row = rows([replace(answer, bet=replace(answer.bet, curves=flat))])["all"]
    assert (row.flips_n, row.small_flips_n, row.small_flips_right) == (0, 1, 0)
    steep = tuple(replace(c, speedup=(1.4, *[0.8] * (len(c.batch) - 1))) for c in answer.bet.curves)
    assert rows([replace(answer, bet=replace(answer.bet, curves=steep))])["all"].flips_n == 1, "predicted clearly"


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
