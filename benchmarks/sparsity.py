"""Sparsity on the clock: sparse rows by density with their break-even, zeros in dense tensors, and what is really removed.

    python benchmarks/sparsity.py --out benchmarks/records [--seconds 2] [--cases small] [--before FILE]

Uses the machine's calibrated target (`ridge calibrate`, then `ridge calibrate --sparse`). Shapes are those of neither. Every
bet is in the store; the folder gets sparsity.json: errors, signs of effects beyond 10 % and break-even densities by kind.
"""

import argparse
import json
import math
import sys
import tempfile
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from batch import MODELS
from record import keep
from truth import Quiet, config_file

from ridgepoint.hardware import load_target
from ridgepoint.measurement.memory import available_bytes
from ridgepoint.measurement.session import Session
from ridgepoint.store import Store, default_path
from ridgepoint.study.document import Answer, Point
from ridgepoint.study.provenance import provenance
from ridgepoint.study.question import ask
from ridgepoint.study.why import Effort, why

EFFECT = 0.10
"""Smaller effects have no sign worth a score."""
DENSITIES = ("0.4", "0.6", "0.75", "0.85", "0.95")
"""As sparsities."""
_ROWS = ",".join(f"sparse:{s}:csr" for s in DENSITIES)


@dataclass(frozen=True)
class Case:
    """A bet in fp32 on a layer, or on one of the models of `batch.MODELS`."""

    kind: str
    model: str
    bet: str
    batches: tuple[int, ...]


CASES = (
    *(Case("rows", f"linear:{s}", f"dense..{_ROWS}", (1, 8, 64)) for s in ("2048x1280", "3584x640", "768x5120", "1920x2304")),
    Case("rows", "b34", "dense..sparse:0.7:csr,sparse:0.9:csr", (1, 16)),
    Case("rows", "b61", "dense..sparse:0.8:csr", (1, 16)),
    Case("zeros", "b34", "dense..sparse:0.5,2:4", (1, 16)),
    Case("zeros", "b61", "dense..sparse:0.9", (1, 16)),
    Case("removed", "b34", "dense..channels:0.5,channels:0.25,heads:0.43,layers:0.5", (1, 16)),
    Case("removed", "b61", "dense..channels:0.5,heads:0.34,layers:0.25,channels:0.5+heads:0.34", (1, 16)),
)  # fmt: skip
SMALL = (
    Case("rows", "linear:1536x1024", "dense..sparse:0.6:csr,sparse:0.95:csr", (1,)),
    Case("zeros", "b18", "dense..sparse:0.5", (1,)),
    Case("removed", "b18", "dense..channels:0.5", (1,)),
)
"""A rehearsal."""


