"""What is stated before anything runs: the fewest points to measure, where a side flips, and the bet."""

import dataclasses
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from ridgepoint.errors import BadInput, DoesNotFit, NotSupported, UnknownName
from ridgepoint.prediction import predict, step_time
from ridgepoint.study.betting import crossing_of, place_bet
from ridgepoint.study.choosing import CLOSE, first_points, next_point, side_of
from ridgepoint.study.document import Flip
from ridgepoint.study.question import Question, ask, step_for
from ridgepoint.study.why import check_fits

DATA = Path(__file__).parent / "data"
MODEL, TARGET = str(DATA / "tiny-llama.json"), str(DATA / "test-target.calibrated.toml")
PLENTY = 2.0**40


def question(bet: str, **asked: Any) -> Question:
    return ask(MODEL, bet, on=TARGET, **asked)


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


@pytest.mark.parametrize(
    ("measured", "batch"),
    [({4: 2.0, 16: 0.5}, 8), ({8: 2.0, 16: 0.5}, None), ({1: 2.0, 64: 0.5}, 4), ({16: 2.0, 64: 1.5}, None)],
)
def test_where_the_grid_is_coarse_the_middle_itself_is_measured(measured, batch):
    assert next_point((1, 4, 16, 64), measured) == batch


@given(st.sets(st.integers(1, 4096), min_size=2, max_size=40), st.floats(0.5, 5000))
def test_a_flip_is_bracketed_closely_in_few_points(batches, flip):
    grid = tuple(sorted(batches))
    known = {b: 2.0 if b < flip else 0.5 for b in (grid[0], grid[-1])}
    while (batch := next_point(grid, known)) is not None:
        assert batch not in known
        known[batch] = 2.0 if batch < flip else 0.5
    assert len(known) <= 2 + len(grid) + 12
    disagree = [(b, c) for b, c in pairwise(sorted(known)) if known[b] != known[c]]
    assert len(disagree) == (known[grid[0]] != known[grid[-1]])
    for left, right in disagree:
        assert right <= CLOSE * left
        assert not any(left < b < right for b in grid)
    if not disagree:
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
        ({"bet": "bf16..int8", "phase": "mixed"}, BadInput, "decode, prefill, forward, train"),
        ({"bet": "full..lora", "phase": "train"}, NotSupported, "ridge calibrate --train"),
        ({"bet": "bf16..int8", "batches": ()}, BadInput, "--batch"),
        ({"bet": "bf16..fp8"}, NotSupported, "fp8"),
        ({"bet": "bf16..in8"}, UnknownName, "int8"),
    ],
)
def test_a_question_that_cannot_be_asked_is_refused_before_anything_runs(asked, error, says):
    with pytest.raises(error, match=says):
        question(**asked)


def test_a_single_layer_has_no_phase():
    with pytest.raises(BadInput, match="has no phase"):
        ask("linear:256x128", "bf16..int8", on=TARGET, phase="prefill")


def test_what_does_not_fit_is_refused_with_the_batches_that_do():
    asked = question("bf16..int8", batches=(1, 4, 64))
    check_fits(asked, PLENTY)
    with pytest.raises(DoesNotFit, match="no batch of the grid fits"):
        check_fits(asked, 1e5)
    with pytest.raises(DoesNotFit, match="at batch 64 .* batches up to 4 fit"):
        check_fits(asked, 5e6)


@pytest.mark.parametrize(("machine_id", "flagged"), [("0another0one", True), ("", False), ("here", False)])
def test_a_calibration_of_another_machine_is_flagged(machine_id, flagged, tmp_path, monkeypatch):
    from msgspec.structs import replace

    from ridgepoint.hardware import load_target, save_target
    from ridgepoint.study.measure import predict_side, set_side, step_named
    from ridgepoint.study.provenance import provenance

    own = provenance().machine["machine_id"] if machine_id == "here" else machine_id
    monkeypatch.setenv("RIDGEPOINT_HOME", str(tmp_path))
    save_target(replace(load_target(TARGET), machine_id=own), "mine")
    result = predict_side(set_side(MODEL, "bf16", step_named("decode", 1, 16), "host"))
    assert any("another machine" in flag for flag in result.flags) == flagged
