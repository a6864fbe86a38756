"""Which kernel computes attention: `flash` (torch's own choice on a CPU), or `math`, product by product."""

from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar

from ridgepoint.choice.base import Metal, Named
from ridgepoint.errors import NotSupported
from ridgepoint.workload import Attention, Op, Plan

if TYPE_CHECKING:
    from torch import nn

__all__ = ["AttentionKernel"]


class AttentionKernel(Named):
    """`math` writes all scores to memory; `flash` keeps a block of them in the cache (arXiv 2205.14135)."""

    NAMES: ClassVar[tuple[str, ...]] = ("math", "flash")
    AXIS: ClassVar[str] = "attention"

    @property
    def _kernel(self) -> str:
        """As operators name it: "" is the default."""
        return "math" if self.name == "math" else ""

    def check(self, plan: Plan) -> None:
        if not any(isinstance(op, Attention) for op in plan.ops):
            raise NotSupported(f"{plan.workload.name} calls no attention kernel, so {self.name} changes nothing in it")

    def on_paper(self, plan: Plan) -> Plan:
        def rewrite(op: Op) -> Op:
            return replace(op, kernel=self._kernel) if isinstance(op, Attention) else op

        return plan.rewritten(rewrite)

    def on_metal(self, model: "nn.Module", plan: Plan, metal: Metal) -> "nn.Module":
        """Sets the engine's own attention modules; calls inside a module of the user's are pinned where it is run."""
        from ridgepoint.kernels.attention import Attention as Kernel

        for module in model.modules():
            if isinstance(module, Kernel):
                module.kernel = self._kernel
        return model
