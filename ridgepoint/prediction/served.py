"""How a serving stack runs a plan's operators: projections joined, residuals added inside norms, experts as one kernel."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeGuard

import numpy as np

from ridgepoint.quantity import Array
from ridgepoint.workload import Fused, Linear, Op, Pointwise, Role, Sweep

__all__ = ["Experts", "served_ops"]


@dataclass(frozen=True, slots=True)
class Experts:
    """The routed experts of a layer on one device: the products into them and out of them, in one grouped kernel."""

    into: Linear
    """All products into an expert together, n of both where it is gated."""
    out: Linear
    gated: bool
    name: str = "experts"
    role: Role = "mlp.in"
    kind: str = "moe"

    @property
    def count(self) -> int:
        return self.into.count

    @property
    def dtype(self) -> str:
        return self.into.dtype

    @property
    def sweep(self) -> Sweep:
        return self.into.sweep

    @property
    def weight(self) -> str:
        """Format of the experts' weights."""
        return self.into.weight

    @property
    def flops(self) -> Array:
        return self.into.flops + self.out.flops

    @property
    def weight_bytes(self) -> Array:
        return self.into.weight_bytes + self.out.weight_bytes

    @property
    def activation_bytes(self) -> Array:
        return self.into.activation_bytes + self.out.activation_bytes

    @property
    def kv_bytes(self) -> Array:
        return 0.0

    @property
    def bytes(self) -> Array:
        return self.weight_bytes + self.activation_bytes


def served_ops(ops: Sequence[Op]) -> tuple[Op, ...]:
    """The same work in the kernels that serving stacks launch.

    Queries, keys and values are one product, gate and up are one; the experts of a layer are one grouped kernel, with
    what activates between them; a residual is added by the norm behind it. Ignored: quantisation inside norms and
    activations, and what a stack does between steps (scheduling, sampling, detokenising).
    """
    return tuple(_norms(_experts(_joined(list(ops)))))


_JOINED = (("qkv_proj", ("q_proj", "k_proj", "v_proj")), ("gate_up_proj", ("gate_proj", "up_proj")),
           ("expert_gate_up_proj", ("expert_gate_proj", "expert_up_proj")),
           ("shared_gate_up_proj", ("shared_gate_proj", "shared_up_proj")))  # fmt: skip


def _joined(ops: list[Op]) -> list[Op]:
    """Neighbouring linear layers that read the same input, as one; only forward, where the plan has them apart."""
    out: list[Op] = []
    for op in ops:
        last = out[-1] if out else None
        if isinstance(op, Linear) and isinstance(last, Linear) and _same_input(last, op):
            out[-1] = replace(last, name=_name(last.name, op.name), n=last.n + op.n)
        else:
            out.append(op)
    return out


def _same_input(a: Linear, b: Linear) -> bool:
    alike = (a.role, a.k, a.dtype, a.weight, a.count, a.sweep, a.experts) == (
        b.role, b.k, b.dtype, b.weight, b.count, b.sweep, b.experts,
    )  # fmt: skip
    return alike and a.role in ("attention.in", "mlp.in") and not (a.whole or b.whole) and _parts(a.name, b.name) != ""


def _parts(first: str, second: str) -> str:
    for joined, parts in _JOINED:
        if second.partition("#")[0] in parts and first.partition("#")[0] in (*parts, joined):
            return joined
    return ""


def _name(first: str, second: str) -> str:
    number = second.partition("#")[2]
    return _parts(first, second) + (f"#{number}" if number else "")


def _experts(ops: list[Op]) -> list[Op]:
    out: list[Op] = []
    held: Linear | None = None
    for op in ops:
        if isinstance(op, Linear) and op.experts > 1 and op.sweep == "forward":
            if op.role == "mlp.in":
                held = op
                continue
            if held is not None:
                out.append(Experts(held, op, gated=bool(held.n > 1.5 * op.k)))
                held = None
                continue
        if held is not None and op.role == "mlp.act":
            continue  # inside the grouped kernel
        out.append(op)
    return out


def _norms(ops: list[Op]) -> list[Op]:
    """A residual's addition and the norm behind it, over the same rows, in one kernel.

    Behind a layer's last addition comes the first norm of the next one, which stands before it in the list.
    """
    out: list[Op] = []
    for op in ops:
        last = out[-1] if out else None
        if isinstance(op, Pointwise) and isinstance(last, Pointwise) and _pair(last, op):
            out[-1] = Fused((last, op))
        else:
            out.append(op)
    for add in [op for op in out if isinstance(op, Pointwise) and op.role == "residual"]:
        norm = next((op for op in out if _pair(add, op)), None)
        if isinstance(norm, Pointwise):
            out[out.index(add)] = Fused((add, norm))
            out.remove(norm)
    return out


def _pair(add: Pointwise, norm: Op) -> TypeGuard[Pointwise]:
    return (
        isinstance(norm, Pointwise)
        and (add.role, norm.role) == ("residual", "norm")
        and (add.count, add.sweep, add.dtype) == (norm.count, norm.sweep, norm.dtype)
        and bool(np.all(add.cols == norm.cols) and np.all(add.rows == norm.rows))
    )
