"""Why: place the bet, store it, measure the fewest points that decide it, settle it; resumable at any moment."""

from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, Protocol

import msgspec
from msgspec.structs import replace

from ridgepoint.choice import Side
from ridgepoint.engine.runs import check_adapters, check_runs
from ridgepoint.errors import DoesNotFit, MachineBusy, NotSupported
from ridgepoint.measurement.paired import EFFECT
from ridgepoint.measurement.request import PairRequest, SideRequest, step_request, subject
from ridgepoint.measurement.session import ChildDied, Session
from ridgepoint.prediction import predict, predict_memory
from ridgepoint.quantity import show_bytes
from ridgepoint.store import Provenance, Record, Store, digest, new_record
from ridgepoint.study.accuracy import Text, accuracy_of
from ridgepoint.study.betting import place_bet
from ridgepoint.study.break_even import measured_break_even
from ridgepoint.study.cards import kernels_of
from ridgepoint.study.cell import Cell, cell
from ridgepoint.study.choosing import first_points, next_point, side_of
from ridgepoint.study.curve import Fitting, curve_of
from ridgepoint.study.document import Answer, Bet, Curve, Point, answer_from, bet_from, plain
from ridgepoint.study.question import Question, plan_for, step_for
from ridgepoint.study.reason import Rows, reason
from ridgepoint.study.sufficient import sufficiency
from ridgepoint.study.tasks import Tasks, tasks_of
from ridgepoint.study.track_record import record_behind
from ridgepoint.study.training import training_because
from ridgepoint.study.units import unit_of
from ridgepoint.study.verdict import measured_flip, verdict_line

__all__ = ["Effort", "Watcher", "check_fits", "misfit_on_paper", "settle", "stored_bet", "why"]


@dataclass(frozen=True)
class Effort:
    """How much is measured: seconds per point, and whether every grid point is."""

    seconds: float = 9.0
    every_point: bool = False
    also: tuple[int, ...] = ()
    """Batches of the grid that are measured even if they decide nothing."""
    slow_b: float = 1.0
    energy_s: float = 6.0
    """For the energy of both sides of a point, where the device has a counter that is read (GPUs)."""
    text: Text | None = None
    """On what accuracy is measured; None: not at all."""
    fitting: Fitting | None = None
    """Training runs whose loss is shown beside the speed; None: none."""
    tasks: Tasks | None = None
    """On which tasks of lm-eval too."""


class Watcher(Protocol):
    """What the command line shows while `why` works."""

    def bet(self, bet: Bet, record: Record) -> None: ...
    def stage(self, text: str, done: int, total: int) -> None: ...
    def point(self, point: Point) -> None: ...


def why(
    question: Question, store: Store, provenance: Provenance, watcher: Watcher, effort: Effort, available_bytes: float,
    shared: Session | None = None,
) -> Answer:  # fmt: skip
    """Predict, store, measure, settle. Ctrl-C settles with what is known; everything measured is in the store already.

    `shared`: a session to measure in and to leave open, for several questions; starting CUDA takes seconds.
    """
    check_fits(question, available_bytes)
    check_runs(question.workload)
    for side in (question.a, *question.b):
        check_adapters(plan_for(question, side, question.grid[0]))
    record, bet = stored_bet(question, store, provenance)
    watcher.bet(bet, record)
    points = [_point_from(r) for r in store.records(kind="point", study=record.id)]
    complete, accuracy, curve = True, _no_accuracy(bet), {}
    try:
        with nullcontext(shared) if shared else Session() as session:
            for point in _measure(question, bet, record, store, provenance, session, watcher, effort, points):
                points.append(point)
                watcher.point(point)
            if effort.fitting is not None:
                watcher.stage("loss curves", len(points), len(points) + 1)
                curve = curve_of(question, effort.fitting, store, provenance, record.id, session)
            if effort.text is not None:
                watcher.stage("accuracy", len(points), len(points) + 1)
                accuracy = accuracy_of(question, effort.text, store, provenance, record.id, session)
                accuracy |= _EAGER if any("compile" in s.spec.split("+") for s in (question.a, *question.b)) else {}
            if effort.tasks is not None and effort.tasks.names:
                watcher.stage("tasks", len(points), len(points) + 1)
                accuracy["tasks"] = tasks_of(question, effort.tasks, store, provenance, record.id, session)
    except KeyboardInterrupt:
        complete = False
    answer = settle(question, bet, record, points, provenance, complete)
    answer = replace(
        answer, accuracy=accuracy, sufficiency=sufficiency(bet, answer.points, accuracy), curve=curve,
        record=record_behind(store, bet, provenance),
    )  # fmt: skip
    stored = new_record("answer", {"answer": plain(answer)}, provenance, study=record.id, flags=answer.flags)
    store.append(stored)
    return answer_from(store.get(stored.id).body["answer"])  # with its keys in the order that every report will read


