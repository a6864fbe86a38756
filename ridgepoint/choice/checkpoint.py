"""Whether a training step keeps its activations, or computes each layer again before its gradients."""

from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar

from ridgepoint.choice.base import Metal, Named
from ridgepoint.errors import NotSupported
from ridgepoint.workload import Plan

if TYPE_CHECKING:
    from torch import nn

__all__ = ["Recompute"]


class Recompute(Named):
    """`checkpoint` keeps each layer's input and runs the layer twice (Chen et al. 2016, arXiv 1604.06174), by
    `torch.utils.checkpoint` without re-entering; `keep`, the default, keeps what autograd needs."""

    NAMES: ClassVar[tuple[str, ...]] = ("keep", "checkpoint")
    AXIS: ClassVar[str] = "recompute"

    def check(self, plan: Plan) -> None:
        if plan.step.phase != "train":
            raise NotSupported(
                f"{self.name} is about what a training step keeps; a {plan.step.phase} step keeps nothing"
            )

    def on_paper(self, plan: Plan) -> Plan:
        return replace(plan, recompute=self.name == "checkpoint")

    def on_metal(self, model: "nn.Module", plan: Plan, metal: Metal) -> "nn.Module":
        """Nothing: layers run again where the step is run."""
        return model
