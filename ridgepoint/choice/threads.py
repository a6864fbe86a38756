"""How many threads compute one step."""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

from ridgepoint.choice.base import Metal, Words, integer, no_more_words
from ridgepoint.errors import NotSupported
from ridgepoint.workload import Plan

if TYPE_CHECKING:
    from torch import nn

__all__ = ["Threads"]


@dataclass(frozen=True, slots=True)
class Threads:
    """`threads:2`; one thread is measured in its own CPU time, several in wall time."""

    count: int

    NAMES: ClassVar[tuple[str, ...]] = ("threads",)
    AXIS: ClassVar[str] = "threads"

    @classmethod
    def parse(cls, name: str, words: Words) -> "Threads":
        no_more_words(name, words[1:] if words and not words[0].key else words)
        return cls(integer("threads", words[0].value if words else "", 1, 1024))

    @property
    def spelled(self) -> str:
        return f"threads:{self.count}"

    def acts(self, device: str) -> tuple[str, ...]:
        return ()

    def check(self, plan: Plan) -> None:
        if plan.device != "cpu" and self.count != 1:
            raise NotSupported(f"threads:{self.count} is a choice for CPUs; on {plan.device} leave it out")

    def on_paper(self, plan: Plan) -> Plan:
        return replace(plan, threads=self.count)

    def on_metal(self, model: "nn.Module", plan: Plan, metal: Metal) -> "nn.Module":
        return model
