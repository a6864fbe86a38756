"""The bet of a batch study: the predicted curve, its knee, the memory wall and what an SLO leaves, before measuring."""

import math
from typing import Any

import msgspec
import numpy as np

from ridgepoint.errors import NotSupported
from ridgepoint.prediction import Z80, predict, ratio_sigma, roofline_seconds, step_time
from ridgepoint.quantity import show_time
from ridgepoint.result import METRICS, Result
from ridgepoint.study.batch.choosing import budget_of
from ridgepoint.study.batch.document import BatchBet, KneeCard, PaperCurve, SloCard, WallCard
from ridgepoint.study.batch.estimate import Estimate, Paper, estimate_of
from ridgepoint.study.batch.knee import DEFINITION as KNEE
from ridgepoint.study.batch.knee import Knee
from ridgepoint.study.batch.mfu import DEFINITION as MFU
from ridgepoint.study.batch.mfu import model_flops, peak_flops_per_s
from ridgepoint.study.batch.question import BatchQuestion
from ridgepoint.study.batch.wall import DEFINITION as WALL
from ridgepoint.study.batch.wall import at_batch, need_bytes
from ridgepoint.study.modules import not_modelled
from ridgepoint.study.units import unit_of
from ridgepoint.workload import Traced

__all__ = ["SLO", "answer_words", "knee_card", "paper_of", "place_batch_bet", "rate_words", "slo_card"]

SLO = (
    "slo.v1: largest batch, grid or not, whose step keeps the bound; tpot is the step of a decode, one token a sequence"
)
_DENSE = 4096
"""Batches at which the curve is known, at most; up to it all whole numbers."""


def place_batch_bet(question: BatchQuestion) -> BatchBet:
    """Predict the whole curve and state what follows from it."""
    setting, grid = question.setting, question.grid
    plan, target = setting.plan, setting.target
    paper = paper_of(question)
    estimate = estimate_of(paper, {})
    results = [predict(at_batch(plan, b), target) for b in grid]
    curve = _curve(question, paper, results)
    knee, slo = knee_card(estimate.knee(question.limit)), slo_card(question, estimate, question.limit)
    (group,) = plan.step.groups
    return BatchBet(
        model=plan.workload.name, shape=msgspec.to_builtins(setting.given), random_weights=not question.directory,
        phase=plan.step.phase, context=int(group.cached), new=int(group.new), side=plan.side, device=plan.device,
        target=target.name, target_date=target.date, machine_id=target.machine_id, grid=grid, capped=question.capped,
        points=min(budget_of(grid), sum(b <= question.limit for b in grid)), curve=curve, knee=knee, wall=question.wall,
        slo=slo,
        definitions={
            "knee": KNEE, "memory wall": WALL, "SLO": SLO, **{m: METRICS[m].definition for m in _USED},
            **({"MFU": MFU} if plan.step.phase == "train" else {}),
        },
        statement=answer_words(_unit(question), knee, slo, question.wall, paper, estimate),
        flags=(*not_modelled(plan.workload), *setting.flags, *dict.fromkeys(f for r in results for f in r.flags)),
    )  # fmt: skip


_USED = ("latency_s", "tokens_per_s", "memory_bytes")


def _unit(question: BatchQuestion) -> str:
    workload = question.setting.plan.workload
    return "items" if isinstance(workload, Traced) else unit_of(workload.name)


def paper_of(question: BatchQuestion) -> Paper:
    """The predicted curve from the smallest to the largest batch of the grid, with how its errors hang together."""
    plan, target, grid = question.setting.plan, question.setting.target, question.grid
    batch = np.arange(grid[0], grid[-1] + 1)
    if len(batch) > _DENSE:
        batch = np.unique(np.r_[np.round(np.geomspace(grid[0], grid[-1], _DENSE)).astype(int), grid])
    time = step_time(at_batch(plan, batch[:, None].astype(float)), target)  # type: ignore[arg-type]
    rows = np.asarray(grid, float)[:, None]
    one, other = (step_time(at_batch(plan, x), target) for x in (rows, rows.T))  # type: ignore[arg-type]
    apart = np.array(np.broadcast_to(ratio_sigma(one, other), (len(grid), len(grid))))
    np.fill_diagonal(apart, 0.0)
    seconds, sigma = (np.array(np.broadcast_to(x, (len(batch), 1))[:, 0]) for x in (time.seconds, time.sigma))
    return Paper(batch, seconds, sigma, grid, apart)


def _curve(question: BatchQuestion, paper: Paper, results: list[Result]) -> PaperCurve:
    plan = question.setting.plan
    seconds, spread = paper.seconds[paper.at], np.exp(Z80 * paper.sigma[paper.at])
    values = [r.metrics["energy_j"] for r in results]
    return PaperCurve(
        batch=question.grid, seconds=_plain(seconds), low=_plain(seconds / spread), high=_plain(seconds * spread),
        tokens=tuple(float(at_batch(plan, b).step.tokens) for b in question.grid),
        memory_bytes=tuple(need_bytes(plan, b) for b in question.grid), bound=tuple(_bound(r) for r in results),
        roofline_s=tuple(_roofline(question, b) for b in question.grid),
        energy_j=tuple(None if v is None else v.value for v in values), **_utilisation(question),
    )  # fmt: skip


