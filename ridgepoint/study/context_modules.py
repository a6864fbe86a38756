"""What networks beyond decoders add to their operators on their own, from small ones whose calls were timed in place."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import numpy as np

from ridgepoint.choice import resolve
from ridgepoint.errors import NotSupported
from ridgepoint.hardware import Target
from ridgepoint.prediction import StepTime, step_time
from ridgepoint.study.context import Key, composed, factor_of, gap_of, in_place
from ridgepoint.workload import Traced, forward

__all__ = ["with_module_context"]

Sample = Mapping[str, Any]
_LEARNT = ("pool",)
"""Maxima over windows branch on their data; a small network shows the same data again and again, and the processor learns
the branches by heart, as it cannot those of a large tensor."""
_SMALL = 4
"""Items up to which a step is short enough to show what each call costs beyond its operator."""


def with_module_context(target: Target, samples: Sequence[Sample]) -> Target:
    """The target with a factor per kernel that decoders do not have, and with the cost of a call in a module.

    As `study.context` does for decoders; kernels that have a factor from there keep it.
    """
    target = msgspec.structs.replace(target, module_call_s=0.0)
    cells = [(s, time) for s in samples if s["probe"] == "module net" and (time := _predicted(target, s))]
    if not cells:
        return msgspec.structs.replace(target, module_call_s=None)
    logs: dict[Key, list[float]] = defaultdict(list)
    for sample, time in cells:
        for key, ratio in in_place(sample["ops"], time.ops).items():
            logs[key].append(float(np.log(ratio)))
    factors = {key: factor_of(values) for key, values in logs.items()}
    gaps = [gap_of(s, time) for s, time in cells if s["batch"] <= _SMALL]
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
        module_call_s=max(0.0, float(np.median(gaps))),
    )


def _kernel(law: Any) -> str:
    """Its name in a prediction."""
    if law.kind == "conv":
        return f"conv {law.form}{' channels last' if law.layout else ''}"
    return "" if law.form else "torch.matmul"  # one matrix for all: its few calls in these networks are not like others


def _predicted(target: Target, sample: Sample) -> StepTime | None:
    """None where an operator has no law (a stage cut short)."""
    traced = msgspec.convert(sample["traced"], Traced)
    try:
        return step_time(resolve(sample["act"], sample["act"]).plan(traced, forward(sample["batch"], 1)), target)
    except NotSupported:
        return None
