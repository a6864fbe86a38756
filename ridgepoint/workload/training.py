"""A training step on paper: the forward operators, their gradients, and the optimizer's update."""

from dataclasses import replace

from ridgepoint.workload.collective import Collective
from ridgepoint.workload.op import Attention, Linear, Op, Pointwise

__all__ = ["training_ops"]


def training_ops(forward: tuple[Op, ...], parameters: int) -> tuple[Op, ...]:
    """Forward, then gradients of inputs and weights in reverse order, then AdamW over all parameters in fp32.

    Each linear costs two more products of its own size: dX[m, k] = dY W and dW[n, k] = dYᵀ X. A
    pointwise operator's gradient is taken as two of the forward's calls.
    Ignored: gradient clipping, dropout, loss scaling, recomputation.
    """
    gradients = tuple(g for op in reversed(forward) for g in _gradients(op))
    update = Pointwise("adamw", "optimizer", "adamw", 1, parameters, "fp32", sweep="update")
    return (*forward, *gradients, update)


def _gradients(op: Op) -> tuple[Op, ...]:
    if isinstance(op, Linear):
        return (
            replace(op, name=f"{op.name}.dx", n=op.k, k=op.n, bias=False, sweep="grad_input"),
            replace(
                op, name=f"{op.name}.dw", m=op.n, n=op.k, k=op.m, weight=op.dtype, kernel="", bias=False,
                sweep="grad_weight",
            ),
        )  # fmt: skip
    if isinstance(op, Attention | Collective):
        return (replace(op, name=f"{op.name}.grad", sweep="grad_input"),)
    assert isinstance(op, Pointwise), f"no gradient rule for {op}"
    return (replace(op, name=f"{op.name}.grad", count=2 * op.count, sweep="grad_input"),)
