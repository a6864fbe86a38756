"""The time of operators, and what of it is arithmetic, memory and what neither shortens."""

from dataclasses import dataclass

import numpy as np

from ridgepoint.quantity import Array
from ridgepoint.result import Bound

__all__ = ["PhysicalTime"]


@dataclass(frozen=True, slots=True)
class PhysicalTime:
    """Seconds of an operator, arrays where the shapes are arrays.

    The parts say what bounds it; they overlap, so they need not add up to `seconds`.
    """

    seconds: Array
    compute_s: Array
    memory_s: Array
    fixed_s: Array
    """Launch, latency of the first loads, tail: what a smaller operator pays too."""

    def bound(self) -> Bound:
        """The largest part (scalars only)."""
        parts: tuple[tuple[float, Bound], ...] = (
            (float(self.compute_s), "compute"), (float(self.memory_s), "memory"), (float(self.fixed_s), "dispatch"),
        )  # fmt: skip
        return max(parts)[1]

    def shares(self) -> tuple[Array, Array, Array]:
        """Share of each part in their sum: compute, memory, fixed."""
        total = np.asarray(self.compute_s) + self.memory_s + self.fixed_s
        return self.compute_s / total, self.memory_s / total, self.fixed_s / total
