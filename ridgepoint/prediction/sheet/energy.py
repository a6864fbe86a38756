"""Energy of a step on a machine that is known from its datasheet: the modelled power of each kernel times its time."""

from collections.abc import Sequence

import numpy as np

from ridgepoint.hardware import Target
from ridgepoint.prediction.optime import OpTime
from ridgepoint.prediction.physics.device import Device, device_of
from ridgepoint.prediction.physics.found import Found, Stack, find_fit
from ridgepoint.prediction.physics.power import idle_power, kernel_energy, power_parameters
from ridgepoint.prediction.physics.spread import Z80, spread_sigma
from ridgepoint.result import Value

__all__ = ["idle_watts", "step_energy"]


def _powered(target: Target) -> tuple[Device, Found]:
    """The device, and the fit of what all its kernels share."""
    device = device_of(target)
    return device, find_fit(device, "power", ("",), Stack())


def idle_watts(target: Target) -> float:
    """What one device draws with clocks up and nothing to do; a model."""
    device, found = _powered(target)
    return idle_power(device, power_parameters(found))


def step_energy(times: Sequence[OpTime], step_sigma: float, target: Target) -> Value:
    """Joules of one device for one step, idle included, by the parameters that all kernels share; always a model.

    The interval has the error of the power and that of the step's time. Raises NotSupported where no class has power.
    Ignored: the host, and the device between steps.
    """
    device, found = _powered(target)
    p = power_parameters(found)
    known = [t for t in times if t.physical is not None]
    joules = np.array(
        [t.op.count * float(np.asarray(kernel_energy(device, p, t.physical))) for t in known if t.physical]
    )
    sigmas = np.array([float(spread_sigma(t.physical, found.fit.spread)) for t in known if t.physical])
    total = float(joules.sum())
    own = float((joules * sigmas).sum() / total)
    half = float(np.exp(Z80 * np.sqrt(own**2 + found.sigma**2 + step_sigma**2)))
    validated = "" if not {"gpu", "class"} & set(found.steps) else f", never validated on {target.name}"
    return Value(
        total, total / half, total * half, f"model: power of kernels fitted on {', '.join(found.fit.gpus)}{validated}"
    )
