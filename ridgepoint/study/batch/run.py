"""From the bet to the answer: stored, measured at the batches that decide, settled; resumable at any moment."""

from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from typing import Any, Protocol

from msgspec.structs import replace as changed

from ridgepoint.engine.runs import check_runs
from ridgepoint.errors import DoesNotFit, MachineBusy, NotSupported
from ridgepoint.measurement.session import ChildDied, Session
from ridgepoint.quantity import show_bytes
from ridgepoint.result import Result, Value
from ridgepoint.store import Provenance, Record, Store, digest, new_record
from ridgepoint.study.batch.bet import paper_of, place_batch_bet
from ridgepoint.study.batch.choosing import next_batch
from ridgepoint.study.batch.document import (
    BatchAnswer,
    BatchBet,
    BatchPoint,
    batch_answer_from,
    batch_bet_from,
    batch_plain,
    batch_point_from,
)
from ridgepoint.study.batch.estimate import estimate_of
from ridgepoint.study.batch.loss import LossRate, losses_by_batch
from ridgepoint.study.batch.question import BatchQuestion
from ridgepoint.study.batch.settle import known, settle_batch, upto
from ridgepoint.study.batch.wall import at_batch
from ridgepoint.study.measure import measure_side, predict_side

__all__ = ["BatchEffort", "BatchWatcher", "batch_curve", "stored_batch_bet"]


@dataclass(frozen=True)
class BatchEffort:
    """How much is measured: seconds per point, and whether every batch of the grid is."""

    seconds: float = 9.0
    every_point: bool = False
    loss: LossRate | None = None
    """Training runs at each measured batch; None: none."""


class BatchWatcher(Protocol):
    """What the command line shows while the curve is measured."""

    def bet(self, bet: BatchBet, record: Record) -> None: ...
    def stage(self, text: str, done: int, total: int) -> None: ...
    def point(self, point: BatchPoint) -> None: ...


def batch_curve(
    question: BatchQuestion, store: Store, provenance: Provenance, watcher: BatchWatcher, effort: BatchEffort,
    available_bytes: float, shared: Session | None = None,
) -> BatchAnswer:  # fmt: skip
    """Predict, store, measure, settle. Ctrl-C settles with what is known; everything measured is in the store already.

    `shared`: a session to measure in and to leave open, for several questions.
    """
    check_runs(question.setting.plan.workload)
    record, bet = stored_batch_bet(question, store, provenance)
    question = replace(question, wall=bet.wall)  # of a bet that goes on: as it was when it was placed
    watcher.bet(bet, record)
    before = store.records(kind="batch-point", study=record.id)
    points = [changed(batch_point_from(r.body["point"]), record=r.id) for r in before]
    complete, loss = True, dict[str, Any]()
    try:
        with nullcontext(shared) if shared else Session() as session:
            for point in _measure(question, bet, record, store, provenance, session, watcher, effort, points,
                                  available_bytes):  # fmt: skip
                points.append(point)
                watcher.point(point)
            if effort.loss is not None:
                watcher.stage("loss by batch", len(points), len(points) + 1)
                loss = losses_by_batch(question, effort.loss, points, store, provenance, record.id, session)
    except KeyboardInterrupt:
        complete = False
    answer = changed(settle_batch(question, bet, record, points, provenance, complete), loss=loss)
    stored = new_record("batch-answer", {"answer": batch_plain(answer)}, provenance, record.id, answer.flags)
    store.append(stored)
    return batch_answer_from(store.get(stored.id).body["answer"])


def stored_batch_bet(question: BatchQuestion, store: Store, provenance: Provenance) -> tuple[Record, BatchBet]:
    """The bet on this question: an open one that asks the same of the same calibration, else a new one, stored now.

    What is free of the memory changes by the minute, so where memory ends is no part of what makes two questions the same.
    """
    bet = place_batch_bet(question)
    asked = {name: value for name, value in batch_plain(bet).items() if name not in _BY_FREE_MEMORY}
    machine = str(provenance.machine.get("machine_id", ""))
    key = digest({"question": asked, "slo": question.slo, "machine": machine})
    for record in reversed(store.records(kind="batch-bet")):
        if record.body.get("key") == key and not _closed(record, store):
            return record, batch_bet_from(record.body["bet"])
    record = new_record("batch-bet", {"bet": batch_plain(bet), "key": key}, provenance)
    store.append(record)
    return record, bet


