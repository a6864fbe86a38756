"""Feed-forward channels that are removed, so that the tensors are really smaller."""

import math
from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar

from ridgepoint.choice.base import Metal
from ridgepoint.choice.removal import Removed, block_at, decoder_of, smaller
from ridgepoint.errors import NotSupported
from ridgepoint.workload import Block, Plan

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
        return (
            max(1, round(left))
            if wide <= 2 * _MULTIPLE
            else max(_MULTIPLE, math.floor(left / _MULTIPLE + 0.5) * _MULTIPLE)
        )

    def on_paper(self, plan: Plan) -> Plan:
        return smaller(
            plan,
            self.spelled,
            tuple(
                replace(b, mlp=replace(b.mlp, intermediate_size=self._fewer(plan, b)))
                for b in decoder_of(plan, self.spelled).blocks
            ),
        )

    def _fewer(self, plan: Plan, block: Block) -> int:
        wide = block.mlp.intermediate_size
        if (kept := self.kept(wide)) >= wide:
            raise NotSupported(
                f"{self.spelled} removes none of the {wide} channels of {plan.workload.name}, as they go in multiples of "
                f"{_MULTIPLE}; channels:{min(0.99, _MULTIPLE / wide):.2g} removes some"
            )
        return kept

    def on_metal(self, model: "nn.Module", plan: Plan, metal: Metal) -> "nn.Module":
        if metal.layer is not None:
            from ridgepoint.engine.prune.structured import keep_channels

            keep_channels(model, block_at(plan, metal.layer).mlp.intermediate_size, metal.inputs, bool(self.algorithm))  # type: ignore[arg-type]
        return model
