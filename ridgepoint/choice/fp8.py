"""8-bit floating point (e4m3) for weights and activations, on GPUs that have it."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from ridgepoint.choice.base import Metal, Words, no_more_words
from ridgepoint.choice.scope import EVERYWHERE
from ridgepoint.choice.weights import refuse_cpu, rewrite_linears, swap_linears
from ridgepoint.workload import Plan

if TYPE_CHECKING:
    from torch import nn

__all__ = ["Fp8"]


@dataclass(frozen=True, slots=True)
class Fp8:
    """A scale per output row of the weight and per token of the activations (`torch._scaled_mm`); `block`: one for
    128 x 128 weights and for 128 activations of a token (DeepSeek-V3, arXiv 2412.19437, section 3.3), on paper."""

    block: bool = False

    NAMES: ClassVar[tuple[str, ...]] = ("fp8",)
    AXIS: ClassVar[str] = "weights"

    @classmethod
    def parse(cls, name: str, words: Words) -> "Fp8":
        no_more_words(name, tuple(w for w in words if w.key or w.value != "block"))
        return cls(block=bool(words))

    @property
    def spelled(self) -> str:
        return "fp8:block" if self.block else "fp8"

    def acts(self, device: str) -> tuple[str, ...]:
        return ("bf16",)

    def check(self, plan: Plan) -> None:
        refuse_cpu(plan, self.spelled)

    def on_paper(self, plan: Plan) -> Plan:
        return rewrite_linears(plan, self.spelled, "", EVERYWHERE)

    def on_metal(self, model: "nn.Module", plan: Plan, metal: Metal) -> "nn.Module":
        return swap_linears(model, plan, metal, self.spelled)
