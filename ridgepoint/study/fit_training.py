"""Laws of a training step from the samples of `ridge calibrate --train`."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from ridgepoint.errors import NotSupported
from ridgepoint.hardware import Target
from ridgepoint.hardware.law import prefill_terms
from ridgepoint.hardware.law_training import TrainingLaw, TrainingNet, pass_terms, product_terms
from ridgepoint.hardware.nonnegative import fit_nonnegative
from ridgepoint.prediction.training_step import far_of, far_operands, training_times
from ridgepoint.study.fit import robust_spread
from ridgepoint.study.net import training_net_plan

__all__ = ["with_training"]

Sample = Mapping[str, Any]
Vector = npt.NDArray[np.float64]
_FAR = 0.3
_FAR_TERMS = {"pass": ((3, 2),), "product": ((5, 1), (6, 2))}
"""Terms of what no cache holds, and those of all."""
_MOST_SIGMA = 1.0
_SIGMA_FLOOR, _NET_FLOOR = 0.03, 0.03


def with_training(target: Target, samples: Sequence[Sample], source: str) -> Target:
    """The target with a law per operator, sweep and dtype, and the factor of whole steps; as it is where the stage is not."""
    mine = [s for s in samples if s["probe"] == "training"]
    groups: dict[tuple[str, str, str], list[Sample]] = defaultdict(list)
    for s in mine:
        if s["form"] != "call":
            groups[s["subject"], s["sweep"], s["act"]].append(s)
    laws = [_law(key, group, target, source) for key, group in groups.items()]
    target = msgspec.structs.replace(target, training=tuple(_with_calls(laws, mine)))
    nets = [s for s in samples if s["probe"] == "training net"]
    return msgspec.structs.replace(target, training_nets=_nets(target, nets, source))


def _law(key: tuple[str, str, str], group: Sequence[Sample], target: Target, source: str) -> TrainingLaw:
    """A sum of terms that cannot be negative, fitted to relative errors; sigma from fits that leave a point out."""
    subject, sweep, dtype = key
    matrix = np.stack([_terms(s, target) for s in group])
    for far, near in _FAR_TERMS.get(group[0]["form"], ()):
        if not np.any(matrix[:, far] > _FAR * matrix[:, near]):
            matrix[:, far] = 0.0  # nothing that large was measured
    seconds = np.array([float(s["seconds"]) for s in group])
    errors = []
    for i in range(len(group)):
        rest = np.arange(len(group)) != i
        guess = float(matrix[i] @ fit_nonnegative(matrix[rest], seconds[rest]))
        errors.append(abs(np.log(seconds[i] / guess)) if guess > 0 else 1.0)
    sigma = min(max(_SIGMA_FLOOR, robust_spread(errors)), _MOST_SIGMA)
    terms = tuple(float(c) for c in fit_nonnegative(matrix, seconds))
    return TrainingLaw(
        subject=subject, sweep=sweep, dtype=dtype, form=group[0]["form"], terms=terms, sigma=sigma, source=source
    )


def _terms(s: Sample, target: Target) -> Vector:
    if s["form"] == "product":
        m, n, k = float(s["m"]), float(s["n"]), float(s["k"])
        terms = product_terms(m, n, k, *far_operands(s["act"], m, n, k, target))
    elif s["form"] == "attention":
        tasks, length = s["batch"] * s["heads"], s["length"]
        terms = prefill_terms(tasks, length, tasks * length * (length + 1) / 2, s["head_dim"])
    else:
        terms = pass_terms(s["rows"], s["cols"], far_of(s["subject"], s["act"], s["rows"], s["cols"], target))
    return np.array([float(t) for t in terms])


def _with_calls(laws: Sequence[TrainingLaw], samples: Sequence[Sample]) -> list[TrainingLaw]:
    """peft's own code is part of what an adapter's sum costs a call."""
    extra = {(s["subject"], s["sweep"], s["act"]): float(s["seconds"]) for s in samples if s["form"] == "call"}
    return [
        msgspec.structs.replace(
            law, terms=(law.terms[0] + extra.get((law.subject, law.sweep, law.dtype), 0.0), *law.terms[1:])
        )
        for law in laws
    ]


def _nets(target: Target, samples: Sequence[Sample], source: str) -> tuple[TrainingNet, ...]:
    """By dtype the median over nets and sides of measured over predicted, and the spread around it."""
    logs: dict[str, list[float]] = defaultdict(list)
    for s in samples:
        plan = training_net_plan(s)
        try:
            predicted = sum(float(t.seconds) for t in training_times(plan, target))
        except NotSupported:  # a stage cut short
            continue
        logs[plan.dtype].append(float(np.log(s["seconds"] / predicted)))
    return tuple(
        TrainingNet(
            dtype=dtype, factor=float(np.exp(np.median(values))), source=source,
            sigma=max(_NET_FLOOR, robust_spread(np.asarray(values) - np.median(values))),
        )
        for dtype, values in logs.items()
    )  # fmt: skip
