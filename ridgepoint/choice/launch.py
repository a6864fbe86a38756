"""How a step's operators are started: one by one by Python (`eager`), as a CUDA graph (`graph`), or compiled (`compile`)."""

from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar

from ridgepoint.choice.base import Metal, Named
from ridgepoint.errors import NotSupported
from ridgepoint.workload import Linear, Plan

if TYPE_CHECKING:
    from torch import nn

__all__ = ["Launch"]


class Launch(Named):
    """`compile` is torch.compile with its defaults and static shapes: it fuses pointwise operators, and leaves linear
    layers, convolutions and attention to the kernels that eager calls."""

    NAMES: ClassVar[tuple[str, ...]] = ("eager", "graph", "compile")
    AXIS: ClassVar[str] = "launch"

    def check(self, plan: Plan) -> None:
        if self.name == "graph" and plan.device == "cpu":
            raise NotSupported("graph is a choice for CUDA devices; a CPU has nothing to launch: leave it out")
        if self.name == "compile" and plan.device != "cpu":
            raise NotSupported(
                "compile is predicted and measured on the CPU so far; graph is a choice for CUDA devices"
            )
        if self.name == "compile" and plan.step.phase == "train":
            raise NotSupported("a compiled training step is not modelled; leave compile or --phase train out")
        if self.name == "compile" and any(isinstance(op, Linear) and op.kernel == "ort" for op in plan.ops):
            raise NotSupported("compile cannot see into ONNX Runtime's kernels; leave compile or :ort out")
        if self.name == "compile" and not any(op.kind == "fused" for op in plan.ops):
            raise NotSupported(
                f"{plan.workload.name} has no pointwise operators, so compile finds nothing to fuse in it"
            )

    def on_paper(self, plan: Plan) -> Plan:
        return replace(plan, launch=self.name)  # type: ignore[arg-type]  # one of NAMES

    def on_metal(self, model: "nn.Module", plan: Plan, metal: Metal) -> "nn.Module":
        """Nothing: the step is captured or compiled where it is run."""
        return model