def main() -> None:
    """Settle all bets, print and write the score."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument(
        "--before", type=Path, help="an earlier record: by how much measured speed-ups differ is written too"
    )
    parser.add_argument("--cases", choices=("all", "small"), default="all")
    options = parser.parse_args()
    answers = settle(CASES if options.cases == "all" else SMALL, options.seconds)
    command = " ".join(sys.argv[1:]).replace(str(options.out), "DIR").replace(str(options.before), "FILE")
    found = {
        "command": command, "target": dict(load_target(answers[0][1].bet.target).sources),
        "score": {kind: score(p for k, a in answers if k == kind for p in a.points) for kind in ("rows", "zeros", "removed")},
        "break_even": [row for _, answer in answers for row in break_even(answer)],
        "points": [{"kind": kind, "model": a.bet.model, **row(p)} for kind, a in answers for p in a.points],
    }  # fmt: skip
    if options.before:
        found["moved"] = moved(json.loads(options.before.read_text())["points"], found["points"])
    keep(options.out, "sparsity.json", found)
    for kind, values in found["score"].items():
        sys.stdout.write(f"{kind}: {values}\n")
    for pair in found["break_even"]:
        sys.stdout.write(f"{pair}\n")


def settle(cases: tuple[Case, ...], seconds: float) -> list[tuple[str, Answer]]:
    """One answer per case; every batch is measured."""
    answers = []
    with Store(default_path()) as store, tempfile.TemporaryDirectory() as folder, Session() as session:
        for case in cases:
            model = (
                case.model if case.model.startswith("linear:") else str(config_file(case.model, Path(folder), MODELS))
            )
            sys.stdout.write(f"{case.model} {case.bet}\n")
            question = ask(model, case.bet, batches=case.batches, common="fp32")
            effort = Effort(seconds=seconds, every_point=True, energy_s=0.0)
            room = float(available_bytes() or 2**62)
            answers.append((case.kind, why(question, store, provenance(), Quiet(), effort, room, session)))
    return answers


def score(points: Any) -> dict[str, Any]:
    """Mean errors and counts over the measured points."""
    known = [p for p in points if p.measured_speedup]
    effects = [p for p in known if abs(math.log(p.measured_speedup)) > math.log1p(EFFECT)]
    apart = [abs(p.predicted_speedup / p.measured_speedup - 1) for p in known]
    return {
        "points": len(known), "mape": _mean(apart), "effects": len(effects),
        "signs_right": sum((p.predicted_speedup > 1) == (p.measured_speedup > 1) for p in effects),
        "roofline_mape": _mean([abs(p.roofline_speedup / p.measured_speedup - 1) for p in known]),
        "roofline_right": sum((p.roofline_speedup > 1) == (p.measured_speedup > 1) for p in effects),
        "one_inside_95": sum(p.measured_low <= 1 <= p.measured_high for p in known),
        "inside_80": _mean([float(p.predicted_low <= p.measured_speedup <= p.predicted_high) for p in known]),
        "farthest_from_one": max((abs(p.measured_speedup - 1) for p in known), default=None),
    }  # fmt: skip


def break_even(answer: Answer) -> list[dict[str, Any]]:
    """Foretold and measured densities; a measurement on one side only is its bound."""
    seen = {(m.family, m.batch): m for m in answer.break_even}
    return [
        {
            "model": answer.bet.model, "batch": e.batch, "predicted": e.density, "low": e.low, "high": e.high,
            "measured": m.density, "between": [m.low, m.high],
        }
        for e in answer.bet.break_even if (m := seen.get((e.family, e.batch))) is not None
    ]  # fmt: skip


def moved(before: list[dict[str, Any]], now: list[dict[str, Any]]) -> dict[str, Any]:
    """By kind: mean difference of what was measured twice for the same bet and batch. No prediction is better than that."""
    known = {(p["model"], p["b"], p["batch"]): p["measured_speedup"] for p in before if p["measured_speedup"]}
    pairs = defaultdict(list)
    for p in now:
        then = known.get((p["model"], p["b"], p["batch"]))
        if then and p["measured_speedup"]:
            pairs[p["kind"]].append(p["measured_speedup"] / then)
    return {
        kind: {"points": len(r), "mean": float(np.mean(np.abs(np.array(r) - 1))), "most": max(abs(x - 1) for x in r)}
        for kind, r in pairs.items()
    }


_FIELDS = (
    "b", "batch", "predicted_speedup", "predicted_low", "predicted_high", "measured_speedup", "measured_low", "measured_high",
    "verdict", "predicted_a_s", "predicted_b_s", "measured_a_s", "measured_b_s", "roofline_speedup", "zeros", "rounds",
    "spread", "load", "flags",
)  # fmt: skip


def row(point: Point) -> dict[str, Any]:
    """What was predicted and measured at one point."""
    values = {name: getattr(point, name) for name in _FIELDS}
    return {k: float(f"{v:.5g}") if isinstance(v, float) else v for k, v in values.items()}


def _mean(values: list[float]) -> float | None:
    return float(np.mean(values)) if values else None


if __name__ == "__main__":
    main()
