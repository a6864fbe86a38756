"""Time of one operator on a calibrated target, by the law of its kernel, with what bounds it."""

from dataclasses import dataclass

import numpy as np

from ridgepoint.errors import NotSupported
from ridgepoint.hardware import LinearLaw, Target
from ridgepoint.hardware.law import decode_terms, prefill_terms
from ridgepoint.quantity import Array
from ridgepoint.workload import Attention, Linear, Op, Pointwise

__all__ = ["OpTime", "op_time"]


@dataclass(frozen=True, slots=True)
class OpTime:
    """Seconds of all `count` calls of `op` (scalar or array), relative error `sigma` of its law, and its kernel."""

    op: Op
    kernel: str
    seconds: Array
    sigma: float


def op_time(op: Op, target: Target, miss: Array, threads: int) -> OpTime:
    """Time by the law for the operator's kind; `miss` is the share of the step's bytes that is not in the cache."""
    per_call = target.correction.per_call_s if target.correction else 0.0
    if isinstance(op, Linear):
        kernel, seconds, sigma = _linear(op, target, miss, threads)
    elif isinstance(op, Attention):
        kernel, seconds, sigma = _attention(op, target, threads)
    else:
        assert isinstance(op, Pointwise), f"no law for {op}"
        kernel, seconds, sigma = _pointwise(op, target, threads)
    return OpTime(op, kernel, op.count * (seconds + per_call), sigma)


def _linear(op: Linear, target: Target, miss: Array, threads: int) -> tuple[str, Array, float]:
    laws = [law for law in target.linear_laws(op.weight) if _fits(law, op)]
    if not laws:
        have = sorted({law.format for law in target.linear if law.act == op.dtype})
        what = f"{op.weight}{':' + op.kernel if op.kernel else ''} with {op.dtype} activations"
        raise NotSupported(
            f"{target.name} has no kernel for {what}; with {op.dtype} it has {', '.join(have) or 'none'}"
        )
    times = [law.seconds(op.m, op.n, op.k, miss) / _scaling(target, law.kernel, op.m, threads) for law in laws]
    best = min(range(len(laws)), key=lambda i: float(np.sum(times[i])))
    law = laws[best]
    return law.kernel, times[best], float(np.hypot(law.sigma, law.sigma_composed))


def _fits(law: LinearLaw, op: Linear) -> bool:
    if law.act != op.dtype:
        return False
    return law.rung == op.kernel if op.kernel else True


def _attention(op: Attention, target: Target, threads: int) -> tuple[str, Array, float]:
    wanted = op.kernel or "flash"
    law = next((x for x in target.attention if x.kernel == wanted and x.dtype == op.dtype), None)
    if law is None:
        have = sorted({f"{x.kernel} {x.dtype}" for x in target.attention})
        raise NotSupported(
            f"{target.name} has no {wanted} attention for {op.dtype}; it has {', '.join(have) or 'none'}"
        )
    seconds: Array = 0.0
    for g in op.groups:
        tasks = g.count * op.heads
        decode = sum(
            c * t for c, t in zip(law.decode, decode_terms(tasks, g.context, op.head_dim, _kv(op, g)), strict=True)
        )
        pairs = g.attended * op.heads
        prefill = sum(c * t for c, t in zip(law.prefill, prefill_terms(tasks, g.new, pairs, op.head_dim), strict=True))
        seconds = seconds + np.where(np.asarray(g.new) <= 1, decode, prefill)
    factor = 1.0 if op.sweep == "forward" else 2.5
    return law.kernel, factor * seconds / _scaling(target, "attention", op.groups[0].count, threads), law.sigma


def _kv(op: Attention, group) -> Array:  # type: ignore[no-untyped-def]
    return 2.0 * group.count * group.context * op.kv_heads * op.head_dim


def _pointwise(op: Pointwise, target: Target, threads: int) -> tuple[str, Array, float]:
    law = next((x for x in target.pointwise if x.kind == op.kind and x.dtype == op.dtype), None)
    if law is None:
        have = sorted({x.kind for x in target.pointwise if x.dtype == op.dtype})
        raise NotSupported(f"{target.name} has no time for {op.kind} in {op.dtype}; it has {', '.join(have) or 'none'}")
    return op.kind, law.seconds(op.rows, op.cols) / _scaling(target, "pointwise", op.rows, threads), law.sigma


def _scaling(target: Target, subject: str, m: Array, threads: int) -> Array:
    if threads == 1:
        return 1.0
    for law in target.scaling:
        if law.subject == subject and law.threads == threads:
            return law.at(m)
    known = sorted({law.threads for law in target.scaling} | {1})
    raise NotSupported(f"{target.name} is not calibrated for {threads} threads with {subject}; it is for {known}")
