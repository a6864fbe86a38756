"""Time of a training step on a machine whose operators of training were calibrated: the sum of their laws, and what nets add."""

from dataclasses import dataclass

import numpy as np

from ridgepoint.errors import NotSupported
from ridgepoint.hardware import Target
from ridgepoint.hardware.law import prefill_terms
from ridgepoint.hardware.law_training import TrainingLaw, TrainingNet, pass_terms, product_terms
from ridgepoint.prediction.optime import OpTime
from ridgepoint.prediction.used import Used, far_share
from ridgepoint.quantity import Array
from ridgepoint.workload import DTYPE_BYTES, POINTWISE, Attention, Linear, Op, Plan, Pointwise

__all__ = ["check_training_law", "far_of", "far_operands", "training_net", "training_times"]


def check_training_law(target: Target) -> None:
    """NotSupported where the target knows no operator of training."""
    if not target.training and not target.is_datasheet:
        raise NotSupported(f"{target.name} knows inference only; `ridge calibrate --train` adds it")


def training_times(plan: Plan, target: Target) -> tuple[OpTime, ...]:
    """Each operator of the step by its law times the factor of whole steps in the plan's dtype; one thread.

    A forward pass that runs again costs what it cost the first time. NotSupported where a law is missing.
    """
    check_training_law(target)
    if plan.threads > 1:
        raise NotSupported(f"{target.name}: training is calibrated for one thread; leave threads out")
    net, laws = training_net(target, plan.dtype), _Laws(target)
    times = []
    for op in plan.ops:
        law = laws.of(op)
        seconds = op.count * _seconds(law, op, target) * net.factor
        times.append(OpTime(op, seconds, (Used(_kernel(law), law.sigma, 1.0, net.sigma),)))
    return tuple(times)


def training_net(target: Target, dtype: str) -> TrainingNet:
    """What whole steps take over their operators; nothing where nets were not measured."""
    found = next((net for net in target.training_nets if net.dtype == dtype), None)
    return found or TrainingNet(dtype=dtype, factor=1.0, sigma=0.1, source="")


@dataclass(frozen=True)
class _Laws:
    target: Target

    def of(self, op: Op) -> TrainingLaw:
        """The operator's law; NotSupported with what there is."""
        subject, sweep = _subject(op), "forward" if op.sweep == "recompute" else op.sweep
        for law in self.target.training:
            if (law.subject, law.sweep, law.dtype) == (subject, sweep, op.dtype):
                return law
        have = sorted({law.dtype for law in self.target.training if law.subject == subject}) or ["none"]
        raise NotSupported(
            f"{self.target.name} has no law for {subject} of a training step ({sweep}) in {op.dtype}; it has {', '.join(have)}"
        )


def _subject(op: Op) -> str:
    if isinstance(op, Linear):
        if op.role == "adapter":
            return "linear thin"
        return "linear" if op.weight == op.dtype else f"linear {op.weight}"
    return op.kind


def _kernel(law: TrainingLaw) -> str:
    return f"{law.subject} {law.sweep}"


def _seconds(law: TrainingLaw, op: Op, target: Target) -> Array:
    """Of one call; an operator never takes less than nothing."""
    total: Array = sum((c * t for c, t in zip(law.terms, _terms(op, target), strict=True)), start=0.0)
    return np.maximum(total, _LEAST_S)


_LEAST_S = 1e-9


def _terms(op: Op, target: Target) -> tuple[Array, ...]:
    if isinstance(op, Linear):
        return product_terms(op.m, op.n, op.k, *far_operands(op.dtype, op.m, op.n, op.k, target))
    if isinstance(op, Attention):
        (group,) = op.groups
        width = (op.head_dim + (op.value_dim or op.head_dim)) / 2
        return prefill_terms(group.count * op.heads, group.new, op.pairs(group) * op.heads, width)
    assert isinstance(op, Pointwise), f"no law of training for {op}"
    rows = op.table if op.table and op.sweep == "grad_weight" else op.rows  # a dense gradient of the whole table
    return pass_terms(rows, op.cols, far_of(op.kind, op.dtype, rows, op.cols, target))


def far_operands(dtype: str, m: Array, n: Array, k: Array, target: Target) -> tuple[Array, Array]:
    """Shares of a product's right operand and of its results that the last-level cache does not hold."""
    width = DTYPE_BYTES[dtype]
    return far_share(width * n * k, target), far_share(width * m * n, target)


def far_of(kind: str, dtype: str, rows: Array, cols: Array, target: Target) -> Array:
    """Share of a call's tensors that does not fit the last-level cache; all of what the optimizer touches once a step."""
    if kind == "adamw":
        return 1.0
    k = POINTWISE[kind]
    return far_share(DTYPE_BYTES[dtype] * (k.reads + k.writes) * rows * cols, target)
