"""What a network adds to its operators on their own, from composed calibration nets whose operators were timed in place."""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec
import numpy as np

from ridgepoint.errors import NotSupported
from ridgepoint.hardware import Correction, Target
from ridgepoint.prediction import StepTime, step_time
from ridgepoint.prediction.optime import OpTime
from ridgepoint.study.fit import robust_spread
from ridgepoint.study.net import net_plan
from ridgepoint.workload import Linear

__all__ = ["Key", "composed", "factor_of", "gap_of", "in_place", "with_context"]

Sample = Mapping[str, Any]
Key = tuple[str, str, str]
"""Kind of operator, kernel, dtype."""
_CLIP = (0.6, 2.5)
_FEW_ROWS = 4
_RESIDUAL_FLOOR = 0.03
_SIGMA_FLOOR = 0.02
_OWN = (":ort", ":csr")
"""Sides whose networks tell of their own kernels alone."""


def with_context(target: Target, samples: Sequence[Sample], source: str) -> Target:
    """The target with a factor per kernel and a cost per call.

    factor = median over nets and steps of (its operators in place / by its law); cost per call = median of (step - all
    its operators) / calls at few rows, where a step is short enough to show it. Samples without operators: as is.
    """
    cells = [(s, time) for s in samples if s["probe"] == "composed" and "ops" in s and (time := _predicted(target, s))]
    if not cells:
        return target
    logs: dict[Key, list[float]] = defaultdict(list)
    for sample, time in cells:
        for key, ratio in _ratios(sample, time).items():
            logs[key].append(float(np.log(ratio)))
    factors = {key: factor_of(values) for key, values in logs.items()}
    target = _with_factors(target, factors)
    cells = [(s, time) for s, time in cells if not any(word in s["side"] for word in _OWN)]
    gaps = [gap_of(s, time) for s, time in cells if s["batch"] * s.get("new", 1) <= _FEW_ROWS]
    correction = Correction(per_call_s=max(0.0, float(np.median(gaps or [0.0]))), sigma=_RESIDUAL_FLOOR, source=source)
    target = msgspec.structs.replace(target, correction=correction)
    return msgspec.structs.replace(
        target, correction=msgspec.structs.replace(correction, sigma=_residual(target, [s for s, _ in cells]))
    )


def _residual(target: Target, samples: Sequence[Sample]) -> float:
    """Error of whole steps beyond what the laws' own errors explain, so that none is counted twice."""
    times = [_known(target, s) for s in samples]
    spread = robust_spread(
        [float(np.log(s["seconds"] / float(t.seconds))) for s, t in zip(samples, times, strict=True)]
    )
    explained = float(np.median([float(t.sigma) ** 2 - t.residual_sigma**2 for t in times]))
    return float(np.sqrt(max(_RESIDUAL_FLOOR**2, spread**2 - explained)))


def _known(target: Target, sample: Sample) -> StepTime:
    """By the kernels that ran: the packed ones, also where another would be faster."""
    laws = tuple(law for law in target.linear if law.rung != "naive")
    return step_time(net_plan(sample), msgspec.structs.replace(target, linear=laws))


def _predicted(target: Target, sample: Sample) -> StepTime | None:
    """None where an operator has no law (a stage cut short)."""
    try:
        return _known(target, sample)
    except NotSupported:
        return None


def _ratios(sample: Sample, time: StepTime) -> dict[Key, float]:
    """Measured in place over predicted, for all operators of a kernel together. A quantised net's head is left out:
    it is the only one of its kernel and once a step."""
    side = next((t.op.weight for t in time.ops if isinstance(t.op, Linear) and t.op.weight != t.op.dtype), "")
    kept = [t for t in time.ops if not (isinstance(t.op, Linear) and side and t.op.weight != side)]
    return in_place(sample["ops"], kept)


def in_place(measured_s: Mapping[str, float], times: Sequence[OpTime]) -> dict[Key, float]:
    """For each kernel its operators as measured in a network over what its law says of them together."""
    sums: dict[Key, list[float]] = defaultdict(lambda: [0.0, 0.0])
    for t in times:
        if t.op.name in measured_s and float(t.seconds) > 0:
            pair = sums[_key(t)]
            pair[0] += measured_s[t.op.name]
            pair[1] += float(t.seconds)
    return {key: measured / predicted for key, (measured, predicted) in sums.items() if measured > 0}


def _key(t: OpTime) -> Key:
    return t.op.kind, t.kernel, t.op.dtype


def factor_of(logs: Sequence[float]) -> tuple[float, float]:
    """Factor of a kernel and its error: median and spread of the log ratios, the median drawn towards 1 where few cells
    stand behind it."""
    trust = len(logs) / (len(logs) + 1.0)
    factor = float(np.clip(np.exp(trust * np.median(logs)), *_CLIP))
    return factor, max(_SIGMA_FLOOR, robust_spread(np.asarray(logs) - np.log(factor)))


def gap_of(sample: Sample, time: StepTime) -> float:
    """Seconds per call of a step that its operators do not account for."""
    return (sample["seconds"] - sum(sample["ops"].values())) / sum(t.op.count for t in time.ops)


def composed(law: Any, factor: tuple[float, float] | None) -> Any:
    """The law with its factor inside a network and that factor's error, where there is one."""
    return msgspec.structs.replace(law, composed=factor[0], sigma_composed=factor[1]) if factor else law


def _with_factors(target: Target, factors: Mapping[Key, tuple[float, float]]) -> Target:
    """Sparse rows, which were scaled to the speed of the dense kernel's law, take what is added to that."""
    dense = next((x.kernel for x in target.linear if (x.format, x.act, x.rung) == ("fp32", "fp32", "dense")), "")

    def scaled(laws: Sequence[Any], key: Callable[[Any], Key]) -> tuple[Any, ...]:
        return tuple(composed(law, factors.get(key(law))) for law in laws)

    return msgspec.structs.replace(
        target,
        linear=scaled(target.linear, lambda law: ("linear", dense if law.format == "csr" else law.kernel, law.act)),
        attention=scaled(target.attention, lambda law: ("attention", law.kernel, law.dtype)),
        pointwise=scaled(target.pointwise, lambda law: (law.kind, law.kind, law.dtype)),
    )
