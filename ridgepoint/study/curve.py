"""Quality beside the speed of training: loss curves of every side over several seeds, with intervals, paired by seed."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ridgepoint.choice import Side
from ridgepoint.errors import BadInput
from ridgepoint.measurement.curve import CURVE_DEFINITION
from ridgepoint.measurement.request import CurveRequest, SideRequest
from ridgepoint.measurement.session import Session
from ridgepoint.store import Provenance, Store, new_record
from ridgepoint.study.accuracy import student95
from ridgepoint.study.question import Question
from ridgepoint.workload import Decoder, heldout_text

__all__ = ["Fitting", "check_curve", "curve_of", "mean_with_interval"]

_FEWEST_SEEDS = 3


@dataclass(frozen=True)
class Fitting:
    """`steps` steps of fine-tuning for each of `seeds` seeds from `first_seed` on; `path` "": the model's own text."""

    steps: int
    path: str = ""
    first_seed: int = 0
    seeds: int = _FEWEST_SEEDS


def check_curve(question: Question, fitting: Fitting) -> None:
    """Refuse, before anything runs, what has no loss to show."""
    if question.phase != "train":
        raise BadInput("--curve shows the loss of training steps; it needs --step train")
    if not 2 <= fitting.steps <= 10_000:
        raise BadInput(f"--curve is {fitting.steps}; possible are 2 to 10000 steps")
    if not question.directory:
        raise BadInput(f"{question.model} has random weights, whose loss means nothing; --curve needs a checkpoint")
    if not fitting.path and heldout_text(question.model) is None:
        raise BadInput(f"no text ships with {question.model}; --text FILE gives one to train on")


def curve_of(
    question: Question, fitting: Fitting, store: Store, provenance: Provenance, bet: str, session: Session
) -> dict[str, Any]:
    """The answer's `curve`; measured once, and stored with the bet."""
    assert isinstance(question.workload, Decoder), "checked before anything ran"
    sides = {question.a_text: question.a, **dict(zip(question.b_texts, question.b, strict=True))}
    path = Path(fitting.path) if fitting.path else heldout_text(question.model)
    assert path is not None, "checked before anything ran"
    asked = {
        "text": path.name, "steps": fitting.steps, "seeds": _seeds(fitting), "batch": question.grid[-1],
        "length": question.new, "sides": list(sides), "definition": CURVE_DEFINITION,
    }  # fmt: skip
    kept = [r for r in store.records(kind="curve", study=bet) if {k: r.body.get(k) for k in asked} == asked]
    if kept:
        record = kept[-1]
    else:
        runs = _runs(question, fitting, path, sides, session)
        record = new_record("curve", {**asked, "runs": runs}, provenance, study=bet)
        store.append(record)
    return {**asked, "measured": True, "sides": _summary(record.body["runs"], list(sides)), "record": record.id}


def mean_with_interval(values: Sequence[float]) -> tuple[float, float, float]:
    """Mean and its 95 % interval by Student's t over the seeds, which are taken as independent."""
    x = np.asarray(values, float)
    half = student95(len(x) - 1) * float(x.std(ddof=1)) / math.sqrt(len(x))
    return float(x.mean()), float(x.mean()) - half, float(x.mean()) + half


def _seeds(fitting: Fitting) -> list[int]:
    return list(range(fitting.first_seed, fitting.first_seed + max(_FEWEST_SEEDS, fitting.seeds)))


def _runs(
    question: Question, fitting: Fitting, path: Path, sides: Mapping[str, Side], session: Session
) -> list[dict[str, Any]]:
    assert isinstance(question.workload, Decoder)
    request = CurveRequest(
        decoder=question.workload, directory=question.directory, path=str(path), steps=fitting.steps,
        sides=tuple(SideRequest(spec=s.spec, device=question.device) for s in sides.values()),
        seeds=tuple(_seeds(fitting)), batch=question.grid[-1], length=question.new,
    )  # fmt: skip
    return [m for m in session.ask(request) if m["kind"] == "curve"]


def _summary(runs: Sequence[Mapping[str, Any]], names: Sequence[str]) -> dict[str, Any]:
    """By side: the mean curve with the ends of its interval, and the loss apart with its difference to that of A."""
    out: dict[str, Any] = {}
    first = {r["seed"]: r["after"] for r in runs if r["side"] == 0}
    for number, name in enumerate(names):
        mine = [r for r in runs if r["side"] == number]
        curve = np.array([r["losses"] for r in mine])
        rows = [mean_with_interval([float(x) for x in column]) for column in curve.T]
        after = mean_with_interval([r["after"] for r in mine])
        out[name] = {
            "loss": [r[0] for r in rows], "low": [r[1] for r in rows], "high": [r[2] for r in rows],
            "before": float(np.mean([r["before"] for r in mine])),
            "after": after[0], "after_low": after[1], "after_high": after[2],
        }  # fmt: skip
        if number:
            apart = mean_with_interval([r["after"] - first[r["seed"]] for r in mine])
            out[name] |= {"difference": apart[0], "difference_low": apart[1], "difference_high": apart[2]}
    return out
