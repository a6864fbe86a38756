"""Sparsity: what is written, what it costs on paper, what becomes of the weights, and where sparse rows break even."""

from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ridgepoint.choice import parse_choices, resolve
from ridgepoint.errors import BadInput, NotSupported
from ridgepoint.hardware import LinearLaw, load_target
from ridgepoint.prediction import step_time
from ridgepoint.study.betting import place_bet
from ridgepoint.study.break_even import measured_break_even
from ridgepoint.study.document import Point
from ridgepoint.study.question import ask
from ridgepoint.study.sparsity import sparsity_card
from ridgepoint.workload import Linear, decode, format_named, load_model, train

SMOL, POCKET = load_model("smollm2-135m"), load_model("pocket")
STEP = decode(1, 128)
DATA = Path(__file__).parent / "data" / "test-target.calibrated.toml"
TARGET = load_target(str(DATA))
shares = st.floats(0.01, 0.99).map(lambda x: round(x, 4))


def csr_target(call_s=2e-5, stored_s=1e-9):
    """The test target with a made-up law of sparse rows: so much a call, so much a stored weight and row."""
    rows = tuple((call_s, m**0.5 * stored_s, 0.0, 0.0, 0.0, 0.0, 0.0) for m in (1.0, 64.0))
    law = LinearLaw(
        kernel="rows", rung="packed", format="csr", act="fp32", threads=1, m=(1.0, 64.0), cold=rows, hot=rows, sigma=0.1,
        source=next(iter(TARGET.sources)), near_bytes=2.0**20,
    )  # fmt: skip
    return msgspec.structs.replace(TARGET, linear=(*TARGET.linear, law))


def plan_of(text, model=SMOL, step=STEP, device="cpu"):
    return resolve(text, "bf16", device).plan(model, step)


# What is written


@pytest.mark.parametrize(
    ("text", "spelled"),
    [
        ("2:4", "2:4"), ("sparse:2:4", "2:4"), ("2:4:wanda:mlp", "2:4:wanda:mlp"), ("sparse:.50", "sparse:0.5"),
        ("sparse:0.9:csr:layers=0-3.7", "sparse:0.9:csr:layers=0-3.7"), ("channels:0.5:wanda", "channels:0.5:wanda"),
        ("heads:0.33", "heads:0.33"), ("layers:0.25", "layers:0.25"), ("dense", "dense"),
    ],
)  # fmt: skip
def test_a_choice_is_spelled_so_that_it_reads_back(text, spelled):
    (choice,) = parse_choices(text)
    assert choice.spelled == spelled and parse_choices(spelled) == (choice,)


@pytest.mark.parametrize(
    "text",
    ["sparse", "sparse:0", "sparse:1", "sparse:1.5", "sparse:-0.5", "sparse:0.00001", "2:5", "2:4:csr", "sparse:0.5:0.6",
     "channels", "channels:2", "heads:x", "layers:0.5:wanda", "sparse:0.5:gptq", "dense:0.5", "dense+2:4"],
)  # fmt: skip
def test_what_is_no_share_is_refused(text):
    with pytest.raises(BadInput):
        parse_choices(text)


@pytest.mark.parametrize(
    ("text", "step", "says"),
    [
        ("sparse:0.5:csr+int8", STEP, "no dtype that they share"),
        ("fp32+sparse:0.5:csr+int8:dyn", STEP, "holds fp32 values, not int8:dyn"),
        ("bf16+sparse:0.5:csr", STEP, "no kernel for bf16"),
        ("sparse:0.5", train(1, 8), "first gradient fills the zeros"),
        ("heads:0.1", STEP, "heads:0.33 removes one"),
        ("layers:0.01", STEP, "possible are 1 to 29"),
        ("sparse:0.5:wanda:head", STEP, "leaves the head alone"),
        ("sparse:0.5:layers=99", STEP, "layers 0 to 29"),
    ],
)
def test_refused_with_the_reason_and_what_works(text, step, says):
    with pytest.raises((BadInput, NotSupported), match=says):
        plan_of(text, step=step)


def test_models_without_such_parts_are_refused():
    layer = load_model("linear:64x64")
    for text in ("channels:0.5", "heads:0.5", "layers:0.5", "sparse:0.5:wanda"):
        with pytest.raises(NotSupported):
            plan_of(text, layer)
    with pytest.raises(NotSupported, match="is none"):
        plan_of("channels:0.5", load_model("mixtral-8x7b-v0.1"))
    with pytest.raises(NotSupported, match="multiples of 32 x 64"):
        plan_of("2:4", load_model("linear:60x64"), device="cuda")
    with pytest.raises(NotSupported, match="kernel for CPUs"):
        plan_of("fp32+sparse:0.5:csr", device="cuda")


# On paper


def test_zeros_in_a_dense_tensor_change_nothing_on_paper():
    dense, zeros = plan_of("dense"), plan_of("sparse:0.5")
    assert dense.ops == zeros.ops and dense.weight_bytes == zeros.weight_bytes
    assert plan_of("2:4").ops == dense.ops, "a CPU has no kernel for 2:4"


@given(shares)
def test_sparse_rows_move_and_multiply_what_is_stored(sparsity):
    form = format_named(f"csr:{sparsity:g}")
    assert form.weight_bytes(100, 64) == pytest.approx((1 - sparsity) * 6400 * 8 + 400)
    dense, rows = (Linear("x", "other", 3, 100, 64, "fp32", w) for w in ("fp32", form.name))
    assert rows.flops == pytest.approx(dense.flops * (1 - sparsity))


def test_two_of_four_on_a_gpu_is_nine_sixteenths_of_the_bytes_and_half_of_the_products():
    dense, half = (plan_of(t, load_model("linear:4096x4096"), device="cuda").ops[0] for t in ("dense", "2:4"))
    assert half.weight_bytes / dense.weight_bytes == 9 / 16 and half.flops == dense.flops / 2


