"""Truth of training: settle bets on full, LoRA and QLoRA steps of models that calibration never saw, and score them.

    python benchmarks/training.py --out DIR [--seconds 5] [--cases small]

Uses the machine's calibrated target (`ridge calibrate --train` first). Every bet is in the store; DIR gets training.json:
errors of step times and of peak memory, signs of effects beyond 10 %, and whether each ceiling held.
"""

import argparse
import math
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from record import keep
from truth import Quiet, config_file

from ridgepoint.measurement.memory import available_bytes
from ridgepoint.measurement.session import Session
from ridgepoint.store import Store, default_path
from ridgepoint.study.document import Answer, Point
from ridgepoint.study.provenance import provenance
from ridgepoint.study.question import ask
from ridgepoint.study.score import score_answers
from ridgepoint.study.why import Effort, why

EFFECT = 0.10
"""Smaller effects have no sign worth a score."""
_HOLDS = 1.03
"""A measured speed-up within a tie of its ceiling is at it, not above it."""


@dataclass(frozen=True)
class Case:
    """A bet on one of the shapes of `truth.MODELS`, at these numbers of sequences of `isl` tokens."""

    model: str
    bet: str
    isl: int
    batches: tuple[int, ...]


_FP32 = "fp32+full..fp32+lora:r=16,fp32+lora:r=16:targets=qv,fp32+lora:r=16+checkpoint"
CASES = (
    Case("m27", _FP32, 64, (1, 8)),
    Case("m42", _FP32, 128, (1, 2)),
    Case("m97", "fp32+full..fp32+lora:r=8,fp32+full+checkpoint", 64, (1, 4)),
    Case("m27", "bf16+full..bf16+lora:r=16,bf16+qlora:r=16", 64, (1,)),
    Case("m27", "fp32+full..bf16+full", 64, (1,)),
)
SMALL = (
    Case("m27", "fp32+full..fp32+lora:r=16", 64, (1,)),
    Case("m42", "fp32+full..fp32+lora:r=16+checkpoint", 64, (1,)),
)
"""A rehearsal."""


def main() -> None:
    """Settle all bets, print and write the score."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--cases", choices=("all", "small"), default="all")
    options = parser.parse_args()
    answers = settle(CASES if options.cases == "all" else SMALL, options.seconds)
    points = [(answer, point) for answer in answers for point in answer.points]
    found = {
        "command": " ".join(sys.argv[1:]).replace(str(options.out), "DIR"), "target_date": answers[0].bet.target_date,
        "score": score(points), "by_b": [asdict(row) for row in score_answers(answers, "b")],
        "points": [row(answer, point) for answer, point in points],
    }  # fmt: skip
    keep(options.out, "training.json", found)
    sys.stdout.write("".join(f"{name}: {value}\n" for name, value in found["score"].items()))


def settle(cases: tuple[Case, ...], seconds: float) -> list[Answer]:
    """One answer per case; every batch is measured."""
    answers = []
    with Store(default_path()) as store, tempfile.TemporaryDirectory() as folder, Session() as session:
        for case in cases:
            model = config_file(case.model, Path(folder))
            sys.stdout.write(f"{case.model} {case.bet} {case.isl} tokens\n")
            question = ask(str(model), case.bet, batches=case.batches, phase="train", isl=case.isl)
            effort = Effort(seconds=seconds, every_point=True, energy_s=0.0)
            room = float(available_bytes() or 2**62)
            answers.append(why(question, store, provenance(), Quiet(), effort, room, session))
    return answers


def score(points: list[tuple[Answer, Point]]) -> dict[str, Any]:
    """Mean errors and counts over all measured points; a step that stands in several points counts once in each."""
    known = [(a, p) for a, p in points if p.measured_speedup]
    steps = [
        (foretold, seen)
        for _, p in known
        for foretold, seen in ((p.predicted_a_s, p.measured_a_s), (p.predicted_b_s, p.measured_b_s))
        if seen
    ]
    effects = [p for _, p in known if abs(math.log(p.measured_speedup or 1.0)) > math.log1p(EFFECT)]
    right = sum((p.predicted_speedup > 1) == ((p.measured_speedup or 1.0) > 1) for p in effects)
    memory = [error for a, p in known for error in memory_errors(a, p)]
    ceilings = [(p.measured_speedup or 0.0) <= _HOLDS * ceiling(a, p) for a, p in known]
    inside = [p.predicted_low <= (p.measured_speedup or 0.0) <= p.predicted_high for _, p in known]
    return {
        "points": len(points), "measured": len(known),
        "step_time_mape": _mean([abs(foretold / seen - 1) for foretold, seen in steps]),
        "speedup_mape": _mean([abs(p.predicted_speedup / p.measured_speedup - 1) for _, p in known if p.measured_speedup]),
        "roofline_speedup_mape": _mean(
            [abs(p.roofline_speedup / p.measured_speedup - 1) for _, p in known if p.measured_speedup]
        ),
        "effects_beyond_10_percent": len(effects), "signs_right": right,
        "peak_memory_mape": _mean([abs(e) for e in memory]), "peak_memory_worst": max(map(abs, memory), default=None),
        "ceilings": len(ceilings), "ceilings_that_held": sum(ceilings), "inside_80_percent": _mean([float(x) for x in inside]),
    }  # fmt: skip


def memory_errors(answer: Answer, point: Point) -> list[float]:
    """Predicted over counted peak, less one, of both sides."""
    cards = {side.text: side for side in (answer.bet.a, *answer.bet.b)}
    pairs = [(cards[text], point.held[side]) for side, text in (("a", point.a), ("b", point.b)) if side in point.held]
    return [card.memory_items[str(point.batch)]["peak"] / held["peak"] - 1 for card, held in pairs]


def ceiling(answer: Answer, point: Point) -> float:
    """The bet's, at the point's batch."""
    curve = next(c for c in answer.bet.curves if c.b == point.b)
    return curve.ceiling[curve.batch.index(point.batch)]


_FIELDS = (
    "a", "b", "batch", "predicted_speedup", "predicted_low", "predicted_high", "measured_speedup", "measured_low",
    "measured_high", "verdict", "predicted_a_s", "predicted_b_s", "measured_a_s", "measured_b_s", "roofline_speedup", "held",
    "rounds", "spread", "load", "flags",
)  # fmt: skip


def row(answer: Answer, point: Point) -> dict[str, Any]:
    """What was predicted and measured at one point."""
    values = {name: getattr(point, name) for name in _FIELDS}
    rounded = {k: float(f"{v:.5g}") if isinstance(v, float) else v for k, v in values.items()}
    more = {"model": answer.bet.model, "isl": answer.bet.new, "ceiling": ceiling(answer, point)}
    return more | rounded | {"memory_errors": memory_errors(answer, point)}


def _mean(values: list[float]) -> float | None:
    return float(np.mean(values)) if values else None


if __name__ == "__main__":
    main()
