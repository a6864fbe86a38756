"""Time of one operator on a calibrated target, by the law of its kernel, with what bounds it."""

from dataclasses import dataclass, replace

import numpy as np

from ridgepoint.errors import NotSupported
from ridgepoint.hardware import LinearLaw, Target
from ridgepoint.hardware.law import block_pairs, decode_terms, prefill_terms
from ridgepoint.prediction.compiled import fused_time
from ridgepoint.prediction.contraction import contraction_time
from ridgepoint.prediction.kv_cache import PASS_SIGMA, PASSES, passes_seconds
from ridgepoint.prediction.physics.optime import PhysicalTime
from ridgepoint.prediction.used import GUESSED_SIGMA, Used, far_share, scaling_of
from ridgepoint.quantity import Array
from ridgepoint.workload import (
    LAST_KINDS,
    Attention,
    Conv,
    Fused,
    Linear,
    Matmul,
    Op,
    Pointwise,
    format_named,
    ladder_named,
)

__all__ = ["OpTime", "op_time"]


@dataclass(frozen=True, slots=True)
class OpTime:
    """Seconds of all `count` calls of `op` (scalar or array) by the laws of its kernels.

    A point has one kernel; of a sweep each point has its own, and `kernel` names them all.
    """

    op: Op
    seconds: Array
    laws: tuple[Used, ...]
    physical: PhysicalTime | None = None
    """Of one call, where a time model of datasheets gave it; None where a calibrated law did."""
    fitted_on: tuple[str, ...] = ()
    """Other machines than the target, on which the time model's parameters were fitted; () where it was this one."""

    @property
    def kernel(self) -> str:
        return " / ".join(law.kernel for law in self.laws)

    @property
    def sigma(self) -> Array:
        """Relative error of the law in use."""
        return sum((law.where * np.hypot(law.sigma, law.common)[()] for law in self.laws), start=0.0)


def op_time(op: Op, target: Target, miss: Array, code_miss: Array, threads: int, per_call_s: Array = 0.0) -> OpTime:
    """Time by the law for the operator's kind.

    `miss`: share of the step's bytes that is not in the cache; `code_miss`: share of the operator's own code and
    constants that has left it since the operator's last call; `per_call_s`: what the network adds to each call, or saves.
    """
    if isinstance(op, Linear):
        seconds, laws = _linear(op, target, miss, code_miss, threads)
    elif isinstance(op, Attention):
        seconds, laws = _attention(op, target, code_miss, threads)
    elif isinstance(op, Conv | Matmul):
        seconds, laws = contraction_time(op, target, threads)
    elif isinstance(op, Fused):
        seconds, laws = fused_time(op, target, threads)
        per_call_s = 0.0  # nobody but the compiled step calls it
    else:
        assert isinstance(op, Pointwise), f"no law for {op}"
        seconds, laws = _pointwise(op, target, code_miss, threads)
    return OpTime(op, op.count * np.maximum(seconds + per_call_s, _LEAST_LEFT * seconds), laws)


_LEAST_LEFT = 0.2
"""Of an operator's own time, whatever is saved: savings are measured on the smallest of data."""


def _linear(op: Linear, target: Target, miss: Array, code_miss: Array, threads: int) -> tuple[Array, tuple[Used, ...]]:
    if op.kernel == "emulated":
        raise NotSupported(
            f"{op.weight} is emulated here: its loss can be measured, its time means nothing; --on names a GPU that has it, "
            f"beside --text FILE or --tol for its loss"
        )
    fitting = [law for law in target.linear_laws(op.weight) if _fits(law, op)]
    laws = [law for law in fitting if not (np.any(op.n % law.n_multiple) or np.any(op.k % law.k_multiple))]
    if fitting and not laws:
        takes = "; ".join(f"{law.kernel} takes n x {law.n_multiple}, k x {law.k_multiple}" for law in fitting)
        raise NotSupported(f"{op.name} is {op.n} x {op.k}: no kernel for {op.weight} takes it ({takes})")
    if not laws:
        have = sorted({law.format for law in target.linear if law.act == op.dtype})
        what = f"{op.weight}{':' + op.kernel if op.kernel else ''} with {op.dtype} activations"
        stage = "ort" if op.kernel == "ort" else "sparse" if ladder_named(op.weight) == "csr" else ""
        more = f"; `ridge calibrate --{stage}` adds it" if stage and target.kind == "cpu" else ""
        raise NotSupported(
            f"{target.name} has no kernel for {what}; with {op.dtype} it has {', '.join(have) or 'none'}{more}"
        )
    rows = op.m / op.active  # of a mixture: a call per expert that is chosen, with its share of the rows
    density = format_named(op.weight).density
    times = [
        op.active
        * law.seconds(rows, op.n, op.k, miss, code_miss, density)
        / scaling_of(target, law.kernel, rows, threads)
        for law in laws
    ]
    table = np.stack(np.broadcast_arrays(*times))
    fastest = np.argmin(table, axis=0)
    used = tuple(
        Used(law.kernel, law.sigma, np.where(fastest == i, 1.0, 0.0), law.sigma_composed)
        for i, law in enumerate(laws)
        if (fastest == i).any()
    )
    return np.min(table, axis=0), used


