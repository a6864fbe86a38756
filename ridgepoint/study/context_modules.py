"""What networks beyond decoders add to their operators on their own, from small ones whose calls were timed in place."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import numpy as np

from ridgepoint.choice import resolve
from ridgepoint.errors import NotSupported
from ridgepoint.hardware import Target
from ridgepoint.hardware.nonnegative import fit_nonnegative
from ridgepoint.prediction import StepTime, step_time
from ridgepoint.prediction.near import near_seconds
from ridgepoint.prediction.residency import code_key
from ridgepoint.prediction.results import result_bytes
from ridgepoint.study.context import Key, composed, factor_of, in_place
from ridgepoint.workload import Plan, Traced, forward

__all__ = ["with_module_context"]

Sample = Mapping[str, Any]
_LEARNT = ("pool",)
"""Maxima over windows branch on their data; a small network shows the same data again and again, and the processor learns
the branches by heart, as it cannot those of a large tensor."""


def with_module_context(target: Target, samples: Sequence[Sample]) -> Target:
    """The target with a factor per kernel that decoders do not have, and with the cost of a call in a module.

    As `study.context` does for decoders; kernels that have a factor from there keep it.
    """
    target = msgspec.structs.replace(target, module_call_s=0.0, module_byte_s=0.0)
    far = msgspec.structs.replace(target, near=None)
    cells = [(s, time) for s in samples if s["probe"] == "module net" and (time := _predicted(far, s))]
    if not cells:
        return msgspec.structs.replace(target, module_call_s=None)
    logs: dict[Key, list[float]] = defaultdict(list)
    for sample, time in cells:
        for key, ratio in in_place(_without_savings(target, sample, time), time.ops).items():
            logs[key].append(float(np.log(ratio)))
    factors = {key: factor_of(values) for key, values in logs.items()}
    call_s, byte_s = _gaps(cells)
    return msgspec.structs.replace(
        target,
        contraction=tuple(
            composed(law, factors.get((law.kind, _kernel(law), law.dtype))) for law in target.contraction
        ),
        pointwise=tuple(
            law
            if law.sigma_composed or law.kind in _LEARNT
            else composed(law, factors.get((law.kind, law.kind, law.dtype)))
            for law in target.pointwise
        ),
        module_call_s=call_s, module_byte_s=byte_s,
    )  # fmt: skip


def _without_savings(target: Target, sample: Sample, time: StepTime) -> dict[str, float]:
    """Seconds of the rows as they were, and what their calls have saved: the factor is of the law, not of the rest."""
    saved = near_seconds(_plan(sample), target, [t.op for t in time.ops])
    rows = dict(sample["ops"])
    for t in time.ops:
        if t.op.name in rows:
            rows[t.op.name] += t.op.count * float(saved.get(code_key(t.op), 0.0))
    return rows


def _gaps(cells: Sequence[tuple[Sample, StepTime]]) -> tuple[float, float]:
    """Seconds per call and per byte of the results, neither negative, from what of each step is in none of its operators:
    least squares of shares of the step, since that is what the noise of both is in proportion to. Networks of which
    fewer than five steps were recorded tell nothing of so small a difference."""
    steady = [(s, t) for s, t in cells if s.get("n_samples", _STEADY) >= _STEADY] or list(cells)
    steps = np.array([float(s["seconds"]) for s, _ in steady])
    gaps = np.array([float(s["seconds"] - sum(s["ops"].values())) for s, _ in steady])
    calls = [float(sum(t.op.count for t in time.ops)) for _, time in steady]
    made = [float(sum(t.op.count * result_bytes(t.op) for t in time.ops)) for _, time in steady]
    call_s, byte_s = fit_nonnegative(np.array([calls, made]).T, gaps, noise=steps)
    return float(call_s), float(byte_s)


_STEADY = 5


def _kernel(law: Any) -> str:
    """Its name in a prediction."""
    if law.kind == "conv":
        return f"conv {law.form}{' channels last' if law.layout else ''}"
    return "" if law.form else "torch.matmul"  # one matrix for all: its few calls in these networks are not like others


def _predicted(target: Target, sample: Sample) -> StepTime | None:
    """None where an operator has no law (a stage cut short)."""
    try:
        return step_time(_plan(sample), target)
    except NotSupported:
        return None


def _plan(sample: Sample) -> Plan:
    traced = msgspec.convert(sample["traced"], Traced)
    return resolve(sample["act"], sample["act"]).plan(traced, forward(sample["batch"], 1))
