"""Power and energy of a kernel from its time: what stands, what busy SMs, arithmetic and traffic add, and the limit."""

from typing import Annotated

import numpy as np
import numpy.typing as npt

from ridgepoint.errors import NotSupported
from ridgepoint.prediction.physics.device import Device
from ridgepoint.prediction.physics.found import Found, Stack, find_fit
from ridgepoint.prediction.physics.optime import PhysicalTime
from ridgepoint.prediction.physics.parameters import Parameters, parameters_of, read_parameters, within
from ridgepoint.quantity import Array

__all__ = [
    "POWER", "LimitParameters", "PowerParameters", "find_power", "idle_power", "joules_per_byte", "joules_per_flop",
    "kernel_energy", "kernel_power", "limited_job", "limited_power", "power_parameters",
]  # fmt: skip

Floats = npt.NDArray[np.float64]

POWER = "power"
"""The operator in architecture files; its variants begin with the operator whose kernels drew the power."""
_BYTES_PER_JOULE = 8e9
"""DRAM bandwidth for each watt of the TDP at which `idle_share` counts as it stands: that of a B200 (8 TB/s, 1000 W)."""


class PowerParameters(Parameters, frozen=True, kw_only=True):
    """What a device of one class draws, in shares of its TDP, so that they carry over to its kin.

    A share at the datasheet's rate is an energy for each operation: see `joules_per_flop` and `joules_per_byte`.
    """

    idle_share: Annotated[float, within(0.02, 0.4, "of TDP, clocks up and nothing to do")] = 0.25
    active_share: Annotated[float, within(0.002, 0.8, "of TDP, that SMs at work add whatever they do")] = 0.3
    flop_share: Annotated[float, within(0.01, 8.0, "of TDP, that arithmetic at the dense peak would add")] = 0.8
    byte_share: Annotated[float, within(0.01, 8.0, "of TDP, that DRAM traffic at full bandwidth would add")] = 0.8
    limit_share: Annotated[float, within(0.9, 1.05, "of TDP, at which clocks fall so that power does not rise")] = 0.985


def kernel_power(device: Device, p: PowerParameters, time: PhysicalTime) -> Floats:
    """Mean watts while kernels of this time run back to back; arrays where the times are arrays.

    idle + busy share x active + FLOPs/s x J/FLOP + bytes/s x J/byte, and no more than the limit. FLOPs/s and bytes/s are
    what `time` says of the peak and of the bandwidth, so any operator with a time has a power. A model, not a
    measurement: ignored are the operands' values (zeros draw up to a third less), temperature, voltage of the single
    die, traffic between L2 and SMs apart from `active_share`, links to other devices, and the host.
    Components as in Hong and Kim 2010 (doi 10.1145/1815961.1815998): idle power, and rates of access times energies.
    """
    seconds, compute_s, memory_s, fixed_s = (
        np.asarray(x, dtype=np.float64) for x in (time.seconds, time.compute_s, time.memory_s, time.fixed_s)
    )
    busy = 1.0 - np.minimum(fixed_s / seconds, 1.0)
    arithmetic, traffic = np.minimum(compute_s / seconds, 1.0), np.minimum(memory_s / seconds, 1.0)
    work = p.active_share * busy + p.flop_share * arithmetic + p.byte_share * traffic
    idle, limit = idle_power(device, p), device.tdp_w * p.limit_share
    return np.asarray(np.minimum(idle + device.tdp_w * work, np.maximum(limit, idle)))


def kernel_energy(device: Device, p: PowerParameters, time: PhysicalTime) -> Floats:
    """Joules of one execution, what stands included: power times seconds."""
    return np.asarray(kernel_power(device, p, time) * np.asarray(time.seconds, dtype=np.float64))


def find_power(device: Device, operator: str, dtypes: tuple[str, ...], stack: Stack) -> Found:
    """The nearest fit for kernels of an operator ("gemm"; `stack.variant` is the kernel), else what all kernels share.

    Steps "gpu" and "class" of what is found mean that no power of the device was ever read: "never validated".
    """
    variant = "/".join(filter(None, (operator, stack.variant)))
    try:
        found = find_fit(device, POWER, dtypes, Stack(stack.framework, stack.version, variant))
        if found.fit.variant.split("/")[0] == operator:
            return found
    except NotSupported:
        pass
    return find_fit(device, POWER, ("",), Stack())


