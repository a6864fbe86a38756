"""What the laws of all operators share: the kernel in use with its errors, threads, and tensors beyond the cache."""

from dataclasses import dataclass

from ridgepoint.errors import NotSupported
from ridgepoint.hardware import Target
from ridgepoint.quantity import Array

__all__ = ["GUESSED_SIGMA", "Used", "far_share", "scaling_of"]

GUESSED_SIGMA = 1.0
"""Error of the log of a time that no law stands for: a factor of 3.6 either way holds 80 %."""


@dataclass(frozen=True, slots=True)
class Used:
    """A kernel, the points `where` it is used (1, or 0 and 1 along a sweep), and the relative error of its law.

    `sigma` is the error at one shape, independent of that at another; `common` is the kernel's error in networks as a
    whole, the same for all its operators.
    """

    kernel: str
    sigma: Array
    where: Array = 1.0
    common: float = 0.0


def far_share(moved_bytes: Array, target: Target) -> Array:
    """Share of a call's tensors that comes from or goes to memory: its bytes are the distance between the moment at which
    an element is written and the moment at which it is read again, and the target knows what survives that distance."""
    return 0.0 if target.residency is None else target.residency.miss_share(moved_bytes)


def scaling_of(target: Target, subject: str, m: Array, threads: int) -> Array:
    """Speed-up of `threads` threads over one at m rows; NotSupported where the calibration did not measure it."""
    if threads == 1:
        return 1.0
    for law in target.scaling:
        if law.subject == subject and law.threads == threads:
            return law.at(m)
    known = ", ".join(map(str, sorted({law.threads for law in target.scaling if law.subject == subject} | {1})))
    why = (
        f"; {said}; `ridge calibrate` on an idle machine measures them"
        if (said := target.checks.get("threads"))
        else ""
    )
    raise NotSupported(f"{target.name} is not calibrated for {threads} threads with {subject}, only for {known}{why}")
