"""A training step on paper: forward, both gradients, recomputation, pipeline, optimizer, on machines known from datasheets."""

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from ridgepoint.hardware import Target
from ridgepoint.prediction.latency import step_time
from ridgepoint.prediction.optime import OpTime
from ridgepoint.quantity import Array
from ridgepoint.workload import DTYPE_BYTES, Attention, Linear, Plan, forward

__all__ = ["TrainingStep", "TrainingTime", "training_time"]

Recomputation = Literal["none", "selective", "selective-op", "full"]

_GRADIENT = {"linear": 2.0, "attention": 2.5, "collective": 1.0}
"""Time of both gradients over that of the forward pass, by kind: two products for one; FlashAttention-2's five for two
(arXiv 2307.08691, section 3.1); as many collectives behind (Megatron-LM, arXiv 1909.08053). All else passes twice."""
_OTHER = 2.0
_SCORE_PASSES = (6.0, 8.0)
"""How often the scores of an attention without tiles pass the memory, forward and for the gradients: product, mask and
softmax, dropout, product; and back."""
_STATE_BYTES = 28.0
"""Per parameter and update of AdamW with an fp32 master copy: gradient, copy and two moments read, three written."""


@dataclass(frozen=True, slots=True)
class TrainingStep:
    """`micro_batches` of `micro_batch` sequences of `seq` tokens on each replica; `interleave`: stages of each device."""

    seq: int
    micro_batch: int
    micro_batches: int
    recompute: Recomputation = "none"
    interleave: int = 1
    flash: bool = True
    """Whether attention works in tiles, and so keeps no scores."""


@dataclass(frozen=True, slots=True)
class TrainingTime:
    """Seconds of a step: of the micro-batches one after the other, of the pipeline's bubble and of the optimizer."""

    forward_s: float
    gradients_s: float
    recomputed_s: float
    bubble_s: float
    optimizer_s: float

    @property
    def seconds(self) -> float:
        """All of it."""
        return self.forward_s + self.gradients_s + self.recomputed_s + self.bubble_s + self.optimizer_s


def training_time(plan: Plan, target: Target, step: TrainingStep) -> TrainingTime:
    """One step of one replica; `plan` gives model, dtype and split.

    A pipeline of p stages, each in v parts, idles for (p - 1) / (v m) of the time of m micro-batches (Narayanan et al. 2021,
    arXiv 2104.04473, section 2.2). Recomputation runs again what it does not keep: the layers, or of the attention the
    scores (Korthikanti et al. 2022, arXiv 2205.05198), or half of the matrix products (torchtitan's option "op").
    Ignored: gathering of parameters and reduction of gradients between replicas, which the computation hides; an uneven last
    stage; the host's time.
    """
    split, m = plan.parallel, step.micro_batches
    times = step_time(replace(plan, step=forward(step.micro_batch, step.seq), launch="graph"), target).ops
    scores = _scores_s(plan, target, step)
    ahead = _total(times) + _SCORE_PASSES[0] * scores
    back = sum(_GRADIENT.get(t.op.kind, _OTHER) * _seconds(t) for t in times) + _SCORE_PASSES[1] * scores
    again = _again_s(times, step, _SCORE_PASSES[0] * scores)
    each = 1.0 / split.pp
    bubble = (split.pp - 1) / step.interleave * (ahead + back + again) * each
    held = plan.workload.parameters / (split.tp * split.pp)
    update = _STATE_BYTES * held / target.memory_bytes_per_s()
    return TrainingTime(m * ahead * each, m * back * each, m * again * each, bubble, float(update))


def _seconds(time: OpTime) -> float:
    return float(np.asarray(time.seconds))


def _total(times: tuple[OpTime, ...]) -> float:
    return float(sum(_seconds(t) for t in times))


def _again_s(times: tuple[OpTime, ...], step: TrainingStep, scores: float) -> float:
    layers = [t for t in times if t.op.role not in ("embed", "head")]
    if step.recompute == "full":
        return _total(tuple(layers)) + scores
    if step.recompute == "selective":
        return sum(_seconds(t) for t in layers if isinstance(t.op, Attention)) + scores
    if step.recompute == "selective-op":
        products = sum(_seconds(t) for t in layers if isinstance(t.op, Linear))
        others = sum(
            _seconds(t) for t in layers if not isinstance(t.op, Linear | Attention) and t.op.kind != "collective"
        )
        return 0.5 * products + others
    return 0.0


def _scores_s(plan: Plan, target: Target, step: TrainingStep) -> float:
    """One pass of all layers' scores through memory; 0 with tiles, which keep them on the chip."""
    if step.flash:
        return 0.0
    moved: Array = 0.0
    for op in replace(plan, step=forward(step.micro_batch, step.seq)).ops:
        if isinstance(op, Attention):
            moved = moved + op.count * op.heads * step.micro_batch * step.seq**2 * DTYPE_BYTES[op.dtype]
    return float(np.asarray(moved / target.memory_bytes_per_s()))
