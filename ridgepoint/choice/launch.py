"""How the host starts a GPU's work: operator by operator (`eager`), or a whole step at once (`graph`)."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

from ridgepoint.choice.base import Words, no_more_words
from ridgepoint.errors import NotSupported
from ridgepoint.workload import Plan

if TYPE_CHECKING:
    from torch import nn

__all__ = ["Launch"]


@dataclass(frozen=True, slots=True)
class Launch:
    """`graph`: the step is captured as a CUDA graph and replayed; `eager`: each operator is launched by Python."""

    graph: bool

    NAMES: ClassVar[tuple[str, ...]] = ("eager", "graph")
    AXIS: ClassVar[str] = "launch"

    @classmethod
    def parse(cls, name: str, words: Words) -> "Launch":
        no_more_words(name, words)
        return cls(name == "graph")

    @property
    def spelled(self) -> str:
        return "graph" if self.graph else "eager"

    def acts(self, device: str) -> tuple[str, ...]:
        return ()

    def check(self, plan: Plan) -> None:
        if self.graph and plan.device == "cpu":
            raise NotSupported("graph is a choice for CUDA devices; a CPU has nothing to launch: leave it out")

    def on_paper(self, plan: Plan) -> Plan:
        return replace(plan, graph=self.graph)

    def on_metal(self, model: "nn.Module", plan: Plan, kernels: Mapping[str, str]) -> "nn.Module":
        return model