def check_fits(question: Question, available_bytes: float) -> None:
    """Refuse a question whose sides do not fit the machine's memory together, with the need and what would fit."""
    if misfit := _misfit(question, available_bytes, f"{show_bytes(available_bytes)} are free"):
        raise DoesNotFit(f"{misfit}; --predict-only shows the prediction all the same")


def misfit_on_paper(question: Question) -> str:
    """What both sides need and what would fit the target's memory; "" where they fit, or where it is not known."""
    room = question.target.memory_bytes
    return "" if room is None else _misfit(question, room, f"{question.target.name} has {show_bytes(room)} in all")


def _misfit(question: Question, available_bytes: float, room: str) -> str:
    need = []
    for batch in question.grid:
        a = float(predict_memory(plan_for(question, question.a, batch)).total_bytes)
        b = max(float(predict_memory(plan_for(question, side, batch)).total_bytes) for side in question.b)
        need.append((batch, a + b))
    batch, worst = need[-1]
    if worst <= 0.9 * available_bytes:
        return ""
    fits = [b for b, n in need if n <= 0.9 * available_bytes]
    smaller = "a smaller model" + (" or a shorter --isl" if unit_of(question.model) == "tokens" else "")
    instead = f"batches up to {fits[-1]} fit" if fits else f"no batch of the grid fits; {smaller} may"
    return f"{question.model} at batch {batch} needs {show_bytes(worst)} for both sides; {room}; {instead}"


def stored_bet(question: Question, store: Store, provenance: Provenance) -> tuple[Record, Bet]:
    """The bet on this question: an open one that asks the same of the same calibration, else a new one, stored now.

    A bet is open until an answer with all its points is stored: after a kill or Ctrl-C the same command goes on.
    """
    bet = place_bet(question)
    body = plain(bet)
    key = digest({"question": body, "machine": str(provenance.machine.get("machine_id", ""))})
    for record in reversed(store.records(kind="bet")):
        if record.body.get("key") == key and not _closed(record, store):
            return record, bet_from(record.body["bet"])
    record = new_record("bet", {"bet": body, "key": key}, provenance)
    store.append(record)
    return record, bet


def _closed(record: Record, store: Store) -> bool:
    return any(answer_from(r.body["answer"]).complete for r in store.records(kind="answer", study=record.id))


def _measure(
    question: Question, bet: Bet, record: Record, store: Store, provenance: Provenance,
    session: Session, watcher: Watcher, effort: Effort, known: list[Point],
) -> Iterator[Point]:  # fmt: skip
    """Points in the order of what decides most; each is stored before the next begins."""
    plans = {c.b: _first(c, bet, effort) for c in bet.curves}
    total = sum(len(p) for p in plans.values())
    done = len(known)
    for curve, side in zip(bet.curves, question.b, strict=True):
        seen = {p.batch: p.measured_speedup or p.predicted_speedup for p in known if p.b == curve.b}
        queue = [b for b in plans[curve.b] if b not in seen]
        while queue or (extra := next_point(bet.grid, seen)) is not None:
            if not queue:
                queue, total = [extra], total + 1  # type: ignore[list-item]
            batch = queue.pop(0)
            watcher.stage(f"{bet.a.text}..{curve.b} at batch {batch}", done, total)
            point = _one_point(question, side, curve.b, batch, record, store, provenance, session, effort)
            seen[batch] = point.measured_speedup or point.predicted_speedup
            done += 1
            yield point
    watcher.stage("done", done, max(total, done))


