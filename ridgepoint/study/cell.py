"""One comparison of two sides on paper: both step times, their ratio with its interval, the roofline's and the ceiling."""

import math
from dataclasses import dataclass

from ridgepoint.choice import Side
from ridgepoint.prediction import Z80, StepTime, ratio_sigma, roofline_seconds, step_time
from ridgepoint.study.question import Question, plan_for
from ridgepoint.workload import Plan

__all__ = ["Cell", "cell"]


@dataclass(frozen=True)
class Cell:
    """One comparison on paper: speed-up of b over a per token, its 80 % interval and both step times."""

    speedup: float
    low: float
    high: float
    a: StepTime
    b: StepTime
    plan_a: Plan
    plan_b: Plan
    roofline_a_s: float
    roofline_b_s: float
    ceiling: float

    @property
    def roofline(self) -> float:
        """Speed-up by the roofline."""
        return _per_token(self.roofline_a_s, self.roofline_b_s, self.plan_a, self.plan_b)


def cell(question: Question, side: Side, batch: int) -> Cell:
    """Side b against a at one batch, on paper."""
    plan_a, plan_b = plan_for(question, question.a, batch), plan_for(question, side, batch)
    a, b = step_time(plan_a, question.target), step_time(plan_b, question.target)
    speedup = _per_token(float(a.seconds), float(b.seconds), plan_a, plan_b)
    spread = math.exp(Z80 * float(ratio_sigma(a, b)))
    rooflines = float(roofline_seconds(plan_a, question.target)), float(roofline_seconds(plan_b, question.target))
    return Cell(
        speedup, speedup / spread, speedup * spread, a, b, plan_a, plan_b, *rooflines, _ceiling(a, b, plan_a, plan_b)
    )


def _per_token(a_s: float, b_s: float, plan_a: Plan, plan_b: Plan) -> float:
    return (a_s / float(plan_a.step.tokens)) / (b_s / float(plan_b.step.tokens))


def _ceiling(a: StepTime, b: StepTime, plan_a: Plan, plan_b: Plan) -> float:
    """Amdahl 1967: 1 / (share of a's time in operators that b carries out as a does); inf if nothing is left.

    Where only the calls differ (compiled, recorded), of each such operator what the cheaper call leaves.
    """
    if plan_a.threads != plan_b.threads or (
        plan_a.launch != plan_b.launch and "graph" in (plan_a.launch, plan_b.launch)
    ):
        return math.inf
    theirs = {t.op.name: t.op for t in b.ops}
    same = {t.op.name for t in a.ops if theirs.get(t.op.name) == t.op}
    kept = sum(float(t.seconds) for t in a.ops if t.op.name in same)
    if (plan_a.launch, plan_a.autograd) != (plan_b.launch, plan_b.autograd):
        cheaper = {t.op.name: float(t.seconds) for t in b.ops}
        kept = sum(min(float(t.seconds), cheaper[t.op.name]) for t in a.ops if t.op.name in same)
    return float(a.seconds) / kept if kept > 0 else math.inf
