"""What follows from a batch study's points: the curve as known, its knee, the SLO's batch, energy and one line."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from ridgepoint.hardware import Target
from ridgepoint.prediction import Z80
from ridgepoint.quantity import show_bytes
from ridgepoint.store import Provenance, Record
from ridgepoint.study.batch.bet import answer_words, knee_card, paper_of, slo_card
from ridgepoint.study.batch.document import BatchAnswer, BatchBet, BatchPoint, CurvePoint
from ridgepoint.study.batch.estimate import SETTLED, Estimate, Measured, estimate_of
from ridgepoint.study.batch.question import BatchQuestion
from ridgepoint.study.units import unit_of

__all__ = ["known", "settle_batch", "upto"]


def known(points: Sequence[BatchPoint], target: Target) -> dict[int, Measured]:
    """The measured step times; their error is half the interquartile range of the steps, what more steps do not mend, and how
    far visits to the same network were apart when the machine was calibrated, where that is known."""
    found = {}
    for p in points:
        if p.measured_s is not None and p.measured_low_s is not None:
            half = 1 - p.measured_low_s / p.measured_s
            found[p.batch] = Measured(p.measured_s, math.hypot(SETTLED, half, target.repeat_sigma or 0.0))
    return found


def upto(question: BatchQuestion, points: Sequence[BatchPoint]) -> int:
    """The largest batch that may fit: predicted to, and smaller than any at which memory ran out."""
    out = [p.batch for p in points if p.out_of_memory]
    return min([question.limit, *(batch - 1 for batch in out)])


def settle_batch(
    question: BatchQuestion, bet: BatchBet, record: Record, points: Sequence[BatchPoint], provenance: Provenance,
    complete: bool = True,
) -> BatchAnswer:  # fmt: skip
    """The answer that follows from the points; computed from what is stored, so a resumed run ends alike."""
    points = sorted(points, key=lambda p: p.batch)
    paper, measured = paper_of(question), known(points, question.setting.target)
    estimate, end = estimate_of(paper, measured), upto(question, points)
    knee = knee_card(estimate.knee(end))
    slo = slo_card(question, estimate, end)
    errors = [abs(p.predicted_s / p.measured_s - 1) for p in points if p.measured_s]
    unmeasured = [f"batch {p.batch}: {p.flags[0]}" for p in points if p.measured_s is None and p.flags]
    flags = dict.fromkeys(f for p in points if p.measured_s is not None for f in p.flags)
    out = [p.batch for p in points if p.out_of_memory]
    before = (bet.knee, bet.slo)
    words = answer_words(unit_of(bet.model), knee, slo, bet.wall, paper, estimate, before if measured else None)
    return BatchAnswer(
        id=record.id, created=record.created, digest=record.digest, bet=bet, points=tuple(points),
        curve=_curve(bet, estimate, measured, end), knee=knee, slo=slo, ran_out_at=min(out, default=None),
        energy=_energy(points), error=float(np.mean(errors)) if errors else None,
        verdict=_verdict(bet, words, points, errors), complete=complete,
        flags=(*bet.flags, *flags, *_caveats(question, bet, provenance, complete), *unmeasured),
        machine=dict(provenance.machine), versions=dict(provenance.versions),
    )  # fmt: skip


def _curve(bet: BatchBet, estimate: Estimate, measured: dict[int, Measured], end: int) -> tuple[CurvePoint, ...]:
    out = []
    for i, batch in enumerate(bet.grid):
        seconds, spread = float(estimate.grid_seconds[i]), float(np.exp(Z80 * estimate.grid_sigma[i]))
        how = "measured" if batch in measured else "scaled prediction" if measured else "prediction"
        out.append(
            CurvePoint(
                batch=batch, seconds=seconds, low=seconds / spread, high=seconds * spread,
                tokens_per_s=bet.curve.tokens[i] / seconds, how=how, fits=batch <= end,
            )  # type: ignore[arg-type]
        )  # fmt: skip
    return tuple(out)


def _verdict(bet: BatchBet, words: str, points: Sequence[BatchPoint], errors: list[float]) -> str:
    if not errors:
        return f"nothing measured; predicted: {words}"
    out = [p for p in points if p.out_of_memory]
    need = f"predicted need {show_bytes(out[0].predicted_memory_bytes)}" if out else ""
    ran = f"; memory ran out at batch {out[0].batch} ({need})" if out else ""
    part = f"{len(errors)} of {len(bet.grid)} batches measured"
    return f"{words}{ran} (step times predicted within {100 * max(errors):.0f} %, {part})"


def _caveats(question: BatchQuestion, bet: BatchBet, provenance: Provenance, complete: bool) -> list[str]:
    out = [] if complete else ["interrupted: settled with the batches that were measured; the same command goes on"]
    if bet.machine_id not in ("", provenance.machine.get("machine_id")):
        out.append(f"predicted for {bet.target}, measured on another machine: the errors are of both")
    if question.setting.target.repeat_sigma is None:
        out.append(
            f"how far visits to {bet.target} are apart is not known: a measured step counts as sure as its own spread"
        )
    return out


def _energy(points: Sequence[BatchPoint]) -> dict[str, Any]:
    """Joules per token (row, item) of each measured batch, or why there are none."""
    measured = [p for p in points if p.energy_j is not None]
    if not measured:
        found = next((p.energy_method for p in points if p.energy_method), "no counter for this device")
        return {"measured": False, "reason": f"not measurable here: {found.removeprefix('not measurable here: ')}"}
    return {
        "measured": True, "method": measured[0].energy_method,
        "points": [
            {"batch": p.batch, "j_per_token": (p.energy_j or 0.0) / p.tokens, "low": (p.energy_low_j or 0.0) / p.tokens,
             "high": (p.energy_high_j or 0.0) / p.tokens}
            for p in measured
        ],
    }  # fmt: skip
