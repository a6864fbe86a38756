"""Mean power of a device during a step of a server, from its operators' times: a model."""

import numpy as np

from ridgepoint.hardware import Target
from ridgepoint.prediction.latency import step_time
from ridgepoint.prediction.physics.device import device_of
from ridgepoint.prediction.physics.power import PowerParameters, kernel_energy
from ridgepoint.workload import Plan

__all__ = ["step_watts"]


def step_watts(plan: Plan, target: Target, p: PowerParameters) -> float:
    """Energy of the step's operators over their time; scalars only. Operators without parts of their own draw the mean of
    the others. Ignored: the host, and the device between steps."""
    device = device_of(target)
    joules, seconds = 0.0, 0.0
    for time in step_time(plan, target).ops:
        if time.physical is None:
            continue
        joules += time.op.count * float(np.asarray(kernel_energy(device, p, time.physical)))
        seconds += time.op.count * float(np.asarray(time.physical.seconds))
    return joules / seconds
