"""Accuracy on tasks beside speed: what a choice costs in right answers, paired item by item, with an interval and a verdict."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from ridgepoint.choice import Side
from ridgepoint.errors import BadInput, DoesNotFit, NotSupported, UnknownName
from ridgepoint.measurement.request import SideRequest, TasksRequest
from ridgepoint.measurement.session import ChildDied, Session
from ridgepoint.measurement.tasks import check_package
from ridgepoint.store import Provenance, Record, Store, new_record
from ridgepoint.study.accuracy import no_accuracy_reason, paired_difference
from ridgepoint.study.paired_scores import flips, paired_scores
from ridgepoint.study.question import Question, calibration_request
from ridgepoint.workload import Decoder

__all__ = ["TASK_TOLERANCE", "Tasks", "check_tasks", "tasks_of"]

TASK_TOLERANCE = 0.01
"""One answer in a hundred: a loss of score that nobody acts on. Fixed before anything is measured."""
_FEWEST = 8


@dataclass(frozen=True)
class Tasks:
    """Which tasks of lm-eval accuracy is measured on: names, YAML files or folders of them; none is none."""

    names: tuple[str, ...] = ()
    items: int = 200
    seed: int = 0
    allow_code: bool = False
    tolerance: float = TASK_TOLERANCE


def check_tasks(question: Question, tasks: Tasks) -> None:
    """Refuse, before anything runs, tasks that do not exist, need what is not here, or have too few items.

    A process of its own loads them, data sets too, and ends: nothing of it is there while speed is measured.
    """
    if not tasks.names:
        return
    if reason := no_accuracy_reason(question):
        raise BadInput(f"--tasks cannot be measured: {reason}")
    check_package()
    with Session() as session:
        for message in _messages(session, _request(question, tasks, tasks.names, {}), "task"):
            if message["items"] < _FEWEST:
                raise BadInput(
                    f"--tasks {message['task']} has {message['of']} items and --items is {tasks.items}: at least {_FEWEST} "
                    "are needed for an interval"
                )


def tasks_of(
    question: Question, tasks: Tasks, store: Store, provenance: Provenance, bet: str, session: Session
) -> list[dict[str, Any]]:
    """A block per task for the answer's `accuracy`: measured, or with the reason why not. Items are stored with the bet."""
    sides = {question.a_text: question.a, **dict(zip(question.b_texts, question.b, strict=True))}
    return [_block(question, tasks, name, sides, store, provenance, bet, session) for name in tasks.names]


def _block(
    question: Question, tasks: Tasks, name: str, sides: Mapping[str, Side], store: Store, provenance: Provenance, bet: str,
    session: Session,
) -> dict[str, Any]:  # fmt: skip
    asked = {"task": name, "items_wanted": tasks.items, "seed": tasks.seed, "sides": list(sides)}
    kept = [r for r in store.records(kind="accuracy", study=bet) if {k: r.body.get(k) for k in asked} == asked]
    try:
        if kept:  # an interrupted run that goes on: its file may have changed since
            (now,) = _messages(session, _request(question, tasks, (name,), {}), "task")
            kept = [r for r in kept if r.body["described"] == now]
        if kept:
            record = kept[-1]
        else:
            record = _measured(question, tasks, asked, sides, provenance, bet, session)
            store.append(record)
    except (ChildDied, DoesNotFit, NotSupported, BadInput, UnknownName) as error:
        return {"task": name, "measured": False, "reason": str(error)}
    summary = _summary(record.body["items"], list(sides), record.body["described"], tasks.tolerance)
    return {"task": name, "measured": True, "seed": tasks.seed, **summary, "record": record.id}


def _measured(
    question: Question, tasks: Tasks, asked: dict[str, Any], sides: Mapping[str, Side], provenance: Provenance, bet: str,
    session: Session,
) -> Record:  # fmt: skip
    messages = list(session.ask(_request(question, tasks, (asked["task"],), sides)))
    described = next(m for m in messages if m["kind"] == "task")
    items = [{k: m[k] for k in ("leaf", "doc", "sides")} for m in messages if m["kind"] == "item"]
    body = {**asked, "definition": _definition(described), "described": described, "items": items}
    return new_record("accuracy", body, provenance, study=bet)


def _messages(session: Session, request: TasksRequest, kind: str) -> list[dict[str, Any]]:
    return [m for m in session.ask(request) if m["kind"] == kind]


def _request(question: Question, tasks: Tasks, names: tuple[str, ...], sides: Mapping[str, Side]) -> TasksRequest:
    assert isinstance(question.workload, Decoder), "asked after `no_accuracy_reason` found none"
    return TasksRequest(
        decoder=question.workload, directory=question.directory,
        sides=tuple(SideRequest(spec=s.spec, device=question.device) for s in sides.values()),
        tasks=names, items=tasks.items, seed=tasks.seed, allow_code=tasks.allow_code,
        calibration=calibration_request(question),
    )  # fmt: skip


def _definition(described: Mapping[str, Any]) -> str:
    """The protocol's id: task and version, shots, metric, lm-eval's version, and for local files their hash."""
    d = described
    many = f", items of {d['leaves']} tasks pooled" if d["leaves"] > 1 else ""
    local = f", sha256 {d['sha256']}" if d["sha256"] else ""
    return (
        f"task.{d['name']}.v{d['version']}: {d['metric']}, {d['num_fewshot']} shots{many}, lm-eval {d['lm_eval']}{local}; "
        f"up to {d['positions']} tokens; before a text that starts with nothing: {d['first_token']}"
    )


def _summary(
    items: Sequence[Mapping[str, Any]], names: Sequence[str], described: Mapping[str, Any], tolerance: float
) -> dict[str, Any]:
    """Scores and margins of each side; for each B what it loses against A."""

    def column(side: int, figure: str) -> list[float]:
        return [item["sides"][side][figure] for item in items]

    sign = 1.0 if described["higher_is_better"] else -1.0
    margins = all("margin" in side for item in items for side in item["sides"])
    out: dict[str, Any] = {}
    for i, name in enumerate(names):
        out[name] = {"score": float(np.mean(column(i, "score")))}
        if margins:
            out[name]["margin"] = float(np.mean(column(i, "margin")))
        if not i:
            continue
        a, b = ([sign * x for x in column(side, "score")] for side in (0, i))
        found = paired_scores(a, b, tolerance)
        out[name] |= {
            "loss": found.mean, "low": found.low, "high": found.high, "verdict": found.verdict, "more_items": found.more,
        }  # fmt: skip
        if (seen := flips(a, b)) is not None:
            out[name]["flips"] = asdict(seen)
        if margins:
            lower = paired_difference(column(0, "margin"), column(i, "margin"), 0.0)
            out[name] |= {"margin_difference": lower.mean, "margin_low": lower.low, "margin_high": lower.high}
    return {
        "definition": _definition(described), "metric": described["metric"],
        "higher_is_better": described["higher_is_better"], "items": len(items),
        "of": described["of"], "tolerance": tolerance, "sides": out,
    }  # fmt: skip
