"""From the bet to the answer: what is stored when, what is asked for, what a failure or Ctrl-C leaves behind."""

import math
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from ridgepoint.errors import DoesNotFit, NotSupported
from ridgepoint.measurement.session import ChildDied, Session
from ridgepoint.store import Provenance, Record, Store
from ridgepoint.study.document import Answer, Bet, Point, bet_from
from ridgepoint.study.provenance import provenance
from ridgepoint.study.question import Question, ask
from ridgepoint.study.why import Effort, stored_bet, why

DATA = Path(__file__).parent / "data"
MODEL, TARGET = str(DATA / "tiny-llama.json"), str(DATA / "test-target.calibrated.toml")
HERE = Provenance({"machine_id": "0test0target", "cpu": "a test's"}, {"ridgepoint": "0"}, {})
PLENTY = 2.0**40
FEW, EVERY = Effort(seconds=0.3), Effort(seconds=0.3, every_point=True)


def question(bet: str, **asked: Any) -> Question:
    return ask(MODEL, bet, on=TARGET, **asked)


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
    asked, elsewhere = question("bf16..int8", batches=(1,)), Provenance({"machine_id": "another"}, {}, {})
    assert run(asked, store, Scripted(store)).flags == ()
    (flag,) = why(asked, store, elsewhere, Silent(), FEW, PLENTY, Scripted(store)).flags
    assert "test-target" in flag and "another machine" in flag


def test_one_side_answers_with_a_number_and_several_with_a_table(store):
    one = run(question("bf16..int8"), store, Scripted(store))
    assert one.flip_measured is None and (one.flip_predicted is None or one.flip_predicted > 0)
    both = run(question("bf16..int8,int4"), store, Scripted(store))
    assert set(both.flip_measured) == set(both.flip_predicted) == {"int8", "int4"}
    assert len(both.verdict.splitlines()) == 2


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


def test_the_same_against_itself_is_not_called(metal):
    points = [metal("bf16..bf16", batches=(1,), isl=16).points[0] for _ in range(3)]
    called = [p for p in points if p.verdict not in ("tie", "undecided")]
    assert len(called) <= 1, "one in fifty may be"
    assert sum(p.measured_low < 1 < p.measured_high for p in points) >= 2


def test_a_side_that_is_slowed_down_is_called_slower(metal):
    (point,) = metal("bf16..bf16", Effort(seconds=1.0, slow_b=2.0), batches=(1,), isl=16).points
    assert point.verdict == "slower"
    assert (
        0.3 < point.measured_speedup < 0.65
    )  # the step is a tiny model's: waiting as long again takes a little longer


def test_measured_batches_are_compared_per_token(metal):
    answer = metal("batch:1..batch:4", isl=16)
    (point,) = answer.points
    assert point.measured_speedup == pytest.approx(4 * point.measured_a_s / point.measured_b_s, rel=0.5)
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
