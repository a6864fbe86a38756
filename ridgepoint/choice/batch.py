"""How many sequences share one step."""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

from ridgepoint.choice.base import Metal, Words, integer, no_more_words
from ridgepoint.workload import Plan

if TYPE_CHECKING:
    from torch import nn

__all__ = ["Batch"]


@dataclass(frozen=True, slots=True)
class Batch:
    """`batch:16`: speed is compared per token, so that a larger batch may win although its step is longer."""

    size: int

    NAMES: ClassVar[tuple[str, ...]] = ("batch",)
    AXIS: ClassVar[str] = "batch"

    @classmethod
    def parse(cls, name: str, words: Words) -> "Batch":
        no_more_words(name, words[1:] if words and not words[0].key else words)
        return cls(integer("batch", words[0].value if words else "", 1, 2**20))

    @property
    def spelled(self) -> str:
        return f"batch:{self.size}"

    def acts(self, device: str) -> tuple[str, ...]:
        return ()

    def check(self, plan: Plan) -> None:
        """Memory is checked where it is predicted."""

    def on_paper(self, plan: Plan) -> Plan:
        return replace(plan, step=plan.step.with_batch(self.size))

    def on_metal(self, model: "nn.Module", plan: Plan, metal: Metal) -> "nn.Module":
        return model
