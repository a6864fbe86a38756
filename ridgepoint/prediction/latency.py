"""Predict: the time of a plan on a target as a sum of operators, with an interval and what bounds each."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ridgepoint.errors import BadInput
from ridgepoint.hardware import Target
from ridgepoint.prediction.autograd import autograd_call_s
from ridgepoint.prediction.compiled import compilation_seconds, compiled_law
from ridgepoint.prediction.launch import host_seconds
from ridgepoint.prediction.memory import predict_memory
from ridgepoint.prediction.near import near_seconds
from ridgepoint.prediction.optime import OpTime, op_time
from ridgepoint.prediction.physics.spread import Z80
from ridgepoint.prediction.residency import code_key, code_miss_shares, miss_share, working_set_bytes
from ridgepoint.prediction.results import result_bytes
from ridgepoint.prediction.roofline import bound_of
from ridgepoint.prediction.sheet.energy import step_energy
from ridgepoint.prediction.sheet.step import sheet_times
from ridgepoint.prediction.training_step import training_net, training_times
from ridgepoint.quantity import Array
from ridgepoint.result import OpRow, Result, Value
from ridgepoint.workload import Op, Plan, Traced

__all__ = ["Z80", "StepTime", "predict", "ratio_sigma", "step_time"]

Source = tuple[str, str, str]
"""What errs on its own: kernel, dtype, operator ("" for the kernel as a whole)."""


@dataclass(frozen=True, slots=True)
class StepTime:
    """Predicted time of a step: `seconds` (scalar or array), its operators, and what each law contributes."""

    seconds: Array
    ops: tuple[OpTime, ...]
    miss: Array
    residual_sigma: float
    host_s: Array = 0.0
    """Launching the operators one by one; 0 where the host does not count (CPU, CUDA graph)."""
    host_sigma: float = 0.0
    near_s: Array = 0.0
    """What calls of a small module save in the second-level cache; `ops` have it taken off."""
    asked: tuple[Plan, Target] | None = None
    """The plan and the target; None where the host's launches count instead of a cache."""

    @property
    def device_s(self) -> Array:
        """Sum of the operators."""
        return sum((t.seconds for t in self.ops), start=0.0)

    @property
    def cache_sigma(self) -> Array:
        """Relative change of the time when a standard deviation of the last-level cache goes to somebody else.

        Evaluates the step twice more: for who wants an interval, not for a sweep of times.
        """
        return _cache_sigma(*self.asked, self) if self.asked else 0.0

    def shares(self) -> dict[Source, tuple[Array, Array]]:
        """Share of the time and relative error of each independent source of error.

        A law errs at each shape anew, and for a kernel as a whole: (kernel, dtype, operator) and (kernel, dtype, "").
        """
        out: dict[Source, tuple[Array, Array]] = {}
        for time in self.ops:
            for law in time.laws:
                share = law.where * time.seconds / self.seconds
                for key, sigma in (
                    ((law.kernel, time.op.dtype, time.op.name), law.sigma),
                    ((law.kernel, time.op.dtype, ""), law.common),
                ):
                    before, _ = out.get(key, (0.0, 0.0))
                    out[key] = (before + share, sigma)
        out["cache", "", ""] = (self.cache_sigma, 1.0)
        if np.any(self.near_s):
            out["near", "", ""] = (self.near_s / self.seconds, _NEAR_SIGMA)
        if self.host_sigma == 0.0:
            return out
        waits = np.asarray(self.host_s) > self.device_s  # then only the host's error counts
        out = {key: (np.where(waits, 0.0, share), sigma) for key, (share, sigma) in out.items()}
        return {**out, ("host launch", "", ""): (np.where(waits, 1.0, 0.0), self.host_sigma)}

    @property
    def sigma(self) -> Array:
        """Standard deviation of the log error of the whole step."""
        variance = sum(((share * sigma) ** 2 for share, sigma in self.shares().values()), start=0.0)
        return np.sqrt(variance + self.residual_sigma**2)


