"""8-bit floating point (e4m3) for weights and activations, on GPUs that have it; emulated on a CPU for accuracy alone."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from ridgepoint.choice.base import Metal, Words, no_more_words
from ridgepoint.choice.scope import EVERYWHERE
from ridgepoint.choice.weights import refuse_cpu, rewrite_linears, swap_linears
from ridgepoint.errors import NotSupported
from ridgepoint.workload import Plan

if TYPE_CHECKING:
    from torch import nn

__all__ = ["Fp8"]


@dataclass(frozen=True, slots=True)
class Fp8:
    """A scale per output row of the weight and per token of the activations (`torch._scaled_mm`); `block`: one for
    128 x 128 weights and for 128 activations of a token (DeepSeek-V3, arXiv 2412.19437, section 3.3), on paper. `emulated`:
    the roundings of fp8 on a CPU, whose loss can be measured and whose time means nothing: it is never predicted or timed."""

    block: bool = False
    emulated: bool = False

    NAMES: ClassVar[tuple[str, ...]] = ("fp8",)
    AXIS: ClassVar[str] = "weights"

    @classmethod
    def parse(cls, name: str, words: Words) -> "Fp8":
        no_more_words(name, tuple(w for w in words if w.key or w.value not in ("block", "emulated")))
        no_more_words(name, words[1:])
        return cls(*(any(w.value == word for w in words) for word in ("block", "emulated")))

    @property
    def spelled(self) -> str:
        return "fp8:block" if self.block else "fp8:emulated" if self.emulated else "fp8"

    @property
    def weight(self) -> str:
        return "fp8:block" if self.block else "fp8"

    def acts(self, device: str) -> tuple[str, ...]:
        return ("bf16", "fp32") if self.emulated else ("bf16",)

    def check(self, plan: Plan) -> None:
        if not self.emulated:
            refuse_cpu(plan, self.spelled)
        elif plan.device != "cpu":
            raise NotSupported(f"fp8:emulated is for a CPU; {plan.device} has fp8 itself")

    def on_paper(self, plan: Plan) -> Plan:
        return rewrite_linears(plan, self.weight, "emulated" if self.emulated else "", EVERYWHERE)

    def on_metal(self, model: "nn.Module", plan: Plan, metal: Metal) -> "nn.Module":
        return swap_linears(model, plan, metal, self.weight)