def _first(curve: Curve, bet: Bet, effort: Effort) -> list[int]:
    if effort.every_point:
        return list(bet.grid)
    return list(dict.fromkeys([*first_points(curve, bet.flips.get(curve.b)), *effort.also]))


def _one_point(
    question: Question, side: Side, text: str, batch: int, record: Record,
    store: Store, provenance: Provenance, session: Session, effort: Effort,
) -> Point:  # fmt: skip
    """Measure one point in the child; a refusal or a death becomes a stored point without a measurement."""
    on_paper = cell(question, side, batch)
    point = _predicted_point(question, text, batch, on_paper)
    request = _request(question, side, batch, on_paper, effort)
    try:
        message = [m for m in session.ask(request) if m["kind"] == "done"][-1]
        point = _with_measurement(point, message)
    except (ChildDied, MachineBusy, DoesNotFit, NotSupported) as error:
        point = replace(point, verdict="not measured", flags=(f"{type(error).__name__}: {error}",))
    kind = "point" if point.measured_speedup else "failure"
    stored = new_record(kind, {"point": plain(point)}, provenance, study=record.id, flags=point.flags)
    store.append(stored)
    return replace(point, record=stored.id)


def _request(question: Question, side: Side, batch: int, on_paper: Cell, effort: Effort) -> PairRequest:
    return PairRequest(
        **subject(question.workload),
        directory=question.directory,
        cache_bytes=question.target.cache_bytes or 32e6,
        a=SideRequest(spec=question.a.spec, device=question.device, kernels=kernels_of(on_paper.a)),
        b=SideRequest(spec=side.spec, device=question.device, kernels=kernels_of(on_paper.b)),
        step=step_request(step_for(question, batch)),
        seconds=effort.seconds,
        slow_b=effort.slow_b,
        energy_s=effort.energy_s,
    )


def _predicted_point(question: Question, text: str, batch: int, on_paper: Cell) -> Point:
    return Point(
        a=question.a_text, b=text, batch=batch, predicted_speedup=on_paper.speedup, predicted_low=on_paper.low,
        predicted_high=on_paper.high, measured_speedup=None, measured_low=None, measured_high=None, verdict="not measured",
        predicted_a_s=float(on_paper.a.seconds), predicted_b_s=float(on_paper.b.seconds), measured_a_s=None, measured_b_s=None,
        roofline_speedup=on_paper.roofline, roofline_a_s=on_paper.roofline_a_s, roofline_b_s=on_paper.roofline_b_s,
    )  # fmt: skip


def _with_measurement(point: Point, message: dict[str, Any]) -> Point:
    paired = message["paired"]
    per_token = message["tokens_b"] / message["tokens_a"]
    return replace(
        point, measured_speedup=paired["speedup"] * per_token, measured_low=paired["low"] * per_token,
        measured_high=paired["high"] * per_token,
        verdict=paired["verdict"] if per_token == 1 else _plain_verdict(paired, per_token),
        measured_a_s=paired["a_s"], measured_b_s=paired["b_s"],
        clock=message["clock"], rounds=paired["n"], spread=paired["spread"],
        load=message["load"], peak_memory_bytes=message["peak_memory_bytes"],
        energy_a_j=message.get("energy_a_j"), energy_b_j=message.get("energy_b_j"),
        energy_intervals_j={
            side: (message[f"energy_{side}_low_j"], message[f"energy_{side}_high_j"])
            for side in ("a", "b") if f"energy_{side}_low_j" in message
        },
        energy_method=message.get("energy_method", message.get("energy_reason", "")),
        compile_s=message.get("compile_s") or {}, held=message.get("held") or {},
        zeros=message.get("zeros") or {}, flags=tuple(message.get("flags", ())),
    )  # fmt: skip


def _plain_verdict(paired: dict[str, Any], factor: float) -> str:
    low, high, side = paired["low"] * factor, paired["high"] * factor, side_of(paired["speedup"] * factor)
    if side == 0:
        return "tie" if low > 1 / (1 + EFFECT) and high < 1 + EFFECT else "undecided"
    return "faster" if low > 1 else "slower" if high < 1 else "undecided"