def step_time(plan: Plan, target: Target) -> StepTime:
    """The time of the plan's step; arrays in the step (a sweep) give arrays out.

    Of a machine known from its datasheet the sum of the kernels that a serving stack runs, launched as a CUDA graph.

    The sum of its operators; on a GPU without a CUDA graph max(sum of the operators, sum of their launches), because
    the host launches ahead while the device computes, and the slower of the two sets the pace.
    """
    residual = target.correction.sigma if target.correction else 0.1
    if target.is_datasheet:
        times = sheet_times(plan, target)
        return StepTime(sum((t.seconds for t in times), start=0.0), times, 1.0, residual)
    if plan.step.phase == "train" and target.training:
        times = training_times(plan, target)
        return StepTime(sum((t.seconds for t in times), start=0.0), times, 1.0, training_net(target, plan.dtype).sigma)
    ops = plan.ops
    miss, times = _times(plan, target, ops, working_set_bytes(ops, target))
    total: Array = sum((t.seconds for t in times), start=0.0)
    if not np.all(np.asarray(total) > 0):
        raise BadInput(
            f"target {target.name} gives a step of {plan.workload.name} no time; its laws are all zero there"
        )
    if plan.launch == "compile":
        total = total + compiled_law(target, plan.dtype).guard_s
    if not target.launch or plan.launch == "graph":
        near = near_seconds(plan, target, ops)
        near_s = sum((op.count * near[code_key(op)] for op in ops), start=0.0) if near else 0.0
        return StepTime(total, times, miss, residual, near_s=near_s, asked=(plan, target))
    host_s, host_sigma = host_seconds(times, target)
    return StepTime(np.maximum(total, host_s), times, miss, residual, host_s, host_sigma)


def _times(plan: Plan, target: Target, ops: Sequence[Op], displaced: Array) -> tuple[Array, tuple[OpTime, ...]]:
    """The share of bytes that miss the cache, and the operators' times with it."""
    miss = miss_share(plan, target, displaced)
    code = code_miss_shares(ops, target, displaced)
    near = near_seconds(plan, target, ops)

    def per_call(op: Op) -> Array:
        return _per_call(plan, target, op) + autograd_call_s(plan, target, op) - near.get(code_key(op), 0.0)

    return miss, tuple(op_time(op, target, miss, code[code_key(op)], plan.threads, per_call(op)) for op in ops)


def _per_call(plan: Plan, target: Target, op: Op) -> Array:
    """What the network's own Python, or compiled code in its place, adds to a call; in a module also that its result's
    memory is given back."""
    if plan.launch == "compile":
        return compiled_law(target, plan.dtype).kept_call_s
    if isinstance(plan.workload, Traced) and target.module_call_s is not None:
        return target.module_call_s + target.module_byte_s * result_bytes(op)
    return target.correction.per_call_s if target.correction else 0.0


_NEAR_SIGMA = 0.5
"""Error of a saving, relative to it: it is measured call by call, and lost by the bytes that pass between calls in the mean,
which halves it within a factor of three of them."""
_CAPACITY_SIGMA = 1.25
"""Factor by which the free share of a shared last-level cache differs from one calibration to the next (seen: 1.2–1.4)."""


def _cache_sigma(plan: Plan, target: Target, time: StepTime) -> Array:
    """Half the relative difference between the step with less and with more of the cache."""
    if target.residency is None:
        return 0.0
    ops = [t.op for t in time.ops]
    displaced = working_set_bytes(ops, target)
    less, more = (
        sum((t.seconds for t in _times(plan, target, ops, displaced / capacity)[1]), start=0.0)
        for capacity in (1 / _CAPACITY_SIGMA, _CAPACITY_SIGMA)
    )
    return (less - more) / (2 * time.device_s)