def _fits(law: LinearLaw, op: Linear) -> bool:
    if law.act != op.dtype:
        return False
    return law.rung == op.kernel if op.kernel else law.rung not in _ONLY_BY_NAME


_ONLY_BY_NAME = ("ort",)
"""Kernels of another framework: nobody gets them who did not ask for it."""


def _attention(op: Attention, target: Target, code_miss: Array, threads: int) -> tuple[Array, tuple[Used, ...]]:
    wanted = op.kernel or "flash"
    if wanted == "flex" and all(np.all(np.asarray(g.new) <= 1) for g in op.groups):
        wanted = "flash"  # a single new token has no block to skip
    law = next((x for x in target.attention if x.kernel == wanted and x.dtype == op.dtype), None)
    if law is None:
        have = sorted({f"{x.kernel} {x.dtype}" for x in target.attention})
        more = "; `ridge calibrate --compile` adds it" if wanted == "flex" and target.kind == "cpu" else ""
        raise NotSupported(
            f"{target.name} has no {wanted} attention for {op.dtype}; it has {', '.join(have) or 'none'}{more}"
        )
    seconds: Array = 0.0
    width = (op.head_dim + (op.value_dim or op.head_dim)) / 2
    for g in op.groups:
        tasks = g.count * op.heads
        decode = sum(
            c * t
            for c, t in zip(law.decode, decode_terms(tasks, g.keys(op.window), width, op.kv_elements(g)), strict=True)
        )
        pairs = op.pairs(g) * op.heads
        if wanted == "flex":
            pairs = g.count * block_pairs(g.new, g.context, op.window) * op.heads
        prefill = sum(c * t for c, t in zip(law.prefill, prefill_terms(tasks, g.new, pairs, width), strict=True))
        seconds = seconds + np.where(np.asarray(g.new) <= 1, decode, prefill)
    factor = 1.0 if op.sweep in ("forward", "recompute") else 2.5
    seconds = law.composed * (seconds + code_miss * law.cold_code_s)
    seconds = factor * seconds / scaling_of(target, "attention", op.groups[0].count, threads)
    return seconds, (Used(law.kernel, law.sigma, 1.0, law.sigma_composed),)


def _pointwise(op: Pointwise, target: Target, code_miss: Array, threads: int) -> tuple[Array, tuple[Used, ...]]:
    """By its law; a kind that no calibration measures by its bytes, with a wide error."""
    if op.kind == "adapter_add":  # scaled and added: two passes of the same kind
        seconds, laws = _pointwise(replace(op, kind="add"), target, code_miss, threads)
        return 2.0 * seconds, laws
    wanted = "add" if op.kind == "pass" else op.kind
    law = next((x for x in target.pointwise if x.kind == wanted and x.dtype == op.dtype), None)
    if law is None and op.kind in _BY_BYTES:
        return op.bytes / target.memory_bytes_per_s(), (Used("bytes / bandwidth", _UNMEASURED_SIGMA),)
    if law is None and op.kind in PASSES:
        seconds = passes_seconds(op, target, code_miss) / scaling_of(target, "pointwise", op.rows, threads)
        return seconds, (Used(f"{op.kind} by its passes", PASS_SIGMA),)
    if law is None:
        have = sorted({x.dtype for x in target.pointwise if x.kind == wanted})
        if not target.contraction and op.kind in _OF_MODULES:
            raise NotSupported(f"{target.name} knows decoders only, not {op.kind}; `ridge calibrate --modules` adds it")
        if not have and op.kind in _OF_MODULES:
            raise NotSupported(f"{target.name} knows no {op.kind} yet; `ridge calibrate --modules` adds it")
        instead = f"{', '.join(have)}; name one, as in --with {have[0]}" if have else "none"
        raise NotSupported(f"{target.name} has no {op.kind} for {op.dtype}; it has {instead}")
    far = far_share(op.traffic_bytes, target) if law.far_element_s else 0.0
    seconds = law.seconds(op.rows, op.cols, code_miss, far) / scaling_of(target, "pointwise", op.rows, threads)
    if op.kind == "pass":
        return seconds, (Used("a pass over its tensors", law.sigma, 1.0, GUESSED_SIGMA),)
    return seconds, (Used(op.kind, law.sigma, 1.0, law.sigma_composed),)


_BY_BYTES = frozenset({"adamw", "cross_entropy", "norm_weight", "recompute_hooks", "route"})
"""Of mixtures of experts, which are on paper only, and of training where its own laws were not measured."""
_OF_MODULES = frozenset(
    ("softmax", "gelu_erf", "sigmoid", "reduce", "pool", "avg_pool", "copy", "transpose", "view", "batch_norm", "group_norm",
     "instance_norm")
).union(LAST_KINDS)  # fmt: skip
_UNMEASURED_SIGMA = 0.3
