"""NormalFloat4, weight-only, by bitsandbytes (QLoRA, arXiv 2305.14314)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from ridgepoint.choice.base import Words, no_more_words
from ridgepoint.choice.weights import check_groups, rewrite_linears, swap_linears
from ridgepoint.workload import Plan

if TYPE_CHECKING:
    from torch import nn

__all__ = ["Nf4"]


@dataclass(frozen=True, slots=True)
class Nf4:
    """Blocks of 64 weights with an fp32 absmax, no double quantisation."""

    head: bool = False

    NAMES: ClassVar[tuple[str, ...]] = ("nf4",)
    AXIS: ClassVar[str] = "weights"

    @classmethod
    def parse(cls, name: str, words: Words) -> "Nf4":
        no_more_words(name, tuple(w for w in words if w.key or w.value != "head"))
        return cls(head=bool(words))

    @property
    def spelled(self) -> str:
        return "nf4:head" if self.head else "nf4"

    def acts(self, device: str) -> tuple[str, ...]:
        return ("bf16",)

    def check(self, plan: Plan) -> None:
        check_groups(plan, "nf4", self.head)

    def on_paper(self, plan: Plan) -> Plan:
        return rewrite_linears(plan, "nf4", "", self.head)

    def on_metal(self, model: "nn.Module", plan: Plan, kernels: Mapping[str, str]) -> "nn.Module":
        return swap_linears(model, plan, kernels)
