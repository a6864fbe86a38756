"""Low-rank adapters beside linear layers (LoRA, Hu et al. 2021, arXiv 2106.09685), written out as operators."""

from collections.abc import Iterable
from dataclasses import replace

import numpy as np

from ridgepoint.workload.op import Linear, Op, Pointwise

__all__ = ["adapted", "bare", "rank_parameters", "thin"]


def adapted(ops: Iterable[Op]) -> tuple[Op, ...]:
    """Each linear layer with a `rank` as y = x Wᵀ + s (x Aᵀ) Bᵀ: the layer, two thin products and the sum of both ways.

    With several adapters in one batch each row meets one of them: FLOPs stay, and the weights of as many adapters are read
    as there are, or rows where they are fewer (S-LoRA, Sheng et al. 2023, arXiv 2311.03285, section 5; Punica, Chen et al.
    2023, arXiv 2310.18547: segmented gather matrix-vector products). Ignored: how adapters come from the host's memory.
    """
    out: list[Op] = []
    for op in ops:
        if isinstance(op, Linear) and op.rank:
            down, up, add = thin(op)
            out += [bare(op), down, up, add]
        else:
            out.append(bare(op))
    return tuple(out)


def bare(op: Op) -> Op:
    """The operator without what only says how it is trained, so that equal work compares equal."""
    if isinstance(op, Linear):
        return op if op.trained and not op.rank else replace(op, trained=True, rank=0, adapters=1)
    return replace(op, trained=True) if isinstance(op, Pointwise) and not op.trained else op


def thin(op: Linear) -> tuple[Linear, Linear, Pointwise]:
    """A[r, k] and B[n, r] in the activations' dtype, and y + s z."""
    reached = (
        np.minimum(op.m, op.adapters)[()] if op.adapters > 1 else 1.0
    )  # every row brings its own, up to all of them
    plain = replace(
        op, weight=op.dtype, kernel="", bias=False, fixed=True, trained=True, rank=0, adapters=1, active=reached
    )
    down = replace(plain, name=f"{op.name}.lora_a", role="adapter", n=op.rank)
    up = replace(plain, name=f"{op.name}.lora_b", role="adapter", k=op.rank)
    kind = "adapter_add_copy" if op.weight == "nf4" else "adapter_add"
    return down, up, Pointwise(f"{op.name}.lora_add", "adapter", kind, op.m, op.n, op.dtype, op.count)


def rank_parameters(ops: Iterable[Op]) -> float:
    """Elements of all adapters: r (n + k) a layer and adapter."""
    return sum(float(op.count * op.adapters * op.rank * (op.n + op.k)) for op in ops if isinstance(op, Linear))
