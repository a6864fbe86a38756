"""Predict: the time of a plan on a target as a sum of operators, with an interval and what bounds each."""

from dataclasses import dataclass

import numpy as np

from ridgepoint.hardware import Target
from ridgepoint.prediction.memory import predict_memory
from ridgepoint.prediction.optime import OpTime, op_time
from ridgepoint.prediction.residency import miss_share
from ridgepoint.prediction.roofline import bound_of
from ridgepoint.quantity import Array
from ridgepoint.result import OpRow, Result, Value
from ridgepoint.workload import Op, Plan

__all__ = ["Z80", "StepTime", "predict", "ratio_sigma", "step_time"]

Z80 = 1.2816
"""Half-width of a central 80 % interval in standard deviations of a normal distribution."""


@dataclass(frozen=True, slots=True)
class StepTime:
    """Predicted time of a step: `seconds` (scalar or array), its operators, and what each law contributes."""

    seconds: Array
    ops: tuple[OpTime, ...]
    miss: Array
    residual_sigma: float

    def shares(self) -> dict[tuple[str, str], tuple[Array, float]]:
        """Share of the time and relative error by (kernel, dtype): the errors of one law go together."""
        out: dict[tuple[str, str], tuple[Array, float]] = {}
        for time in self.ops:
            key = (time.kernel, time.op.dtype)
            share, _ = out.get(key, (0.0, 0.0))
            out[key] = (share + time.seconds / self.seconds, time.sigma)
        return out

    @property
    def sigma(self) -> Array:
        """Standard deviation of the log error of the whole step."""
        variance = sum(((share * sigma) ** 2 for share, sigma in self.shares().values()), start=0.0)
        return np.sqrt(variance + self.residual_sigma**2)


def step_time(plan: Plan, target: Target) -> StepTime:
    """The time of the plan's step; arrays in the step (a sweep) give arrays out."""
    miss = miss_share(plan, target)
    times = tuple(op_time(op, target, miss, plan.threads) for op in plan.ops)
    residual = target.correction.sigma if target.correction else 0.1
    return StepTime(sum((t.seconds for t in times), start=0.0), times, miss, residual)


def ratio_sigma(a: StepTime, b: StepTime) -> Array:
    """Standard deviation of the log of a/b: what both sides share cancels, what only one has does not."""
    left, right = a.shares(), b.shares()
    variance: Array = 0.0
    for key in left.keys() | right.keys():
        share_a, sigma_a = left.get(key, (0.0, 0.0))
        share_b, sigma_b = right.get(key, (0.0, 0.0))
        variance = variance + ((share_a - share_b) * max(sigma_a, sigma_b)) ** 2
    same = left.keys() == right.keys()
    residual = min(a.residual_sigma, b.residual_sigma) if same else float(np.hypot(a.residual_sigma, b.residual_sigma))
    return np.sqrt(variance + residual**2)


def predict(plan: Plan, target: Target) -> Result:
    """The plan's result on the target, from paper alone; scalars only (sweeps use `step_time`)."""
    time = step_time(plan, target)
    rows = tuple(_row(t, time, target) for t in time.ops)
    seconds, spread = float(time.seconds), float(np.exp(Z80 * time.sigma))
    tokens = float(plan.step.tokens)
    memory = float(predict_memory(plan).total_bytes)
    return Result(
        kind="predicted",
        workload=plan.workload.name,
        step=str(plan.step),
        side=plan.side,
        target=target.name,
        metrics={
            "latency_s": Value(seconds, seconds / spread, seconds * spread, "sum of calibrated operator laws"),
            "tokens_per_s": Value(
                tokens / seconds, tokens / seconds / spread, tokens / seconds * spread, "tokens / latency"
            ),
            "memory_bytes": Value(memory, 0.95 * memory, 1.05 * memory, "itemised: weights, KV cache, activations"),
            "energy_j": None,
        },
        ops=rows,
        absent={"energy_j": f"{target.name} has no power figures"},
        provenance={"target_date": target.date, "machine_id": target.machine_id, "cache_miss_share": float(time.miss)},
    )


def _row(time: OpTime, step: StepTime, target: Target) -> OpRow:
    op: Op = time.op
    seconds = float(time.seconds)
    spread = float(np.exp(Z80 * np.hypot(time.sigma, step.residual_sigma)))
    return OpRow(
        name=op.name,
        kind=op.kind,
        role=op.role,
        kernel=time.kernel,
        count=op.count,
        time_s=seconds,
        low_s=seconds / spread,
        high_s=seconds * spread,
        bound=bound_of(op, seconds, target, float(step.miss)),
        flops=float(op.count * op.flops),
        bytes=float(op.count * op.bytes),
    )
