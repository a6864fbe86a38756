"""What a compiler makes of neighbouring pointwise operators: one kernel that keeps what lies between them in registers."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise

import numpy as np

from ridgepoint.quantity import Array
from ridgepoint.workload.format import DTYPE_BYTES
from ridgepoint.workload.op import POINTWISE, Compulsory, Op, Pointwise, Role, Sweep

__all__ = ["Fused", "fused_ops"]


@dataclass(frozen=True, slots=True)
class Fused(Compulsory):
    """`parts` in order, as one kernel: what a part writes the next does not read from memory.

    Nor is it written, unless others read it later: the residual stream, rotated queries and keys. Temporaries that a trace
    has left out of the parts' bytes already are not taken out again.
    """

    parts: tuple[Pointwise, ...]
    kind: str = "fused"

    @property
    def name(self) -> str:
        """Of its parts, where they are more than two of the first and the last."""
        names = [part.name for part in self.parts]
        return "+".join(names) if len(names) < 3 else f"{names[0]}…{names[-1]}"

    @property
    def role(self) -> Role:
        return self.parts[0].role

    @property
    def count(self) -> int:
        return self.parts[0].count

    @property
    def dtype(self) -> str:
        return self.parts[0].dtype

    @property
    def sweep(self) -> Sweep:
        return self.parts[0].sweep

    @property
    def flops(self) -> Array:
        return sum((part.flops for part in self.parts), start=0.0)

    @property
    def weight_bytes(self) -> Array:
        return sum((part.weight_bytes for part in self.parts), start=0.0)

    @property
    def activation_bytes(self) -> Array:
        moved: Array = sum((part.activation_bytes for part in self.parts), start=0.0)
        for part, reader in pairwise(self.parts):
            moved = moved - _spared(part, reader)
        return np.maximum(moved, 0.0)


def _spared(part: Pointwise, reader: Pointwise) -> Array:
    """Bytes of `part`'s output that its reader finds in registers: at most what the two are said to move."""
    if part.role == "rope":  # queries are read by attention, keys by the cache
        return 0.0
    written = DTYPE_BYTES[part.dtype] * POINTWISE[part.kind].writes * part.rows * part.cols
    read = np.minimum(written, reader.activation_bytes)
    return read if part.role == "residual" else read + np.minimum(written, part.activation_bytes)


def fused_ops(ops: Sequence[Op]) -> tuple[Op, ...]:
    """Pointwise operators that follow each other equally often become one; views become nothing.

    Ignored: that the last of a layer fuses with the first of the next, and that a compiler may split a run in two.
    """
    out: list[Op] = []
    for key, group in groupby((op for op in ops if op.kind != "view"), key=_run):
        run = tuple(group)
        out += run if key is None else [Fused(tuple(op for op in run if isinstance(op, Pointwise)))]
    return tuple(out)


def _run(op: Op) -> tuple[int, str, str] | None:
    """What operators of one kernel have in common; None for one that stays as it is."""
    return (op.count, op.dtype, op.sweep) if isinstance(op, Pointwise) else None
