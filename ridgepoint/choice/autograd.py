"""What torch records while a module runs: nothing (`inference`, the default), version counters (`no-grad`), or all (`grad`)."""

from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar

from ridgepoint.choice.base import Metal, Named
from ridgepoint.errors import NotSupported
from ridgepoint.workload import Plan, Traced

if TYPE_CHECKING:
    from torch import nn

__all__ = ["Autograd"]


class Autograd(Named):
    """Of modules of the user's own, whose forward may be run either way; a step without a backward pass in every case."""

    NAMES: ClassVar[tuple[str, ...]] = ("inference", "no-grad", "grad")
    AXIS: ClassVar[str] = "autograd"

    def check(self, plan: Plan) -> None:
        if self.name != "inference" and not isinstance(plan.workload, Traced):
            raise NotSupported(
                f"{self.name} is a choice for modules of your own (FILE.py:NAME); {plan.workload.name} runs in inference mode"
            )

    def on_paper(self, plan: Plan) -> Plan:
        return replace(plan, autograd=self.name)  # type: ignore[arg-type]  # one of NAMES

    def on_metal(self, model: "nn.Module", plan: Plan, metal: Metal) -> "nn.Module":
        """With `grad` parameters ask for gradients, as those of a module that was just built do."""
        return model.requires_grad_(self.name == "grad")