def settle(
    question: Question, bet: Bet, record: Record, points: list[Point], provenance: Provenance, complete: bool = True
) -> Answer:
    """The answer that follows from the points; computed from what is stored, so a resumed run ends alike."""
    points = sorted(points, key=lambda p: ([c.b for c in bet.curves].index(p.b), p.batch))
    foretold = {c.b: (f.batch if (f := bet.flips[c.b]) else None) for c in bet.curves}
    seen = {c.b: measured_flip([p for p in points if p.b == c.b]) for c in bet.curves}
    lines = []
    for curve, side in zip(bet.curves, question.b, strict=True):
        lines.append(verdict_line(bet, curve.b, points, _because(question, side, points, curve.b)))
    many = len(bet.curves) > 1
    unmeasured = [f"{p.b} at batch {p.batch}: {p.flags[0]}" for p in points if p.measured_speedup is None and p.flags]
    return Answer(
        id=record.id, created=record.created, digest=record.digest, bet=bet, points=tuple(points),
        flip_predicted=foretold if many else next(iter(foretold.values())),
        flip_measured=seen if many else next(iter(seen.values())), break_even=measured_break_even(bet, points),
        accuracy=_no_accuracy(bet), energy=_energy(points), verdict="\n".join(lines), complete=complete,
        flags=(*bet.flags, *_caveats(bet, provenance, complete), *unmeasured),
        machine=dict(provenance.machine), versions=dict(provenance.versions),
    )  # fmt: skip


def _caveats(bet: Bet, provenance: Provenance, complete: bool) -> list[str]:
    out = [] if complete else ["interrupted: settled with the points that were measured; the same command goes on"]
    if bet.machine_id not in ("", provenance.machine.get("machine_id")):
        out.append(f"predicted for {bet.target}, measured on another machine: the errors are of both")
    return out


def _because(question: Question, side: Side, points: list[Point], text: str) -> str:
    """Why, at the smallest and the largest batch that were measured."""
    mine = [p for p in points if p.b == text and p.measured_speedup]
    measured = {p.batch: 1.0 if p.verdict == "undecided" else p.measured_speedup or 1.0 for p in mine}

    def rows(batch: int) -> Rows:
        a, b = (predict(plan_for(question, s, batch), question.target).ops for s in (question.a, side))
        return a, b

    ends = sorted({min(measured), max(measured)}) if measured else []
    if question.phase == "train":
        return _trained_because(question, side, {batch: measured[batch] for batch in ends})
    return reason(measured, {batch: rows(batch) for batch in ends}, question.a_text, text)


def _trained_because(question: Question, side: Side, measured: dict[int, float]) -> str:
    """The same for training steps, by their parts."""
    said = {}
    for batch, speedup in measured.items():
        found = cell(question, side, batch)
        if (winner := side_of(speedup)) and (text := training_because(found.a, found.b, winner > 0)):
            said[batch] = text
    return ", ".join(f"at batch {batch} {text}" for batch, text in said.items())


_EAGER = {"note": "of the same weights in eager mode: what compiling changes in a result is not measured"}


def _no_accuracy(bet: Bet) -> dict[str, Any]:
    if bet.random_weights:
        return {"measured": False, "reason": "random weights: speed is measured, accuracy would mean nothing"}
    return {"measured": False, "reason": "not asked for"}


def _energy(points: list[Point]) -> dict[str, Any]:
    measured = [p for p in points if p.energy_a_j is not None]
    if not measured:
        found = next((p.energy_method for p in points if p.energy_method), "no counter for this device")
        return {"measured": False, "reason": f"not measurable here: {found.removeprefix('not measurable here: ')}"}
    return {
        "measured": True,
        "points": [
            {"b": p.b, "batch": p.batch, "a_j": p.energy_a_j, "b_j": p.energy_b_j, "intervals_j": p.energy_intervals_j}
            for p in measured
        ],
        "method": measured[0].energy_method,
    }


def _point_from(record: Record) -> Point:
    return replace(msgspec.convert(record.body["point"], Point), record=record.id)
