"""All weights as they are: the side to compare a sparse one with."""

from typing import TYPE_CHECKING, ClassVar

from ridgepoint.choice.base import Metal, Named
from ridgepoint.workload import Plan

if TYPE_CHECKING:
    from torch import nn

__all__ = ["Dense"]


class Dense(Named):
    """Changes nothing; it names what `sparse:`, `channels:`, `heads:` and `layers:` take away from."""

    NAMES: ClassVar[tuple[str, ...]] = ("dense",)
    AXIS: ClassVar[str] = "sparsity"

    def check(self, plan: Plan) -> None:
        """Any model has it."""

    def on_paper(self, plan: Plan) -> Plan:
        return plan

    def on_metal(self, model: "nn.Module", plan: Plan, metal: Metal) -> "nn.Module":
        return model
