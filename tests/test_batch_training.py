"""Batch curves of training steps: utilisation by hand, the wall with all that training holds, what a second is worth."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
from test_batch import HERE, PLENTY, Scripted, Silent
from test_training import made

from ridgepoint.choice import resolve
from ridgepoint.errors import BadInput
from ridgepoint.hardware import load_target
from ridgepoint.report.batch_words import loss_words, mfu_words
from ridgepoint.store import Store
from ridgepoint.study.batch.loss import LossRate, check_loss
from ridgepoint.study.batch.mfu import model_flops, peak_flops_per_s
from ridgepoint.study.batch.question import BatchQuestion, ask_batch
from ridgepoint.study.batch.run import BatchEffort, batch_curve
from ridgepoint.study.batch.wall import SHARE, need_bytes
from ridgepoint.workload import Attention, Linear, forward, load_model, train

SMOL, POCKET = load_model("smollm2-135m"), load_model("pocket")
LAWS = made()
TARGET = msgspec.structs.replace(
    load_target(str(Path(__file__).parent / "data" / "test-target.calibrated.toml")),
    training=tuple(msgspec.structs.replace(law, source="calibration") for law in LAWS.training),
    training_nets=tuple(msgspec.structs.replace(net, source="calibration") for net in LAWS.training_nets),
)


def plan_of(text: str, step: Any) -> Any:
    return resolve(text, "fp32").plan(SMOL, step)


@pytest.fixture
def question(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr("ridgepoint.study.measure.target_for", lambda *_: TARGET)

    def asked(model: str = "pocket", side: str = "fp32", **more: Any) -> BatchQuestion:
        return ask_batch(model, side, phase="train", isl=32, on="test-target", **{"room_bytes": PLENTY, **more})

    return asked


def test_products_of_a_step_are_three_times_those_of_the_forward_pass():
    """Forward, gradient of the input and of the weight."""
    once = sum(op.count * op.flops for op in plan_of("fp32", forward(2, 16)).ops if isinstance(op, Linear))
    step = plan_of("fp32+full", train(2, 16))
    thrice = sum(op.count * op.flops for op in step.ops if isinstance(op, Linear))
    assert thrice == pytest.approx(3 * once)
    assert thrice <= model_flops(step) < 1.2 * thrice


def test_scores_that_the_gradient_of_attention_redoes_do_not_count():
    """Two products forward, four for the gradients (PaLM, arXiv 2204.02311, appendix B); flash has a fifth."""
    step = plan_of("fp32+full", train(1, 256))
    attention = {op.sweep: op.count * op.flops for op in step.ops if isinstance(op, Attention)}
    everything = sum(op.count * op.flops for op in step.ops)
    assert attention["grad_input"] == pytest.approx(2.5 * attention["forward"])
    assert everything - model_flops(step) == pytest.approx(0.5 * attention["forward"])


def test_what_checkpointing_computes_again_does_not_count():
    kept, again = (plan_of(f"fp32+full+{c}", train(2, 16)) for c in ("keep", "checkpoint"))
    assert model_flops(kept) == pytest.approx(model_flops(again))
    assert sum(op.count * op.flops for op in again.ops) > 1.15 * model_flops(again)


def test_the_peak_is_that_of_the_dtype_times_the_threads():
    plan = plan_of("fp32+full", train(1, 8))
    peak = peak_flops_per_s(plan, TARGET)
    assert peak == TARGET.flops_per_s("fp32") and peak_flops_per_s(replace(plan, threads=2), TARGET) == 2 * peak
    assert peak_flops_per_s(plan, msgspec.structs.replace(TARGET, peaks=())) is None


def test_the_wall_counts_gradients_states_and_what_is_kept(question):
    asked = question(room_bytes=2.0**28)
    room = SHARE * 2.0**28
    assert (
        need_bytes(asked.setting.plan, asked.wall.batch) <= room < need_bytes(asked.setting.plan, asked.wall.batch + 1)
    )
    forward_only = ask_batch("pocket", "fp32", phase="forward", isl=32, on="test-target", room_bytes=2.0**28)
    assert asked.wall.batch < forward_only.wall.batch
    lighter = question(side="fp32+lora:r=8", room_bytes=2.0**28)
    assert lighter.wall.batch > asked.wall.batch


class Trained(Scripted):
    """Also answers for training runs: every step of batch b takes 1e-3 b^(1/2) nats off, give or take by the seed."""

    def ask(self, request: Any) -> Iterator[dict[str, Any]]:
        if hasattr(request, "seeds"):
            for seed in request.seeds:
                fell = 1e-3 * request.batch**0.5 * request.steps * (1 + 0.01 * seed)
                yield {"kind": "curve", "side": 0, "seed": seed, "losses": [], "before": 3.0, "after": 3.0 - fell}
            yield {"kind": "done"}
            return
        yield from super().ask(request)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store(tmp_path / "ridge.db") as opened:
        yield opened


def test_a_curve_with_its_utilisation_and_what_a_second_is_worth(question, store):
    """Steps of (1 + b) ms: loss falls by sqrt(b) / (1 + b) nats a second, fastest at batch 1 of any grid of whole numbers."""
    asked = question(grid=(1, 4, 16))
    session = Trained(store, lambda b: 1e-3 * (1 + b))
    effort = BatchEffort(seconds=0.3, every_point=True, loss=LossRate(1.0))
    answer = batch_curve(asked, store, HERE, Silent(), effort, PLENTY, session)
    rows = {r["batch"]: r for r in answer.loss["rows"]}
    assert {b: r["steps"] for b, r in rows.items()} == {1: 500, 4: 200, 16: 59}
    for batch, row in rows.items():
        assert (
            row["per_s"] == pytest.approx(1.01 * batch**0.5 / (1 + batch), rel=1e-6)
            and row["low"] < row["per_s"] < row["high"]
        )
    assert answer.loss["fastest"] == 1 and answer.loss["close"] == []
    assert "MFU" in answer.bet.definitions and "fastest at batch 1" in " ".join(loss_words(answer))
    seconds, flops = answer.curve[1].seconds, answer.bet.curve.flops[1]
    assert mfu_words(answer.bet, 1, seconds) == f"{100 * flops / seconds / TARGET.flops_per_s('fp32'):.0f} %"
    before = len(store.records(kind="curve"))
    asked_again = batch_curve(asked, store, HERE, Silent(), effort, PLENTY, Trained(store, lambda b: 1e-3 * (1 + b)))
    assert asked_again.loss["rows"] == answer.loss["rows"] and len(store.records(kind="curve")) == 2 * before


def test_a_loss_that_falls_nowhere_has_no_fastest_batch(question, store):
    class Rising(Trained):
        def ask(self, request):
            for message in super().ask(request):
                yield {**message, "after": 3.1} if message["kind"] == "curve" else message

    effort = BatchEffort(seconds=0.3, every_point=True, loss=LossRate(1.0))
    answer = batch_curve(question(grid=(1, 4)), store, HERE, Silent(), effort, PLENTY, Rising(store))
    assert "falls at none of them" in loss_words(answer)[-1]


def test_what_has_no_loss_is_refused(question, tmp_path):
    check_loss(question(), "pocket", LossRate(5.0))
    with pytest.raises(BadInput, match="random weights"):
        check_loss(question("smollm2-135m"), "smollm2-135m", LossRate(5.0))
    with pytest.raises(BadInput, match="no such file"):
        check_loss(question(), "pocket", LossRate(5.0, "/nonexistent.txt"))
    short = tmp_path / "short.txt"
    short.write_text("too short")
    with pytest.raises(BadInput, match="too few to train on"):
        check_loss(question(), "pocket", LossRate(5.0, str(short)))
    with pytest.raises(BadInput, match="possible are up to"):
        check_loss(question(), "pocket", LossRate(5000.0))
    with pytest.raises(BadInput, match="needs --step train"):
        check_loss(ask_batch("pocket", "fp32", on="test-target", room_bytes=PLENTY), "pocket", LossRate(5.0))
