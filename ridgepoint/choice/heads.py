"""Attention heads that are removed, so that the tensors are really smaller."""

from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar

from ridgepoint.choice.base import Metal
from ridgepoint.choice.removal import Removed, block_at, decoder_of, smaller
from ridgepoint.errors import NotSupported
from ridgepoint.workload import AttentionSpec, Block, Plan

if TYPE_CHECKING:
    from torch import nn

__all__ = ["Heads"]


class Heads(Removed):
    """`heads:0.33`: key/value heads of every layer, each with the query heads that share it; at least one stays."""

    NAMES: ClassVar[tuple[str, ...]] = ("heads",)
    AXIS: ClassVar[str] = "heads"

    def on_paper(self, plan: Plan) -> Plan:
        return smaller(
            plan,
            self.spelled,
            tuple(replace(b, attention=self._fewer(plan, b)) for b in decoder_of(plan, self.spelled).blocks),
        )

    def _fewer(self, plan: Plan, block: Block) -> AttentionSpec:
        spec = block.attention
        groups = spec.num_key_value_heads
        kept = max(1, round((1.0 - float(self.share)) * groups))
        if kept == groups:
            raise NotSupported(
                f"{self.spelled} removes none of the {groups} key/value heads of {plan.workload.name}; "
                + (f"heads:{1 / groups:.2f} removes one" if groups > 1 else "it has no more than one")
            )
        return replace(spec, num_key_value_heads=kept, num_attention_heads=spec.num_attention_heads // groups * kept)

    def on_metal(self, model: "nn.Module", plan: Plan, metal: Metal) -> "nn.Module":
        if metal.layer is not None:
            from ridgepoint.engine.prune.structured import keep_heads

            spec = block_at(plan, metal.layer).attention
            keep_heads(model, spec.num_key_value_heads, metal.inputs, bool(self.algorithm))  # type: ignore[arg-type]
        return model
