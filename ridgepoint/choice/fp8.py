"""8-bit floating point (e4m3) for weights and activations, on GPUs that have it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from ridgepoint.choice.base import Words, no_more_words
from ridgepoint.choice.weights import rewrite_linears, swap_linears
from ridgepoint.errors import NotSupported
from ridgepoint.workload import Plan

if TYPE_CHECKING:
    from torch import nn

__all__ = ["Fp8"]


@dataclass(frozen=True, slots=True)
class Fp8:
    """A scale per output row of the weight and per token of the activations (`torch._scaled_mm`)."""

    NAMES: ClassVar[tuple[str, ...]] = ("fp8",)
    AXIS: ClassVar[str] = "weights"

    @classmethod
    def parse(cls, name: str, words: Words) -> "Fp8":
        no_more_words(name, words)
        return cls()

    @property
    def spelled(self) -> str:
        return "fp8"

    def acts(self, device: str) -> tuple[str, ...]:
        return ("bf16",)

    def check(self, plan: Plan) -> None:
        if plan.device == "cpu":
            raise NotSupported(
                "fp8 has no kernel on a CPU (torch emulates it, and emulation is never timed); int8 has one"
            )

    def on_paper(self, plan: Plan) -> Plan:
        return rewrite_linears(plan, "fp8", "", head=False)

    def on_metal(self, model: "nn.Module", plan: Plan, kernels: Mapping[str, str]) -> "nn.Module":
        return swap_linears(model, plan, kernels)
