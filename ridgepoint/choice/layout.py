"""How image tensors lie in memory: `channels-last` spares convolutions copies into their blocks, and has its own pooling."""

from functools import partial
from typing import TYPE_CHECKING, ClassVar

from ridgepoint.choice.base import Metal, Named
from ridgepoint.errors import NotSupported
from ridgepoint.workload import Conv, Plan, laid_out

if TYPE_CHECKING:
    from torch import nn

__all__ = ["Layout"]


class Layout(Named):
    """`channels-last` converts the module and its inputs; `channels-first` is the framework's own order."""

    NAMES: ClassVar[tuple[str, ...]] = ("channels-last", "channels-first")
    AXIS: ClassVar[str] = "layout"

    def check(self, plan: Plan) -> None:
        if not any(isinstance(op, Conv) for op in plan.ops):
            raise NotSupported(f"{plan.workload.name} calls no convolution, so {self.name} changes nothing in it")

    def on_paper(self, plan: Plan) -> Plan:
        return plan.rewritten(partial(laid_out, last=self.name == "channels-last"))

    def on_metal(self, model: "nn.Module", plan: Plan, metal: Metal) -> "nn.Module":
        """The weights of convolutions; inputs are converted where the module is run."""
        import torch

        return model.to(memory_format=torch.channels_last if self.name == "channels-last" else torch.contiguous_format)
