"""NormalFloat4, weight-only, by bitsandbytes (QLoRA, arXiv 2305.14314)."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from ridgepoint.choice.base import Metal, Words, no_more_words
from ridgepoint.choice.scope import EVERYWHERE, Scope, take_scope
from ridgepoint.choice.weights import check_groups, rewrite_linears, swap_linears
from ridgepoint.workload import Plan

if TYPE_CHECKING:
    from torch import nn

__all__ = ["Nf4"]


@dataclass(frozen=True, slots=True)
class Nf4:
    """Blocks of 64 weights with an fp32 absmax, no double quantisation."""

    scope: Scope = EVERYWHERE

    NAMES: ClassVar[tuple[str, ...]] = ("nf4",)
    AXIS: ClassVar[str] = "weights"

    @classmethod
    def parse(cls, name: str, words: Words) -> "Nf4":
        scope, rest = take_scope(name, words)
        no_more_words(name, rest)
        return cls(scope)

    @property
    def spelled(self) -> str:
        return "nf4" + self.scope.spelled

    def acts(self, device: str) -> tuple[str, ...]:
        return ("bf16",)

    def check(self, plan: Plan) -> None:
        check_groups(plan, "nf4", self.scope)

    def on_paper(self, plan: Plan) -> Plan:
        self.scope.check(plan, self.spelled)
        return rewrite_linears(plan, "nf4", "", self.scope)

    def on_metal(self, model: "nn.Module", plan: Plan, metal: Metal) -> "nn.Module":
        return swap_linears(model, plan, metal, "nf4")
