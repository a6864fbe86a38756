"""What a choice is: a name a user writes, an axis it settles, a side on paper and a side on metal."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, Self

from ridgepoint.errors import BadInput
from ridgepoint.workload import Plan

if TYPE_CHECKING:
    from torch import nn

__all__ = ["Choice", "Metal", "Named", "Option", "Words", "integer", "no_more_words"]


@dataclass(frozen=True, slots=True)
class Option:
    """One `value` or `key=value` behind the name of a choice."""

    key: str
    value: str


Words = tuple[Option, ...]


@dataclass(frozen=True, slots=True)
class Metal:
    """What a choice is given on metal beside the model and the plan."""

    kernels: Mapping[str, str] = field(default_factory=dict)
    """Kernel to use by operator name."""
    layer: int | None = None
    """Which decoder layer the module is; None: not one."""
    inputs: Mapping[str, Any] = field(default_factory=dict)
    """What the layer's linear layers are given on a calibration text (`engine.quantise.inputs.Inputs`), by name."""


class Choice(Protocol):
    """An engineer's choice. Two choices of one `axis` cannot stand in one side.

    `acts`: activation dtypes it can work with, by device, the preferred one first; empty means any.
    """

    NAMES: ClassVar[tuple[str, ...]]
    AXIS: ClassVar[str]

    @classmethod
    def parse(cls, name: str, words: Words) -> "Choice": ...
    @property
    def spelled(self) -> str: ...
    def acts(self, device: str) -> tuple[str, ...]: ...
    def check(self, plan: Plan) -> None: ...
    def on_paper(self, plan: Plan) -> Plan: ...
    def on_metal(self, model: "nn.Module", plan: Plan, metal: Metal) -> "nn.Module": ...


@dataclass(frozen=True, slots=True)
class Named:
    """What choices share that are nothing but their name, and work with any dtype."""

    name: str

    @classmethod
    def parse(cls, name: str, words: Words) -> Self:
        no_more_words(name, words)
        return cls(name)

    @property
    def spelled(self) -> str:
        return self.name

    def acts(self, device: str) -> tuple[str, ...]:
        return ()


def no_more_words(name: str, words: Words) -> None:
    """Refuse options that a choice does not have."""
    if words:
        shown = f"{words[0].key}={words[0].value}" if words[0].key else words[0].value
        raise BadInput(f"choice {name!r} has no option {shown!r}")


def integer(name: str, text: str, low: int, high: int) -> int:
    """A whole number within bounds, or BadInput that says what is possible."""
    if not text.isascii() or not text.isdigit() or len(text) > 12 or not low <= int(text) <= high:
        raise BadInput(f"{name} is {text[:40]!r}; possible is a whole number from {low} to {high}")
    return int(text)
