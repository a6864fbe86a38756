"""Precision of weights and activations alike: fp32, bf16 or fp16."""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

from ridgepoint.choice.base import Metal, Words, no_more_words
from ridgepoint.workload import DTYPES, Plan

if TYPE_CHECKING:
    from torch import nn

__all__ = ["Precision"]


@dataclass(frozen=True, slots=True)
class Precision:
    """The dtype in which the model is built and everything that no other choice rewrites is computed."""

    dtype: str

    NAMES: ClassVar[tuple[str, ...]] = DTYPES
    AXIS: ClassVar[str] = "dtype"

    @classmethod
    def parse(cls, name: str, words: Words) -> "Precision":
        no_more_words(name, words)
        return cls(name)

    @property
    def spelled(self) -> str:
        return self.dtype

    def acts(self, device: str) -> tuple[str, ...]:
        return (self.dtype,)

    def check(self, plan: Plan) -> None:
        """Any model and machine takes any of the three."""

    def on_paper(self, plan: Plan) -> Plan:
        return replace(plan, dtype=self.dtype)

    def on_metal(self, model: "nn.Module", plan: Plan, metal: Metal) -> "nn.Module":
        from ridgepoint.kernels.ladder import TORCH_DTYPES

        return model.to(TORCH_DTYPES[self.dtype])
