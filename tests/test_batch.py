"""`ridge batch`: what is asked, refused, stored when, resumed, lost, and shown."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace as changed

from ridgepoint.errors import BadInput, DoesNotFit, MachineBusy, NotSupported, RidgeError
from ridgepoint.measurement.session import ChildDied, Session
from ridgepoint.prediction import step_time
from ridgepoint.quantity import show_bytes
from ridgepoint.store import Provenance, Record, Store
from ridgepoint.study.batch.bet import paper_of
from ridgepoint.study.batch.document import BatchAnswer, BatchPoint, batch_bet_from
from ridgepoint.study.batch.knee import knee_of
from ridgepoint.study.batch.question import BatchQuestion, ask_batch, slo_of
from ridgepoint.study.batch.run import BatchEffort, batch_curve, stored_batch_bet
from ridgepoint.study.batch.wall import SHARE, at_batch, need_bytes

DATA = Path(__file__).parent / "data"
MODEL, TARGET = str(DATA / "tiny-llama.json"), str(DATA / "test-target.calibrated.toml")
HERE = Provenance({"machine_id": "0test0target", "cpu": "a test's"}, {"ridgepoint": "0"}, {})
PLENTY = 2.0**34
FEW, EVERY = BatchEffort(seconds=0.3), BatchEffort(seconds=0.3, every_point=True)


def question(**asked: Any) -> BatchQuestion:
    return ask_batch(MODEL, asked.pop("side", ""), on=TARGET, **{"room_bytes": PLENTY, **asked})


# What is asked


@pytest.mark.parametrize(
    ("text", "phase", "found"),
    [("tpot=40ms", "decode", ("tpot", 0.04)), ("latency=2s", "prefill", ("latency", 2.0)), ("", "decode", None),
     ("latency=500us", "forward", ("latency", 5e-4)), ("tpot=40ms, latency=30ms", "decode", ("latency", 0.03))],
)  # fmt: skip
def test_objectives_are_read(text, phase, found):
    read = slo_of(text, phase)
    assert read == found if found is None else read == (found[0], pytest.approx(found[1]))


@pytest.mark.parametrize(
    ("text", "phase", "possible"),
    [("tpot=40ms", "prefill", "for --phase prefill is latency, each once, as latency=2s"), ("ttft=1s", "decode", "tpot, latency"),
     ("tpot=40", "decode", "tpot=40ms"), ("tpot=0ms", "decode", "tpot=40ms"), ("tpot=-4ms", "decode", "tpot=40ms"),
     ("40ms", "decode", "tpot=40ms"), ("tpot=1ms,tpot=2ms", "decode", "each once"), ("tpot=1.2.3ms", "decode", "tpot=40ms")],
)  # fmt: skip
def test_other_objectives_are_refused_with_what_is_possible(text, phase, possible):
    with pytest.raises(BadInput, match="--slo") as refused:
        slo_of(text, phase)
    assert possible in str(refused.value)


@given(st.text(max_size=30))
def test_no_text_is_an_objective_by_accident(text):
    try:
        found = slo_of(text, "decode")
    except BadInput as refused:
        assert "\n" not in str(refused)
    else:
        assert found is None or found[1] > 0


def test_the_grid_doubles_up_to_what_ends_it():
    assert question().grid == tuple(2**i for i in range(9)) and "largest" in question().capped
    assert question(grid=(8, 2, 8)).grid == (2, 8)
    short = question(room_bytes=need_bytes(question().setting.plan, 20) / SHARE)
    assert short.grid == (1, 2, 4, 8, 16) and "batch 32 would need" in short.capped
    slow = question(phase="prefill", isl=1000)
    seconds = [float(step_time(at_batch(slow.setting.plan, b), slow.setting.target).seconds) for b in slow.grid]
    assert len(slow.grid) < 9 and "step of batch" in slow.capped and seconds[-1] <= 3.0
    paper = ask_batch("smollm2-135m", on="h100-sxm")
    assert paper.grid[-1] == 1024 and paper.wall is not None and "h100-sxm" in paper.wall.of


@pytest.mark.parametrize("side", ["", "int8", "fp32"])
@pytest.mark.parametrize("phase", ["decode", "prefill"])
def test_the_wall_is_the_last_batch_that_fits(side, phase):
    asked = question(side=side, phase=phase, room_bytes=2.0**27)
    assert asked.wall is not None
    room = SHARE * 2.0**27
    assert asked.wall.room_bytes == room and not asked.wall.searched
    assert (
        need_bytes(asked.setting.plan, asked.wall.batch) <= room < need_bytes(asked.setting.plan, asked.wall.batch + 1)
    )
    assert asked.wall.need_bytes == need_bytes(asked.setting.plan, asked.wall.batch)


def test_what_is_impossible_is_refused_before_anything_runs():
    for asked, words in (
        ({"phase": "mixed"}, "decode, prefill, forward or train"), ({"side": "batch:4"}, "--grid"), ({"grid": (0, 4)}, "--grid"),
        ({"isl": 4000}, "at most 1024 positions"),
    ):  # fmt: skip
        with pytest.raises(BadInput, match=words):
            question(**asked)
    with pytest.raises(DoesNotFit, match="at batch 1 needs"):
        question(room_bytes=1e5)


def test_the_predicted_curve_is_the_step_times_and_its_errors_vanish_against_themselves():
    asked = question(side="int4")
    paper, plan = paper_of(asked), asked.setting.plan
    for batch in (1, 3, 16, 200):
        time = step_time(at_batch(plan, batch), asked.setting.target)
        i = int(np.searchsorted(paper.batch, batch))
        assert paper.batch[i] == batch
        assert paper.seconds[i] == pytest.approx(float(time.seconds)) and paper.sigma[i] == pytest.approx(
            float(time.sigma)
        )
    square = paper.apart
    assert square.shape == (9, 9)
    assert np.all(np.diag(square) == 0) and np.allclose(square, square.T) and np.all(square >= 0)
    large = paper_of(question(grid=(1, 50_000)))
    assert len(large.batch) <= 4098 and {1, 50_000} <= set(large.batch.tolist())


# From the bet to the answer, with a measuring process that answers by script


class Scripted(Session):
    """Answers each request by `seconds(batch)`; `raised` are exceptions by batch."""

    def __init__(self, store: Store, seconds: Any = lambda b: 1e-3 * (1 + b / 16), raised: dict[int, BaseException] | None = None,
                 energy: bool = False):  # fmt: skip
        super().__init__()
        self.store, self.seconds, self.raised, self.energy = store, seconds, raised or {}, energy
        self.asked: list[int] = []
        self.bets_at_first: list[Any] = []

    def ask(self, request: Any) -> Iterator[dict[str, Any]]:
        if not self.asked:
            self.bets_at_first = self.store.records(kind="batch-bet")
        batch = request.step.groups[0][0]
        self.asked.append(batch)
        if error := self.raised.get(batch):
            raise error
        seconds = self.seconds(batch)
        joules = {"energy_j": 2.0 * batch, "energy_low_j": 1.9 * batch, "energy_high_j": 2.1 * batch,
                  "energy_method": "scripted counter"}  # fmt: skip
        yield {
            "kind": "done", "single": {"p20_s": seconds, "median_s": seconds, "n": 12, "spread": 0.01}, "ops": None,
            "clock": "scripted", "load": "", "tokens": batch, "random": True, "resident_bytes": None, "memory_bytes": 7.0,
            "flags": [], "compile_s": None, **(joules if self.energy else {"energy_reason": "not measurable here: a script"}),
        }  # fmt: skip


class Silent:
    """A watcher that keeps what it was shown."""

    def __init__(self) -> None:
        self.points: list[BatchPoint] = []

    def bet(self, bet: Any, record: Any) -> None: ...

    def stage(self, text: str, done: int, total: int) -> None: ...

    def point(self, point: BatchPoint) -> None:
        self.points.append(point)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store(tmp_path / "ridge.db") as opened:
        yield opened


def run(asked: BatchQuestion, store: Store, session: Scripted, effort: BatchEffort = FEW) -> BatchAnswer:
    return batch_curve(asked, store, HERE, Silent(), effort, PLENTY, session)


def test_the_prediction_is_stored_before_the_first_measurement_and_its_digest_holds(store):
    session = Scripted(store)
    answer = run(question(), store, session)
    (bet,) = session.bets_at_first
    assert (bet.id, bet.digest) == (answer.id, answer.digest) and batch_bet_from(bet.body["bet"]) == answer.bet
    assert store.get(bet.id).digest == answer.digest


def test_a_third_is_measured_and_the_rest_is_the_prediction_scaled(store):
    session = Scripted(store, lambda b: 2e-3 * (1 + b / 16))
    answer = run(question(), store, session)
    assert len(session.asked) == len(answer.points) == 3
    how = {p.batch: p.how for p in answer.curve}
    assert {b for b, word in how.items() if word == "measured"} == set(session.asked)
    assert set(how.values()) == {"measured", "scaled prediction"}
    for p in answer.curve:
        if p.how == "measured":
            assert p.seconds == pytest.approx(session.seconds(p.batch), rel=0.05)
        assert p.low < p.seconds < p.high and p.tokens_per_s == pytest.approx(p.batch / p.seconds)
    assert {p.batch: p.measured_s for p in answer.points} == {b: session.seconds(b) for b in session.asked}
    assert answer.error == pytest.approx(np.mean([abs(p.predicted_s / p.measured_s - 1) for p in answer.points]))


def test_where_visits_are_far_apart_the_prediction_counts_for_more(store):
    asked = question()
    noisy = replace(asked, setting=replace(asked.setting, target=changed(asked.setting.target, repeat_sigma=0.2)))
    predicted = dict(zip(asked.grid, paper_of(asked).seconds[paper_of(asked).at].tolist(), strict=True))
    answers = [run(q, store, Scripted(store, lambda b: 1.1 * predicted[b]), EVERY) for q in (asked, noisy)]
    quiet, shaky = ({p.batch: p for p in answer.curve} for answer in answers)
    for batch in asked.grid:
        assert predicted[batch] < shaky[batch].seconds < quiet[batch].seconds <= 1.1 * predicted[batch]
        assert shaky[batch].high / shaky[batch].low > quiet[batch].high / quiet[batch].low
    told = [[f for f in answer.flags if "how far visits" in f] for answer in answers]
    assert len(told[0]) == 1 and not told[1], "the test's target does not know"
    assert all(p.measured_s == pytest.approx(1.1 * predicted[p.batch]) for answer in answers for p in answer.points)
    few = [run(q, store, Scripted(store, lambda b: 1.1 * predicted[b])) for q in (asked, noisy)]
    near, far = ([p.seconds / predicted[p.batch] for p in answer.curve if p.how != "measured"] for answer in few)
    assert max(far) < min(near) <= 1.1 and min(far) > 1.0


def test_the_whole_sweep_has_the_knee_of_what_was_measured_and_the_few_are_within_a_step_of_it(store):
    seconds = lambda b: 1e-3 * max(1.0, b / 24) ** 0.97  # noqa: E731
    whole = run(question(), store, Scripted(store, seconds), EVERY)
    few = run(question(), store, Scripted(store, seconds))
    grid = whole.bet.grid
    assert len(whole.points) == len(grid) and {p.how for p in whole.curve} == {"measured"}
    assert whole.knee.batch == knee_of(grid, [seconds(b) for b in grid]).batch
    assert abs(grid.index(few.knee.batch) - grid.index(whole.knee.batch)) <= 1


def test_the_slo_is_answered_by_what_was_measured(store):
    seconds = lambda b: 1e-3 * (1 + b / 16)  # noqa: E731
    answer = run(question(slo="tpot=4ms"), store, Scripted(store, seconds))  # batch 48
    assert answer.slo is not None and answer.bet.slo is not None
    assert {p.batch for p in answer.points} & {32, 64}
    assert answer.slo.low <= 48 <= answer.slo.high and abs(answer.slo.batch / 48 - 1) < 0.15
    assert answer.slo.high - answer.slo.low < 48 / 3
    assert answer.verdict.startswith(f"largest batch that keeps tpot <= 4 ms: {answer.slo.batch} (")
    assert "the knee is at batch" in answer.verdict and "memory ends at batch" in answer.verdict
    none = run(question(slo="tpot=1us"), store, Scripted(store, seconds))
    assert none.slo is not None and none.slo.batch == 0 and none.verdict.startswith("no batch keeps tpot <= 1 µs")
    all_ = run(question(slo="tpot=100s"), store, Scripted(store, seconds))
    assert all_.slo is not None and all_.slo.at_end and "at least 256" in all_.verdict


@pytest.mark.parametrize("error", [ChildDied("the measuring process was killed, as the kernel does when memory runs out"),
                                   DoesNotFit("out of memory")])  # fmt: skip
def test_memory_that_runs_out_is_recorded_with_the_need_and_loses_nothing(store, error):
    raised = dict.fromkeys((32, 64, 128, 256), error)
    answer = run(question(slo="tpot=5ms"), store, Scripted(store, raised=raised))
    failures = store.records(kind="failure", study=answer.id)
    assert answer.ran_out_at is not None and answer.ran_out_at >= 32 and failures
    lost = next(p for p in answer.points if p.batch == answer.ran_out_at)
    need = show_bytes(need_bytes(question().setting.plan, lost.batch))
    assert lost.measured_s is None and lost.out_of_memory and f"predicted need {need}" in lost.flags[0]
    assert failures[-1].body["point"]["predicted_memory_bytes"] == lost.predicted_memory_bytes
    assert len([p for p in answer.points if p.measured_s is not None]) == 3  # a failure costs no point
    assert all(p.fits == (p.batch < answer.ran_out_at) for p in answer.curve)
    assert answer.knee.batch < answer.ran_out_at and answer.slo is not None and answer.slo.batch < answer.ran_out_at
    assert f"memory ran out at batch {answer.ran_out_at} (predicted need {need})" in answer.verdict


@pytest.mark.parametrize("error", [MachineBusy("busy"), NotSupported("no kernel")])
def test_another_failure_leaves_out_its_batch_alone(store, error):
    answer = run(question(), store, Scripted(store, raised={16: error}), EVERY)
    assert answer.complete and answer.ran_out_at is None and all(p.fits for p in answer.curve)
    assert [p.batch for p in answer.points if p.measured_s is None] == [16]
    assert f"batch 16: {type(error).__name__}: {error}" in answer.flags
    assert {p.batch: p.how for p in answer.curve}[16] == "scaled prediction"


def test_nothing_measured_is_an_answer_too(store):
    answer = run(
        question(), store, Scripted(store, raised={b: NotSupported("no kernel") for b in (2**i for i in range(9))})
    )
    assert answer.error is None and answer.verdict.startswith("nothing measured; predicted: ")
    assert {p.how for p in answer.curve} == {"prediction"}


def test_batches_beyond_the_wall_are_predicted_and_never_run(store):
    room = need_bytes(question().setting.plan, 20) / SHARE
    asked = question(grid=(1, 2, 4, 8, 16, 32, 64), room_bytes=room)
    session = Scripted(store)
    answer = run(asked, store, session, EVERY)
    assert session.asked == [1, 2, 4, 8, 16]
    assert [p.fits for p in answer.curve] == [True] * 5 + [False] * 2
    assert answer.knee.batch <= 16


def test_an_interrupted_curve_goes_on_under_its_id_and_a_settled_one_does_not(store):
    class Cut(Scripted):
        def ask(self, request: Any) -> Iterator[dict[str, Any]]:
            if len(self.asked) == 1:
                raise KeyboardInterrupt
            yield from super().ask(request)

    cut = run(question(), store, Cut(store))
    assert not cut.complete and len(cut.points) == 1 and any(flag.startswith("interrupted") for flag in cut.flags)
    session = Scripted(store)
    roomier = question(room_bytes=2 * PLENTY)  # what is free has changed meanwhile
    whole = run(roomier, store, session)
    assert (whole.id, whole.complete) == (cut.id, True)
    assert whole.bet == cut.bet and len(session.asked) == 2 and cut.points[0] in whole.points
    assert run(question(), store, Scripted(store)).id != cut.id


def test_a_curve_that_goes_on_keeps_the_wall_that_it_was_stored_with(store):
    room, grid = need_bytes(question().setting.plan, 20) / SHARE, (1, 2, 4, 8, 16, 32, 64)
    stored_batch_bet(question(grid=grid, room_bytes=room), store, HERE)
    session = Scripted(store)
    answer = run(question(grid=grid), store, session, EVERY)
    assert session.asked == [1, 2, 4, 8, 16] and [p.batch for p in answer.curve if not p.fits] == [32, 64]


def test_a_curve_that_was_killed_before_its_answer_settles_from_the_store_alone(store, monkeypatch):
    append = store.append

    def until_the_answer(record: Record) -> None:
        if record.kind == "batch-answer":
            raise SystemError("killed here")
        append(record)

    monkeypatch.setattr(store, "append", until_the_answer)
    with pytest.raises(SystemError):
        run(question(), store, Scripted(store))
    monkeypatch.undo()
    session = Scripted(store)
    answer = run(question(), store, session)
    (bet,) = store.records(kind="batch-bet")
    assert answer.id == bet.id and session.asked == [] and len(answer.points) == 3


def test_an_open_bet_is_taken_up_only_for_the_same_question_on_the_same_machine(store):
    record, _ = stored_batch_bet(question(), store, HERE)
    assert stored_batch_bet(question(), store, HERE)[0].id == record.id
    others = [
        question(isl=64),
        question(grid=(1, 2)),
        question(side="int8"),
        question(slo="tpot=1ms"),
        question(phase="prefill"),
    ]
    ids = [stored_batch_bet(other, store, HERE)[0].id for other in others]
    elsewhere = Provenance({"machine_id": "another"}, {}, {})
    ids.append(stored_batch_bet(question(), store, elsewhere)[0].id)
    assert len({record.id, *ids}) == 7


def test_each_point_is_a_record_of_its_own_and_counts_for_operators(store):
    answer = run(question(), store, Scripted(store))
    points = store.records(kind="batch-point", study=answer.id)
    assert sorted(p.body["point"]["batch"] for p in points) == [p.batch for p in answer.points]
    assert {p.record for p in answer.points} == {p.id for p in points}
    for record in store.records(kind="measurement", study=answer.id):
        assert record.body["predicted"]["kind"] == "predicted" and record.body["result"]["kind"] == "measured"


def test_energy_is_per_token_with_its_method_or_absent_with_the_reason(store):
    without = run(question(), store, Scripted(store))
    assert without.energy == {"measured": False, "reason": "not measurable here: a script"}
    found = run(question(), store, Scripted(store, energy=True)).energy
    assert found["measured"] and found["method"] == "scripted counter"
    assert [p["j_per_token"] for p in found["points"]] == pytest.approx([2.0] * 3)


# The page and the tables


def test_the_page_stands_alone_and_says_what_is_measured(store):
    from ridgepoint.report.html_batch import batch_html

    answer = run(question(slo="tpot=4ms"), store, Scripted(store))
    page = batch_html(answer)
    assert page == batch_html(answer)
    assert "<script" not in page and "http:" not in page and "https:" not in page and "src=" not in page
    for word in (
        "knee.half-gain.v1",
        "wall.v1",
        "slo.v1",
        "weighed by their errors",
        "as measured",
        "memory ends",
        "equal throughput",
    ):
        assert word in page


@pytest.mark.parametrize("width", [80, 120])
def test_tables_hold_their_figures_at_any_width(store, width):
    from rich.console import Console

    from ridgepoint.report.batch_terminal import batch_answer_table, batch_bet_panel, batches_side_by_side

    answer = run(question(slo="tpot=4ms"), store, Scripted(store))
    console = Console(width=width, record=True, file=open(os.devnull, "w"))  # noqa: SIM115
    for what in (
        batch_bet_panel(answer.bet),
        batch_answer_table(answer),
        batches_side_by_side([answer.bet, answer.bet]),
    ):
        console.print(what)
    text = console.export_text()
    assert all(len(line) <= width for line in text.splitlines())
    for word in ("knee", "keeps", "over", "measured", "step", "test-target", f"{answer.curve[-1].tokens_per_s:,.0f}"):
        assert word in text


def test_bytes_between_units_are_whole_numbers():
    assert [show_bytes(x * 2.0**20) for x in (1, 999.6, 1010.4, 1023, 1024)] == [
        "1 MiB", "1000 MiB", "1010 MiB", "1023 MiB", "1 GiB",
    ]  # fmt: skip


def test_doubling_gains_are_per_doubling_whatever_the_grid():
    from ridgepoint.report.batch_words import gains

    assert gains([1.0, 1.0, 1.0], (1, 4, 8)) == [None, pytest.approx(2.0), pytest.approx(2.0)]
    assert gains([1.0, 2.0], (1, 4)) == [None, pytest.approx(2**0.5)]


# The command


def test_targets_side_by_side_on_paper(ridge, tmp_path):
    done = ridge("batch", "smollm2-135m", "--on", "h100-sxm,l40s,xeon-8480plus", "--slo", "tpot=2ms", "--json")
    assert done.code == 0, done.err
    found = json.loads(done.out)
    assert [b["bet"]["target"] for b in found["bets"]] == ["h100-sxm", "l40s"]
    assert found["refused"] and found["refused"][0].startswith("xeon-8480plus")
    for bet in (b["bet"] for b in found["bets"]):
        assert bet["slo"]["low"] <= bet["slo"]["batch"] <= bet["slo"]["high"]
        assert bet["knee"]["low"] <= bet["knee"]["batch"] <= bet["knee"]["high"] <= bet["wall"]["batch"]
        assert all(a < b for a, b in pairwise(bet["curve"]["memory_bytes"])) and bet["curve"]["energy_j"][0] > 0
    shown = ridge("batch", "smollm2-135m", "--on", "h100-sxm,l40s")
    assert shown.code == 0 and "h100-sxm" in shown.out and "l40s" in shown.out


@pytest.mark.parametrize(
    ("words", "said"),
    [(["--slo", "ttft=1s"], "possible for --phase decode is tpot, latency"), (["--phase", "mixed"], "forward or train"),
     (["--phase", "train"], "ridge calibrate --train"), (["--loss-seconds", "5"], "needs --step train"),
     (["--text", "x"], "--loss-seconds trains on"), (["--predict-only", "--loss-seconds", "5"], "leave --loss-seconds out"),
     (["--grid", "1,x"], "--grid"), (["--grid", "0"], "--grid"), (["--points", "some"], "few or all"),
     (["--with", "batch:4"], "--grid"),
     (["--with", "int5"], "int5"), (["--isl", "5000"], "1024 positions"), (["--device", "tpu"], "cpu or cuda"),
     (["--predict-only", "--report", "x.html"], "--report"), (["--slo", "tpot=40"], "tpot=40ms")],
)  # fmt: skip
def test_bad_input_is_one_line_and_exit_code_2(ridge, words, said):
    on = () if "--on" in words else ("--on", TARGET)
    done = ridge("batch", MODEL, *on, *words)
    assert done.code == 2 and said in done.complaint


def test_a_step_without_tokens_has_no_tpot(ridge):
    for model in ("linear:64x64", "./no_such.py:build"):
        assert "latency, each once" in ridge("batch", model, "--on", TARGET, "--slo", "tpot=1ms").complaint


def test_a_target_that_is_not_known_and_paper_with_a_report_are_refused(ridge):
    assert "h100-sxm" in ridge("batch", MODEL, "--on", "h100-sxmm").complaint
    assert "--report" in ridge("batch", "smollm2-135m", "--on", "h100-sxm", "--report", "x.html").complaint


def test_a_curve_is_measured_shown_again_and_predicted_alone(tmp_path, ridge, monkeypatch):
    command = [
        sys.executable,
        "-c",
        "from ridgepoint.cli import main; main()",
        "batch",
        MODEL,
        "--on",
        TARGET,
        "--isl",
        "16",
    ]
    done = subprocess.run(
        [*command, "--seconds", "0.2", "--grid", "1,2,4,8", "--slo", "tpot=1s", "--json", "--report", str(tmp_path / "r.html")],
        env={**os.environ, "RIDGEPOINT_HOME": str(tmp_path)}, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert len(answer["points"]) == 2 and answer["complete"] and answer["slo"]["at_end"]
    for point in answer["points"]:
        assert point["measured_low_s"] <= point["measured_s"] <= point["measured_high_s"] and point["memory_bytes"] > 0
    assert "<svg" in (tmp_path / "r.html").read_text(encoding="utf-8")
    monkeypatch.setenv("RIDGEPOINT_HOME", str(tmp_path))
    again = ridge("report", answer["id"], "--json")
    assert json.loads(again.out) == answer
    alone = ridge("batch", MODEL, "--on", TARGET, "--predict-only", "--json")
    bet = json.loads(alone.out)
    assert alone.code == 0 and len(bet["bet"]["grid"]) == 9 and "points" not in bet
    assert "is not measured" in ridge("report", bet["id"], "--html", str(tmp_path / "x.html")).complaint
    assert json.loads(ridge("report", bet["id"], "--json").out)["id"] == bet["id"]


def test_no_refusal_is_a_traceback():
    with pytest.raises(RidgeError):
        ask_batch("linear:64x64", phase="prefill", on=TARGET, room_bytes=PLENTY)