def ratio_sigma(a: StepTime, b: StepTime) -> Array:
    """Standard deviation of the log of a/b: what both sides share cancels, what only one has does not.

    The residual of networks (the machine's drift since its calibration, mostly) moves both sides and counts once.
    """
    left, right = a.shares(), b.shares()
    variance: Array = 0.0
    for key in sorted(left.keys() | right.keys()):
        share_a, sigma_a = left.get(key, (0.0, 0.0))
        share_b, sigma_b = right.get(key, (0.0, 0.0))
        variance = variance + ((share_a - share_b) * np.maximum(sigma_a, sigma_b)) ** 2
    return np.sqrt(variance + min(a.residual_sigma, b.residual_sigma) ** 2)


def predict(plan: Plan, target: Target) -> Result:
    """The plan's result on the target, from paper alone; scalars only (sweeps use `step_time`)."""
    time = step_time(plan, target)
    rows = tuple(_row(t, time, target) for t in time.ops)
    seconds, spread = float(time.seconds), float(np.exp(Z80 * time.sigma))
    tokens = float(plan.step.tokens)
    memory = float(predict_memory(plan).total_bytes)
    energy = step_energy(time.ops, float(time.sigma), target) if target.is_datasheet else None
    return Result(
        kind="predicted",
        workload=plan.workload.name,
        step=str(plan.step),
        side=plan.side,
        target=target.name,
        metrics={
            "latency_s": Value(seconds, seconds / spread, seconds * spread, _METHODS[target.is_datasheet]),
            "tokens_per_s": Value(
                tokens / seconds, tokens / seconds / spread, tokens / seconds * spread, "tokens / latency"
            ),
            "memory_bytes": Value(memory, memory, memory, "itemised: weights, KV cache, activations; no interval"),
            "resident_bytes": None,
            "energy_j": energy,
            **_compilation(plan, target),
        },
        ops=rows,
        absent={
            "resident_bytes": "what the process holds beside the step's tensors is not modelled",
            **({} if energy else {"energy_j": f"{target.name} has no power figures"}),
        },
        provenance={
            "target_date": target.date,
            "machine_id": target.machine_id,
            "cache_miss_share": float(time.miss),
            **_host(time),
        },
        flags=_borrowed(time, target),
    )


def _borrowed(time: StepTime, target: Target) -> tuple[str, ...]:
    """Says that parameters were fitted on other machines, where they were."""
    borrowed = [op for op in time.ops if op.fitted_on]
    if not borrowed:
        return ()
    kinds = ", ".join(dict.fromkeys("add + norm" if op.op.kind == "fused" else op.op.kind for op in borrowed))
    others = ", ".join(sorted({gpu for op in borrowed for gpu in op.fitted_on}))
    return (f"times of {kinds} were never validated on {target.name}: their parameters were fitted on {others}",)


_METHODS = ("sum of calibrated operator laws", "sum of operators by their time models, from datasheet and class; model")


def _compilation(plan: Plan, target: Target) -> dict[str, Value | None]:
    if plan.launch != "compile":
        return {}
    seconds = compilation_seconds(plan, target)
    return {
        "compile_s": Value(seconds, seconds, seconds, "each call's part, without the compiler's start; no interval")
    }


def _host(time: StepTime) -> dict[str, float]:
    """Device and host time apart, where both count: rows are the device's, the step is the larger."""
    return {"device_s": float(time.device_s), "host_s": float(time.host_s)} if time.host_sigma else {}


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
        bound=time.physical.bound() if time.physical else bound_of(op, seconds, target, float(step.miss)),
        flops=float(op.count * op.flops),
        bytes=_bytes(time, target),
    )


def _bytes(time: OpTime, target: Target) -> float:
    """Compulsory bytes; of routed experts those of the experts that the time model's tokens reach."""
    op = time.op
    if op.kind != "moe" or time.physical is None:
        return float(op.count * op.bytes)
    weights = np.asarray(time.physical.memory_s) * target.memory_bytes_per_s()
    return float(op.count * (weights + op.activation_bytes))
