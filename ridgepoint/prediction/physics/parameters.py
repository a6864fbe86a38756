"""What the parameters of a time model are: a Struct whose fields carry bounds and meaning, read and checked here."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeVar, get_type_hints

import msgspec

from ridgepoint.errors import BadInput

__all__ = ["Parameter", "Parameters", "parameters_of", "read_parameters", "within"]


class Parameters(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of the parameters of one time model; a field's default is where a fit starts."""


P = TypeVar("P", bound=Parameters)


@dataclass(frozen=True, slots=True)
class Parameter:
    """One parameter: all are positive, and fitted in their logarithm between `low` and `high`."""

    name: str
    meaning: str
    low: float
    high: float
    start: float


def within(low: float, high: float, meaning: str) -> msgspec.Meta:
    """Bounds and meaning of a field: `share: Annotated[float, within(0.3, 1.0, "share of …, as a ratio")] = 0.8`."""
    return msgspec.Meta(ge=low, le=high, description=meaning)


def parameters_of(model: type[Parameters]) -> tuple[Parameter, ...]:
    """Name, meaning, bounds and start of each parameter of a model."""
    start = model()
    out = []
    for name, hint in get_type_hints(model, include_extras=True).items():
        meta: msgspec.Meta = hint.__metadata__[0]
        assert meta.ge is not None and meta.le is not None and meta.description
        out.append(Parameter(name, meta.description, float(meta.ge), float(meta.le), getattr(start, name)))
    return tuple(out)


def read_parameters(model: type[P], values: Mapping[str, float], where: str) -> P:
    """The parameters from an architecture file; raises BadInput naming the field that is missing, unknown or outside."""
    missing = {p.name for p in parameters_of(model)} - set(values)
    if missing:
        raise BadInput(f"{where}: parameter {min(missing)} is missing{_AGAIN}")
    try:
        return msgspec.convert(dict(values), model)
    except msgspec.ValidationError as error:
        raise BadInput(f"{where}: {error}{_AGAIN}") from None


_AGAIN = "; a class of yours that an earlier version fitted is fitted again by `ridge calibrate --from FILE.csv`"
