"""What a bet says of each side: kernels, memory, where its time goes, and the roofs of the machine it is predicted for."""

from collections.abc import Mapping

from ridgepoint.choice import Side
from ridgepoint.hardware import Target
from ridgepoint.prediction import StepTime, predict_memory
from ridgepoint.prediction.compiled import compilation_seconds
from ridgepoint.prediction.optime import OpTime
from ridgepoint.prediction.roofline import bound_of
from ridgepoint.study.document import OpCard, Roof, SideCard
from ridgepoint.study.question import Question
from ridgepoint.study.sparsity import family_of, sparsity_card
from ridgepoint.study.training import memory_items
from ridgepoint.workload import Linear, Plan

__all__ = ["kernels_of", "roofs", "side_card"]

_GROUPS = {"attention": "attention", "conv": "convolutions", "matmul": "products of activations"}
_MOST_OPS = 80
"""Operators of a side that a bet keeps, those that take longest; the others are summed up."""


def kernels_of(time: StepTime) -> dict[str, str]:
    """Linear operator -> the kernel that the prediction names."""
    linears = [t for t in time.ops if isinstance(t.op, Linear)]
    if any(t.op.sweep != "forward" for t in linears):
        return {}  # a training step runs torch's own products, forward and back
    return {t.op.name: t.kernel for t in linears}


def side_card(question: Question, text: str, side: Side, steps: Mapping[int, tuple[StepTime, Plan]]) -> SideCard:
    """The side at the smallest and at the largest batch."""
    first, last, target = min(steps), max(steps), question.target
    bounds, shares, ops = {}, {}, {}
    for batch in sorted({first, last}):
        time, plan = steps[batch]
        bounds[str(batch)], shares[str(batch)] = _breakdown(time, target)
        ops[str(batch)] = _ops(time, target)
    plan = steps[last][1]
    return SideCard(
        text=text, spec=side.spec, kernels=kernels_of(steps[first][0]), memory_bytes=float(predict_memory(plan).total_bytes),
        memory_items={str(b): items for b, (_, p) in steps.items() if (items := memory_items(p))},
        weight_bytes=float(plan.weight_bytes), bounds=bounds, shares=shares, ops=ops,
        compile_s=compilation_seconds(plan, target) if plan.launch == "compile" else None,
        sparsity=sparsity_card(side, question.workload, plan), family=family_of(side),
    )  # fmt: skip


def _bound(t: OpTime, time: StepTime, target: Target) -> str:
    if t.physical is not None:
        return t.physical.bound()
    return bound_of(t.op, float(t.seconds), target, float(time.miss)) or "unknown"


def _ops(time: StepTime, target: Target) -> tuple[OpCard, ...]:
    cards = [
        OpCard(
            name=t.op.name, kind=t.op.kind, kernel=t.kernel, time_s=float(t.seconds),
            flops=float(t.op.count * t.op.flops), bytes=float(t.op.count * t.op.bytes), bound=_bound(t, time, target),
        )
        for t in time.ops
    ]  # fmt: skip
    cards.sort(key=lambda c: -c.time_s)
    rest = cards[_MOST_OPS:]
    if not rest:
        return tuple(cards)
    return (*cards[:_MOST_OPS], OpCard(
        name=f"{len(rest)} more", kind="other", kernel="", time_s=sum(c.time_s for c in rest),
        flops=sum(c.flops for c in rest), bytes=sum(c.bytes for c in rest), bound="unknown",
    ))  # fmt: skip


def roofs(target: Target) -> tuple[Roof, ...]:
    """Read bandwidth of each level of the hierarchy and arithmetic rate of each dtype, dense, of its fastest unit; attained by
    one thread where the target was calibrated."""
    memory = [
        Roof(kind="memory", name=x.name, per_s=x.read_bytes_per_s)
        for x in target.levels
        if x.threads == 1 and x.read_bytes_per_s is not None
    ]
    dtypes = dict.fromkeys(p.dtype for p in target.peaks if not p.sparse)
    return (*memory, *(Roof(kind="compute", name=dtype, per_s=target.flops_per_s(dtype)) for dtype in dtypes))


def _breakdown(time: StepTime, target: Target) -> tuple[dict[str, float], dict[str, float]]:
    bounds: dict[str, float] = {}
    shares: dict[str, float] = {}
    total = float(time.seconds)
    for t in time.ops:
        share = float(t.seconds) / total
        bound = _bound(t, time, target)
        bounds[bound] = bounds.get(bound, 0.0) + share
        group = _GROUPS.get(t.op.kind, "other operators")
        if isinstance(t.op, Linear):
            group = "linear layers" if t.op.role == "other" else t.op.role
        shares[group] = shares.get(group, 0.0) + share
    waiting = 1.0 - float(time.device_s) / total
    if waiting > 0.005:  # the device waits for the host's launches; on a CPU a compiled step checks its guards
        bounds["dispatch"] = bounds.get("dispatch", 0.0) + waiting
        shares["waiting for launches" if target.launch else "guards"] = waiting
    return bounds, shares
