"""What every operator's prediction from a datasheet shares: the device, the software stack, and a time with its error."""

from dataclasses import dataclass
from functools import cache
from typing import NamedTuple, TypeVar

from ridgepoint.errors import UnknownName
from ridgepoint.hardware import Target, data_folder
from ridgepoint.prediction.physics.device import Device, device_of
from ridgepoint.prediction.physics.found import Found, Stack, find_fit
from ridgepoint.prediction.physics.optime import PhysicalTime
from ridgepoint.prediction.physics.parameters import Parameters, read_parameters
from ridgepoint.prediction.physics.spread import spread_sigma
from ridgepoint.quantity import Array
from ridgepoint.workload import Plan

__all__ = ["DEFAULT_STACK", "STACKS", "Sheet", "Timed", "parameters_for", "sheet_of"]

P = TypeVar("P", bound=Parameters)
STACKS = ("pytorch", "sglang", "trtllm", "vllm")
"""Software whose kernels were measured."""
DEFAULT_STACK = "vllm"
"""Whose kernels a prediction speaks of where nobody says."""


@dataclass(frozen=True, slots=True)
class Sheet:
    """A device and the stack whose kernels run on it."""

    device: Device
    stack: Stack
    home: str
    """The user's data folder, whose classes win."""


@dataclass(frozen=True, slots=True)
class Timed:
    """The time of one call, the fit behind it, and its error: `sigma` at one shape, `common` of the fit as a whole."""

    time: PhysicalTime
    found: Found

    @property
    def sigma(self) -> Array:
        return spread_sigma(self.time, self.found.fit.spread)

    @property
    def common(self) -> float:
        return self.found.sigma

    @property
    def kernel(self) -> str:
        """Name of the source of error: operators of one fit err together."""
        fit = self.found.fit
        return " ".join(x for x in (fit.operator, fit.dtype, fit.framework, fit.version, fit.variant) if x)


def sheet_of(plan: Plan, target: Target) -> Sheet:
    """The device by its figures; the stack that the plan names, else `DEFAULT_STACK`."""
    framework, _, version = (plan.stack or DEFAULT_STACK).lower().partition(":")
    if framework not in STACKS:
        raise UnknownName("stack", plan.stack, STACKS, "a version may follow it, as in vllm:0.24.0")
    return Sheet(device_of(target), Stack(framework, version), str(data_folder()))


def parameters_for(
    sheet: Sheet, operator: str, dtypes: tuple[str, ...], model: type[P], variant: str = ""
) -> tuple[P, Found]:
    """The nearest fit's parameters for this operator; NotSupported where nothing like it was measured."""
    stack = Stack(sheet.stack.framework, sheet.stack.version, variant)
    return _looked_up(sheet.device.name, sheet.device.arch, operator, dtypes, model, stack, sheet.home)


class _Machine(NamedTuple):
    name: str
    arch: str


@cache
def _looked_up(
    name: str, arch: str, operator: str, dtypes: tuple[str, ...], model: type[P], stack: Stack, _home: str
) -> tuple[P, Found]:
    found = find_fit(_Machine(name, arch), operator, dtypes, stack)
    return read_parameters(model, found.fit.values, f"architecture class {found.arch}"), found
