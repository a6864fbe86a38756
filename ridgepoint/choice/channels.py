"""Feed-forward channels that are removed, so that the tensors are really smaller."""

from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar

from ridgepoint.choice.base import Metal
from ridgepoint.choice.removal import Removed, block_at, decoder_of, smaller
from ridgepoint.workload import Plan

if TYPE_CHECKING:
    from torch import nn

__all__ = ["Channels"]

_MULTIPLE = 32
"""Channels are kept in multiples of this, which kernels with groups and tiles take."""


class Channels(Removed):
    """`channels:0.5`: intermediate channels of every feed-forward layer, `gate`, `up` and `down` alike; what is kept is
    rounded to a multiple of 32 where the layer is wider than that."""

    NAMES: ClassVar[tuple[str, ...]] = ("channels",)
    AXIS: ClassVar[str] = "channels"

    def kept(self, wide: int) -> int:
        """Channels that stay, of `wide`."""
        left = (1.0 - float(self.share)) * wide
        return max(1, round(left)) if wide <= 2 * _MULTIPLE else max(_MULTIPLE, round(left / _MULTIPLE) * _MULTIPLE)

    def on_paper(self, plan: Plan) -> Plan:
        return smaller(
            plan,
            self.spelled,
            tuple(
                replace(b, mlp=replace(b.mlp, intermediate_size=self.kept(b.mlp.intermediate_size)))
                for b in decoder_of(plan, self.spelled).blocks
            ),
        )

    def on_metal(self, model: "nn.Module", plan: Plan, metal: Metal) -> "nn.Module":
        if metal.layer is not None:
            from ridgepoint.engine.prune.structured import keep_channels

            keep_channels(
                model, block_at(plan, metal.layer).mlp.intermediate_size, metal.inputs if self.algorithm else {}
            )  # type: ignore[arg-type]
        return model
