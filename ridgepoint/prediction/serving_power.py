"""Mean power of a device of a loaded server: its operators' while they run, idle while they wait for the host."""

import numpy as np

from ridgepoint.hardware import Target
from ridgepoint.prediction.latency import step_time
from ridgepoint.prediction.sheet.energy import idle_watts, step_energy
from ridgepoint.result import Value
from ridgepoint.workload import Plan

__all__ = ["mean_watts"]


def mean_watts(plan: Plan, target: Target, busy: float) -> Value:
    """Watts of one device that runs steps like the plan's for a share `busy` of the time; scalars only; always a model.

    Operators without parts of their own draw the mean of the others.
    The interval is that of the power alone. Ignored: the host's own power, fans, power supplies.
    Raises NotSupported where no class has power.
    """
    times = step_time(plan, target).ops
    joules = step_energy(times, 0.0, target)
    seconds = sum(t.op.count * float(np.asarray(t.physical.seconds)) for t in times if t.physical is not None)
    watts = busy * joules.value / seconds + (1.0 - busy) * idle_watts(target)
    return Value(
        watts, watts * joules.low / joules.value, watts * joules.high / joules.value,
        f"{joules.method}; idle while a device waits for the host",
    )  # fmt: skip
