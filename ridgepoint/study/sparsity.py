"""Sparsity on paper: how much of the linear layers is zero, how much of it a kernel skips, how much is gone for good."""

from typing import cast

from ridgepoint.choice import Side
from ridgepoint.choice.sparse import Sparse
from ridgepoint.workload import Decoder, Linear, Plan, Workload, format_named

__all__ = ["family_of", "sparsity_card"]

_AXES = ("sparsity", "channels", "heads", "depth")


def sparsity_card(side: Side, workload: Workload, plan: Plan) -> dict[str, float]:
    """`zeros` (present) and `skipped` (exploited): shares of the weights of linear layers without the head; `removed`: share
    of all parameters. {} for a side that takes nothing away. `plan` is of the side, `workload` the model as it was given."""
    if not any(c.AXIS in _AXES and c.spelled != "dense" for c in side.choices):
        return {}
    card = {"removed": 1.0 - plan.workload.parameters / workload.parameters}
    choices = _sparse(side)
    if not choices:
        return card
    linears = [op for op in plan.ops if isinstance(op, Linear) and not op.fixed and op.role != "head"]
    total = sum(_weights(op) for op in linears)
    zeros = sum(c.zeros * _weights(op) * _share_meant(c, op, plan) for op in linears for c in choices)
    skipped = sum((1.0 - format_named(op.weight).density) * _weights(op) for op in linears)
    return {**card, "asked": choices[0].zeros, "zeros": zeros / total, "skipped": skipped / total}


def family_of(side: Side) -> str:
    """What sides that store only what is not zero share when they differ in their sparsity alone; "" for others."""
    choices = _sparse(side)
    if len(choices) != 1 or choices[0].rung != "csr":
        return ""
    words = []
    for choice in side.choices:
        if isinstance(choice, Sparse):
            words.append(choice.spelled.replace(choice.sparsity, "s", 1))
        elif choice.AXIS != "dtype" and choice.spelled != "threads:1":
            words.append(choice.spelled)
    return "+".join(words)


def _sparse(side: Side) -> list[Sparse]:
    """The choices that set weights to zero, each for layers of its own."""
    return [c for c in side.choices if isinstance(c, Sparse)]


def _weights(op: Linear) -> float:
    return float(op.count * op.experts * op.n * op.k)


def _share_meant(choice: Sparse, op: Linear, plan: Plan) -> float:
    """Share of a row's layers that the choice is for."""
    if not choice.scope.takes(op):
        return 0.0
    if choice.scope.whole:
        return 1.0
    here = op.layers or cast(Decoder, plan.workload).layers_of_row(op.name)
    return len(choice.scope.inside(frozenset(here))) / len(here)
