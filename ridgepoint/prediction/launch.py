"""Host time of a step on a GPU: what Python needs to launch its operators one by one."""

from collections.abc import Sequence

from ridgepoint.hardware import Target
from ridgepoint.prediction.optime import OpTime
from ridgepoint.quantity import Array
from ridgepoint.workload import Attention, Linear

__all__ = ["BETWEEN", "host_seconds", "launch_seconds"]

BETWEEN = "between"
"""Subject of what a network's own Python (views, calls of parents) adds per operator call."""
_UNSURE = 0.15
"""Relative error of host times on a target that has no `between`: its networks were not measured."""


def host_seconds(times: Sequence[OpTime], target: Target) -> tuple[Array, float]:
    """(seconds, relative error) of launching all operators: sum of calls x (launch of the kernel + between).

    Ignored: that the device may wait for one slow launch although the whole is bound by the device.
    """
    between = next((law for law in target.launch if law.subject == BETWEEN), None)
    extra = between.seconds if between else 0.0
    total: Array = sum((time.op.count * (launch_seconds(time, target) + extra) for time in times), start=0.0)
    return total, between.sigma if between else _UNSURE


def launch_seconds(time: OpTime, target: Target) -> Array:
    """Host seconds of launching one call, by the kernels in use; a kernel without a measured launch counts as free."""
    known = {law.subject: law.seconds for law in target.launch if law.dtype == time.op.dtype}
    return sum((used.where * known.get(_subject(time, used.kernel), 0.0) for used in time.laws), start=0.0)


def _subject(time: OpTime, kernel: str) -> str:
    """The name under which a target keeps the launch time of this kernel."""
    if isinstance(time.op, Linear):
        return kernel
    return f"attention {kernel}" if isinstance(time.op, Attention) else time.op.kind