def _utilisation(question: BatchQuestion) -> dict[str, Any]:
    """What a training step's FLOPs and the peak make of a step time."""
    plan, target = question.setting.plan, question.setting.target
    if plan.step.phase != "train":
        return {}
    flops = tuple(model_flops(at_batch(plan, b)) for b in question.grid)
    return {"flops": flops, "peak_flops_per_s": peak_flops_per_s(plan, target)}


def _plain(values: "np.ndarray") -> tuple[float, ...]:
    return tuple(float(v) for v in values)


def _bound(result: Result) -> str:
    totals: dict[str, float] = {}
    for row in result.ops:
        totals[row.bound] = totals.get(row.bound, 0.0) + row.time_s
    return max(totals, key=lambda bound: totals[bound], default="") or "unknown"


def _roofline(question: BatchQuestion, batch: int) -> float | None:
    try:
        return float(roofline_seconds(at_batch(question.setting.plan, batch), question.setting.target))
    except NotSupported:  # the target has no peak for this dtype
        return None


def knee_card(knee: Knee) -> KneeCard:
    """The knee as a document."""
    return KneeCard(batch=knee.batch, low=knee.low, high=knee.high, end=knee.end)


def slo_card(question: BatchQuestion, estimate: Estimate, upto: int) -> SloCard | None:
    """What the objective leaves, by the curve as it is known; `upto` is where memory ends."""
    if question.slo is None:
        return None
    metric, bound_s = question.slo
    reach = estimate.reach(bound_s, upto)
    return SloCard(
        metric=metric, bound_s=bound_s, batch=reach.batch, low=reach.low, high=reach.high, at_end=reach.at_end,
        tokens_per_s=_rate(question, estimate, reach.batch),
    )  # fmt: skip


def _rate(question: BatchQuestion, estimate: Estimate, batch: int) -> float:
    if not batch:
        return 0.0
    seconds = math.exp(np.interp(math.log(batch), np.log(estimate.paper.batch), np.log(estimate.seconds)))
    return float(at_batch(question.setting.plan, batch).step.tokens) / seconds


def answer_words(
    unit: str, knee: KneeCard, slo: SloCard | None, wall: WallCard | None, paper: Paper, estimate: Estimate,
    before: tuple[KneeCard, SloCard | None] | None = None,
) -> str:  # fmt: skip
    """The line that can be quoted; `before`: what was predicted, if this is what was measured."""
    parts = []
    if slo is not None:
        foretold = before[1] if before else None
        parts.append(_slo_words(unit, slo, foretold, float(estimate.seconds[0]), int(paper.batch[0])))
    parts.append(_knee_words(knee, before[0] if before else None, paper.grid))
    if wall is not None:
        parts.append("memory ends beyond every batch tried" if wall.searched else f"memory ends at batch {wall.batch}")
    return "; ".join(parts)


def _slo_words(unit: str, slo: SloCard, before: SloCard | None, first_s: float, first: int) -> str:
    asked = f"{slo.metric} <= {show_time(slo.bound_s)}"
    said = "" if before is None else f", predicted {span(before.low, before.high)}"
    if not slo.batch:
        return f"no batch keeps {asked}: batch {first} takes {show_time(first_s)}{said and f' ({said[2:]})'}"
    least = "at least " if slo.at_end else ""
    return (
        f"largest batch that keeps {asked}: {least}{slo.batch} ({span(slo.low, slo.high)}{said}), throughput there "
        f"{rate_words(slo.tokens_per_s)} {unit}/s"
    )


def rate_words(rate: float) -> str:
    """Tokens a second with three digits, or all of them from a thousand on."""
    return f"{rate:,.0f}" if rate >= 1000 else f"{rate:.3g}"


def span(low: int, high: int) -> str:
    """`"8–16"`, or `"8"` where both are the same; "none" for 0."""
    words = [str(x) if x else "none" for x in (low, high)]
    return words[0] if low == high else "–".join(words)


def _knee_words(knee: KneeCard, before: KneeCard | None, grid: tuple[int, ...]) -> str:
    said = "" if before is None else f", predicted {before.batch}"
    inside = f"({span(knee.low, knee.high)}{said})"
    if knee.end == "last":
        return f"no knee below batch {knee.batch} {inside}: up to there a doubled batch pays"
    if knee.end == "first":
        return f"the knee is at batch {knee.batch} already {inside}: a larger batch costs more latency than it gains"
    return f"the knee is at batch {knee.batch} {inside}"