def power_parameters(found: Found) -> PowerParameters:
    """What the device draws, of a fit that also holds how it was sampled; raises BadInput where a parameter is missing."""
    names = {p.name for p in parameters_of(PowerParameters)}
    values = {name: value for name, value in found.fit.values.items() if name in names}
    return read_parameters(PowerParameters, values, f"architecture class {found.arch}")


def idle_power(device: Device, p: PowerParameters) -> float:
    """Watts with clocks up and nothing to do: the geometric mean of a share of TDP and of a share of DRAM bandwidth.

    A chip that is given a higher limit does not idle higher, and the interfaces to its memory stay powered; with one
    machine of known idle power, the mean is an assumption.
    """
    return p.idle_share * float(np.sqrt(device.tdp_w * device.dram_bytes_per_s / _BYTES_PER_JOULE))


def joules_per_flop(device: Device, p: PowerParameters, flops_per_s: float) -> float:
    """What `flop_share` means for a unit of this dense peak: formats that run twice as fast take half the energy."""
    return p.flop_share * device.tdp_w / flops_per_s


def joules_per_byte(device: Device, p: PowerParameters) -> float:
    """What `byte_share` means for a byte from DRAM, its way through L2 to the SM included."""
    return p.byte_share * device.tdp_w / device.dram_bytes_per_s


class LimitParameters(Parameters, frozen=True, kw_only=True):
    """How a job on one class of machines slows down under a power limit; watts in shares of TDP."""

    rest_share: Annotated[float, within(0.02, 0.4, "of TDP, between the phases in which the device computes")] = 0.15
    standing_share: Annotated[float, within(0.02, 0.39, "of TDP, that no lower clock saves while it computes")] = 0.3
    demand_share: Annotated[float, within(0.4, 1.5, "of TDP, that computing phases draw without a limit")] = 0.95
    exponent: Annotated[float, within(1.0, 8.0, "of the clock, that power beyond the standing part follows")] = 4.0
    floor_clock: Annotated[float, within(0.3, 0.99, "of the full clock: from there down voltage stays as it is")] = 0.8
    clock_share: Annotated[float, within(0.05, 1.0, "of computing time that grows as the clock falls")] = 0.9


def limited_power(device: Device, p: LimitParameters, limit_w: Array) -> Floats:
    """Watts of computing phases under a limit: the limit or the demand, whichever is smaller."""
    return np.asarray(np.minimum(np.asarray(limit_w, dtype=np.float64), device.tdp_w * p.demand_share))


def _clock(p: LimitParameters, beyond: Floats) -> Floats:
    """Clock relative to the full one, of power beyond the standing part relative to that at full clock.

    Power follows clock x voltage squared: a high power of the clock where voltage falls with it, its first power below.
    """
    floor = float(np.power(p.floor_clock, p.exponent))
    return np.where(beyond >= floor, np.power(beyond, 1.0 / p.exponent), p.floor_clock * beyond / floor)


def limited_job(
    device: Device, p: LimitParameters, known_w: Array, known_limit_w: Array, limit_w: Array
) -> tuple[Floats, Floats]:
    """Mean watts of a job under `limit_w`, and its time relative to the one under `known_limit_w`, where it drew `known_w`.

    A job computes in phases and rests between them (data, host): its known mean power tells the share of the phases.
    In a phase the clock falls until power fits the limit, and what is bound by the clock takes longer; rests stay as they
    are. Power against clock and voltage: Mei et al. 2017 (doi 10.1016/j.dcan.2016.10.001). Ignored: jobs that compute
    throughout at a lower demand, temperature, and what the memory's clock does.
    """
    known = np.asarray(known_w, dtype=np.float64)
    rest, standing = device.tdp_w * p.rest_share, device.tdp_w * p.standing_share
    full, now = limited_power(device, p, known_limit_w), limited_power(device, p, limit_w)
    busy = np.clip((known - rest) / np.maximum(full - rest, 1e-3 * device.tdp_w), 0.0, 1.0)
    least = 1e-3 * device.tdp_w
    clock = _clock(p, np.maximum(now - standing, least) / np.maximum(full - standing, least))
    phase = busy * (1.0 - p.clock_share + p.clock_share / clock)
    time = phase + 1.0 - busy
    base = np.minimum(known, rest)
    return np.asarray((phase * now + (1.0 - busy) * base) / time), np.asarray(time)
