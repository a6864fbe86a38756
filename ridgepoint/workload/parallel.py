"""A model spread over several devices: what of each operator is left on one of them, and what they tell each other."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from ridgepoint.errors import BadInput, NotSupported
from ridgepoint.quantity import Array
from ridgepoint.workload.collective import Collective
from ridgepoint.workload.format import DTYPE_BYTES
from ridgepoint.workload.op import Attention, Linear, Op, Pointwise
from ridgepoint.workload.step import Group

__all__ = ["ALONE", "Parallel", "sharded"]


@dataclass(frozen=True, slots=True)
class Parallel:
    """Numbers of devices by what they share: each layer's matrices (`tp`, tensor), the layers (`pp`, pipeline), the experts
    (`ep`), the sequences in attention alone (`attention_dp`)."""

    tp: int = 1
    pp: int = 1
    ep: int = 1
    attention_dp: int = 1

    def __post_init__(self) -> None:
        for name in ("tp", "pp", "ep", "attention_dp"):
            value = getattr(self, name)
            if not 1 <= value <= 4096:
                raise BadInput(f"--{name.replace('_', '-')} is {value}; possible are 1 to 4096 devices")
        if self.attention_dp > 1 and self.tp > 1 and self.tp % self.attention_dp:
            raise BadInput(f"attention over {self.attention_dp} groups needs tp {self.tp} to be a multiple of it")

    @property
    def devices(self) -> int:
        """Devices that hold one copy of the model; experts and attention are spread over the same ones."""
        return max(self.tp, self.ep, self.attention_dp) * self.pp

    @property
    def attention_tp(self) -> int:
        """Devices that share one sequence's heads."""
        return max(1, self.tp // self.attention_dp)

    def __str__(self) -> str:
        named = (("tp", self.tp), ("pp", self.pp), ("ep", self.ep), ("dp", self.attention_dp))
        return "+".join(f"{name}:{n}" for name, n in named if n > 1)


ALONE = Parallel()
"""One device."""


def sharded(ops: tuple[Op, ...], parallel: Parallel) -> tuple[Op, ...]:
    """The operators of one device of each group, and the collectives between them.

    Matrices split by columns into a layer and by rows out of it, with an all-reduce behind each (Shoeybi et al. 2019,
    Megatron-LM, arXiv 1909.08053, section 3); the head by its vocabulary, with an all-gather of its logits. Experts
    split by `ep`, with an all-to-all before and behind them. Key and value heads that cannot be split are repeated.
    A pipeline's stages follow one another: operators stay as they are, `pp` - 1 transfers are added.
    Norms and residuals run on every device. Ignored: uneven last shards beyond rounding up.
    """
    if parallel == ALONE:
        return ops
    _check(ops, parallel)
    out = list(_between(ops, parallel))
    if parallel.pp > 1:
        out.append(_stage_transfer(ops, parallel))
    return tuple(out)


def _check(ops: tuple[Op, ...], parallel: Parallel) -> None:
    layers = max(sum(op.count for op in ops if isinstance(op, Attention)), 1)
    experts = max((op.experts for op in ops if isinstance(op, Linear)), default=1)
    if parallel.pp > layers:
        raise NotSupported(f"a pipeline of {parallel.pp} stages needs as many layers; the model has {layers}")
    if parallel.ep > 1 and (experts == 1 or experts % parallel.ep):
        have = (
            f"{experts} experts do not split over {parallel.ep}" if experts > 1 else "the model has no routed experts"
        )
        raise NotSupported(f"--ep {parallel.ep}: {have}; a divisor of their number does")
    if parallel.attention_dp > max(parallel.tp, parallel.ep):
        raise NotSupported(
            f"attention over {parallel.attention_dp} groups needs as many devices: --tp or --ep of at least that"
        )


def _between(ops: tuple[Op, ...], parallel: Parallel) -> Iterator[Op]:
    routed = [op for op in ops if isinstance(op, Linear) and op.experts > 1]
    for op in ops:
        yield _shard(op, parallel)
        if isinstance(op, Linear):
            yield from _behind(op, parallel, routed)


def _behind(op: Linear, parallel: Parallel, routed: list[Linear]) -> Iterator[Op]:
    tp = parallel.attention_tp if op.role.startswith("attention") else parallel.tp
    payload = DTYPE_BYTES[op.dtype] * op.m * op.n
    if op.role in ("attention.out", "mlp.out") and op.experts == 1 and tp > 1:
        yield Collective(f"{op.name}_all_reduce", "all_reduce", payload, tp, op.dtype, op.count)
    elif routed and op is routed[-1]:
        if parallel.ep > 1:
            yield Collective(
                f"{op.name}_all_to_all", "alltoall", payload / parallel.ep, parallel.ep, op.dtype, 2 * op.count
            )
        if parallel.tp > 1 and parallel.ep == 1:
            yield Collective(
                f"{op.name}_all_reduce", "all_reduce", payload / op.chosen, parallel.tp, op.dtype, op.count
            )
    elif op.role == "head" and parallel.tp > 1:
        yield Collective("logits_all_gather", "all_gather", payload / parallel.tp, parallel.tp, op.dtype, op.count)


def _shard(op: Op, parallel: Parallel) -> Op:
    if isinstance(op, Linear):
        return _shard_linear(op, parallel)
    if isinstance(op, Attention):
        return _shard_attention(op, parallel)
    if isinstance(op, Pointwise) and (op.role in ("mlp.act", "rope", "cache") or op.name in ("q_norm", "k_norm")):
        tp = parallel.tp if op.role == "mlp.act" else parallel.attention_tp
        if op.role == "norm":
            return replace(op, rows=op.rows / tp)
        return replace(op, cols=np.ceil(np.asarray(op.cols, float) / tp)[()])
    return op


def _shard_linear(op: Linear, parallel: Parallel) -> Linear:
    if op.experts > 1:
        tp = parallel.tp if parallel.ep == 1 else 1
        experts, active = max(1, op.experts // parallel.ep), np.minimum(op.active, op.experts)
        op = replace(op, experts=experts, active=np.maximum(active / parallel.ep, 1.0), m=op.m / parallel.ep)
    else:
        tp = parallel.attention_tp if op.role.startswith("attention") else parallel.tp
        op = replace(op, m=op.m / parallel.attention_dp) if op.role.startswith("attention") else op
    if op.whole:
        return op
    if op.role in ("attention.in", "mlp.in", "head"):
        return replace(op, n=_split(op, op.n, tp))
    return replace(op, k=_split(op, op.k, tp)) if op.role in ("attention.out", "mlp.out") else op


def _split(op: Linear, size: Array, parts: int) -> Array:
    if parts > 1 and np.any(np.asarray(size) < parts):
        raise NotSupported(f"{op.name} has {size} rows or columns, which {parts} devices cannot share")
    return np.ceil(np.asarray(size, float) / parts)[()] if parts > 1 else size


def _shard_attention(op: Attention, parallel: Parallel) -> Attention:
    tp = parallel.attention_tp
    if op.heads % tp:
        raise NotSupported(f"{op.heads} attention heads do not split over {tp} devices; a divisor does")
    groups = tuple(Group(g.count / parallel.attention_dp, g.new, g.cached) for g in op.groups)
    return replace(op, heads=op.heads // tp, kv_heads=max(1, op.kv_heads // tp), groups=groups)


def _stage_transfer(ops: tuple[Op, ...], parallel: Parallel) -> Collective:
    last = next(op for op in reversed(ops) if isinstance(op, Linear) and op.role != "head")
    payload = DTYPE_BYTES[last.dtype] * last.m * last.n
    return Collective("stage_send", "send_recv", payload, 2, last.dtype, parallel.pp - 1)
