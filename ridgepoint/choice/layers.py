"""Whole layers that are removed, from the deep end."""

from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar

from ridgepoint.choice.base import Metal
from ridgepoint.choice.removal import Removed, decoder_of, smaller
from ridgepoint.errors import NotSupported
from ridgepoint.workload import Plan

if TYPE_CHECKING:
    from torch import nn

__all__ = ["Layers"]


class Layers(Removed):
    """`layers:0.25`: the deepest layers but the very last one (Gromov et al. 2024, arXiv 2403.17887, section 4.4: their simple
    strategy); nothing heals what is left."""

    NAMES: ClassVar[tuple[str, ...]] = ("layers",)
    AXIS: ClassVar[str] = "depth"

    def on_paper(self, plan: Plan) -> Plan:
        model = decoder_of(plan, self.spelled)
        gone = round(float(self.share) * model.layers)
        if not 1 <= gone < model.layers:
            raise NotSupported(
                f"{self.spelled} removes {gone} of {model.layers} layers of {model.name}; possible are 1 to {model.layers - 1}"
            )
        kept = (*range(model.layers - gone - 1), model.layers - 1)
        counts = [sum(model.block_of(n) == i for n in kept) for i in range(len(model.blocks))]
        blocks = tuple(replace(b, count=c) for b, c in zip(model.blocks, counts, strict=True) if c)
        return replace(smaller(plan, self.spelled, blocks), kept=kept)

    def on_metal(self, model: "nn.Module", plan: Plan, metal: Metal) -> "nn.Module":
        """Layers that are not kept are never built."""
        return model