_BY_FREE_MEMORY = ("wall", "capped", "points", "knee", "slo", "statement")


def _closed(record: Record, store: Store) -> bool:
    answers = store.records(kind="batch-answer", study=record.id)
    return any(batch_answer_from(r.body["answer"]).complete for r in answers)


def _measure(
    question: BatchQuestion, bet: BatchBet, record: Record, store: Store, provenance: Provenance, session: Session,
    watcher: BatchWatcher, effort: BatchEffort, before: list[BatchPoint], available_bytes: float,
) -> Iterator[BatchPoint]:  # fmt: skip
    """Points in the order of what decides most; each is stored before the next begins. A failed one costs no point of the
    budget, but memory that ran out ends the curve there, and each batch is tried once."""
    paper, points = paper_of(question), list(before)
    total = sum(b <= question.limit for b in bet.grid) if effort.every_point else bet.points
    while len(measured := known(points, question.setting.target)) < total:
        failed = [p.batch for p in points if p.measured_s is None]
        end = upto(question, points)
        if effort.every_point:
            left = [b for b in bet.grid if b <= end and b not in measured and b not in failed]
            batch = left[0] if left else None
        else:
            bound_s = question.slo[1] if question.slo else None
            batch = next_batch(estimate_of(paper, measured), measured, failed, end, bound_s)
        if batch is None:
            break
        watcher.stage(f"batch {batch}", len(measured), total)
        point = _one_point(question, bet, batch, record, store, provenance, session, effort, available_bytes)
        points.append(point)
        yield point
    watcher.stage("done", total, total)


def _one_point(
    question: BatchQuestion, bet: BatchBet, batch: int, record: Record, store: Store, provenance: Provenance,
    session: Session, effort: BatchEffort, available_bytes: float,
) -> BatchPoint:  # fmt: skip
    """Measure one batch in the child; a refusal or a death becomes a stored point without a measurement."""
    setting = replace(question.setting, plan=at_batch(question.setting.plan, batch))
    point = _predicted_point(bet, batch)
    try:
        result = measure_side(setting, available_bytes, effort.seconds, session)
    except (ChildDied, MachineBusy, DoesNotFit, NotSupported) as error:
        memory = isinstance(error, DoesNotFit) or "memory runs out" in str(error)
        need = f"; predicted need {show_bytes(point.predicted_memory_bytes)}" if memory else ""
        point = changed(point, out_of_memory=memory, flags=(f"{type(error).__name__}: {error}{need}",))
    else:
        content = {"predicted": asdict(predict_side(setting)), "result": asdict(result)}
        store.append(new_record("measurement", content, provenance, record.id, result.flags))
        point = _with_result(point, result)
    kind = "failure" if point.measured_s is None else "batch-point"
    stored = new_record(kind, {"point": batch_plain(point)}, provenance, record.id, point.flags)
    store.append(stored)
    return changed(point, record=stored.id)


def _predicted_point(bet: BatchBet, batch: int) -> BatchPoint:
    curve, i = bet.curve, bet.grid.index(batch)
    return BatchPoint(
        batch=batch, tokens=curve.tokens[i], predicted_s=curve.seconds[i], predicted_low_s=curve.low[i],
        predicted_high_s=curve.high[i], predicted_memory_bytes=curve.memory_bytes[i],
    )  # fmt: skip


def _with_result(point: BatchPoint, result: Result) -> BatchPoint:
    time, energy, memory = (_value(result, name) for name in ("latency_s", "energy_j", "memory_bytes"))
    assert time is not None, "every result has a latency"
    return changed(
        point, measured_s=time.value, measured_low_s=time.low, measured_high_s=time.high, method=time.method,
        steps=int(result.provenance.get("n", 0)), load=str(result.provenance.get("load", "")),
        memory_bytes=None if memory is None else memory.value, energy_j=None if energy is None else energy.value,
        energy_low_j=None if energy is None else energy.low, energy_high_j=None if energy is None else energy.high,
        energy_method=result.absent.get("energy_j", "") if energy is None else energy.method,
        flags=tuple(f for f in result.flags if f != "random weights"),
    )  # fmt: skip


def _value(result: Result, name: str) -> Value | None:
    return result.metrics.get(name)