def test_two_of_four_is_faster_than_dense_never_twice_and_only_where_the_sheet_says_so():
    for gpu in ("a100-sxm", "h100-sxm"):
        target = load_target(gpu)
        for rows in (1, 64, 4096):
            step = decode(rows, 1)
            a, b = (
                step_time(plan_of(t, load_model("linear:4096x4096"), step, "cuda"), target) for t in ("dense", "2:4")
            )
            assert 1.1 < float(a.seconds) / float(b.seconds) < 2.0
    with pytest.raises(NotSupported, match="skips 2:4 zeros in no dtype"):
        step_time(plan_of("fp16+2:4", load_model("linear:4096x4096"), device="cuda"), load_target("v100-sxm2"))


@pytest.mark.parametrize(
    ("text", "less"),
    [("channels:0.5", 30 * 3 * 576 * 768), ("heads:0.33", 30 * 576 * 64 * (3 + 1 + 1 + 3)),
     ("layers:0.5", 15 * SMOL.blocks[0].parameters(576) // 30)],
)  # fmt: skip
def test_what_is_removed_is_gone_from_parameters_cache_and_operators(text, less):
    plan = plan_of(text)
    assert SMOL.parameters - plan.workload.parameters == less
    assert float(plan.weight_bytes) == pytest.approx(2 * plan.workload.parameters)
    cache = {"channels:0.5": 1.0, "heads:0.33": 2 / 3, "layers:0.5": 0.5}[text]
    assert plan.kv_cache_bytes == pytest.approx(cache * plan_of("dense").kv_cache_bytes)
    card = sparsity_card(resolve(text, "bf16"), SMOL, plan)
    assert card == {"removed": pytest.approx(less / SMOL.parameters)}


def test_the_deepest_layers_go_but_the_last():
    assert plan_of("layers:0.5").kept == (*range(14), 29)


def test_present_and_exploited_are_told_apart():
    cards = {
        t: sparsity_card(resolve(t, "fp32"), SMOL, plan_of(t))
        for t in ("dense", "sparse:0.6", "sparse:0.6:csr", "sparse:0.6:csr:layers=0-14", "sparse:0.6:mlp")
    }
    assert cards["dense"] == {}
    assert (cards["sparse:0.6"]["zeros"], cards["sparse:0.6"]["skipped"]) == (pytest.approx(0.6), 0.0)
    assert cards["sparse:0.6:csr"]["skipped"] == pytest.approx(0.6)
    half = cards["sparse:0.6:csr:layers=0-14"]
    assert half["zeros"] == pytest.approx(0.3) == half["skipped"]
    mlp = 3 * 1536 / (3 * 1536 + 2 * 576 + 2 * 192)
    assert cards["sparse:0.6:mlp"]["zeros"] == pytest.approx(0.6 * mlp)


# Break-even


def question(monkeypatch, target, sides, batches=(1, 16)):
    monkeypatch.setattr("ridgepoint.study.question.load_target", lambda *_: target)
    return ask("linear:1024x1024", f"dense..{sides}", common="fp32", batches=batches, on="test-target")


def test_the_density_at_which_sparse_rows_break_even_is_where_their_time_is_that_of_the_dense_layer(monkeypatch):
    asked = question(monkeypatch, csr_target(), "sparse:0.5:csr,sparse:0.9:csr")
    bet = place_bet(asked)
    assert [(e.family, e.batch) for e in bet.break_even] == [("sparse:s:csr", 1), ("sparse:s:csr", 16)]
    for found in bet.break_even:
        assert 0 < found.low < found.density < found.high <= 1
        side = resolve(f"fp32+sparse:{1 - found.density:.4f}:csr", "fp32")
        plans = (s.plan(asked.workload, decode(found.batch, 0)) for s in (asked.a, side))
        a, b = (float(step_time(plan, asked.target).seconds) for plan in plans)
        assert a / b == pytest.approx(1.0, abs=0.01)


def test_rows_that_never_win_and_rows_that_always_do(monkeypatch):
    never, always = (
        place_bet(question(monkeypatch, csr_target(*law), "sparse:0.5:csr")).break_even[0].density
        for law in ((1.0, 1e-9), (0.0, 1e-15))
    )
    assert (never, always) == (0.0, 1.0)


def measured(b, batch, speedup):
    return Point(
        a="dense", b=b, batch=batch, predicted_speedup=1, predicted_low=1, predicted_high=1, measured_speedup=speedup,
        measured_low=None, measured_high=None, verdict="", predicted_a_s=1, predicted_b_s=1, measured_a_s=None,
        measured_b_s=None, roofline_speedup=1,
    )  # fmt: skip


def test_the_measured_density_lies_between_the_sides_that_win_and_lose(monkeypatch):
    sides = ("sparse:0.9:csr", "sparse:0.6:csr", "sparse:0.5")
    bet = place_bet(question(monkeypatch, csr_target(), ",".join(sides)))

    def found(*speedups):
        return measured_break_even(bet, [measured(s, 1, x) for s, x in zip(sides, speedups, strict=True)])

    (one,) = found(2.0, 0.5, 1.0)
    assert (one.low, one.high) == (pytest.approx(0.1), pytest.approx(0.4)) and one.density == pytest.approx(0.2)
    (above,), (below,) = found(3.0, 2.0, 1.0), found(0.5, 0.2, 1.0)
    assert (above.density, above.low, below.density, below.high) == (
        None, pytest.approx(0.4), None, pytest.approx(0.1),
    )  # fmt: skip
    assert measured_break_even(bet, [measured(sides[0], 1, 2.0)]) == ()
