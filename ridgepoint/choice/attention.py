"""Which kernel computes attention: `flash` (torch's own choice on a CPU), `math`, product by product, or `flex`, compiled."""

from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar

from ridgepoint.choice.base import Metal, Named
from ridgepoint.errors import NotSupported
from ridgepoint.workload import Attention, Decoder, Op, Plan

if TYPE_CHECKING:
    from torch import nn

__all__ = ["AttentionKernel"]


class AttentionKernel(Named):
    """`math` writes all scores to memory; `flash` keeps a block of them in the cache (arXiv 2205.14135); `flex` is compiled for
    the rule that says which keys a token sees, and skips blocks that it hides (FlexAttention, arXiv 2412.05496): of prompts,
    as a single new token has no block to skip and is attended by `flash`."""

    NAMES: ClassVar[tuple[str, ...]] = ("math", "flash", "flex")
    AXIS: ClassVar[str] = "attention"

    @property
    def _kernel(self) -> str:
        """As operators name it: "" is the default."""
        return "" if self.name == "flash" else self.name

    def check(self, plan: Plan) -> None:
        if not any(isinstance(op, Attention) for op in plan.ops):
            raise NotSupported(f"{plan.workload.name} calls no attention kernel, so {self.name} changes nothing in it")
        if self.name == "flex":
            self._check_flex(plan)

    def _check_flex(self, plan: Plan) -> None:
        """Refuse what FlexAttention on a CPU cannot do."""
        if not isinstance(plan.workload, Decoder):
            raise NotSupported(
                f"flex is for the engine's own language models; {plan.workload.name} calls torch's kernels itself"
            )
        if plan.step.phase == "train":
            raise NotSupported("flex has no gradient on a CPU; flash and math train")
        if plan.launch == "compile":
            raise NotSupported("flex is compiled by itself; leave compile out")

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
