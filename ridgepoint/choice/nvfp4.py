"""4-bit floating point (e2m1) with a scale for 16 values, weights and activations: Blackwell's own format, on paper."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from ridgepoint.choice.base import Metal, Words, no_more_words
from ridgepoint.choice.scope import EVERYWHERE
from ridgepoint.choice.weights import check_groups, refuse_cpu, rewrite_linears, swap_linears
from ridgepoint.workload import Plan

if TYPE_CHECKING:
    from torch import nn

__all__ = ["Nvfp4"]


@dataclass(frozen=True, slots=True)
class Nvfp4:
    """An e4m3 scale for 16 values of a row (NVIDIA 2025, arXiv 2509.25149, section 2). No kernel of ours runs it."""

    NAMES: ClassVar[tuple[str, ...]] = ("nvfp4",)
    AXIS: ClassVar[str] = "weights"

    @classmethod
    def parse(cls, name: str, words: Words) -> "Nvfp4":
        no_more_words(name, words)
        return cls()

    @property
    def spelled(self) -> str:
        return "nvfp4"

    def acts(self, device: str) -> tuple[str, ...]:
        return ("bf16",)

    def check(self, plan: Plan) -> None:
        refuse_cpu(plan, "nvfp4")
        check_groups(plan, "nvfp4", EVERYWHERE)

    def on_paper(self, plan: Plan) -> Plan:
        return rewrite_linears(plan, "nvfp4", "", EVERYWHERE)

    def on_metal(self, model: "nn.Module", plan: Plan, metal: Metal) -> "nn.Module":
        return swap_linears(model, plan, metal, "nvfp4")
