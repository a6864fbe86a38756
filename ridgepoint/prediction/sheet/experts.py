"""Routed experts from the datasheet: the grouped kernel of a mixture of experts on one device."""

import numpy as np

from ridgepoint.prediction.physics.moe import MOE_FORMATS, MoeParameters, moe_time
from ridgepoint.prediction.physics.routing import rank_load
from ridgepoint.prediction.served import Experts
from ridgepoint.prediction.sheet.context import Sheet, Timed, parameters_for
from ridgepoint.prediction.sheet.linear import alike, format_of

__all__ = ["experts_time"]

_SKEW = 1.2
"""Exponent of the power law by which real tokens choose experts, among those that published tables draw."""


def experts_time(sheet: Sheet, op: Experts, expert_parallel: int = 1) -> Timed:
    """One layer's experts; rows of `op` are those of one rank, if all ranks had the same."""
    name = format_of(op.weight)
    form = MOE_FORMATS[name]
    form.peak(sheet.device)
    p, found = parameters_for(sheet, "moe", alike(name), MoeParameters)
    topk = float(op.into.chosen)
    tokens = np.asarray(op.into.m, float) * expert_parallel / topk
    inter = np.asarray(op.out.k, float)
    load = rank_load(tokens, topk, op.into.experts * expert_parallel, float(expert_parallel), _SKEW)
    return Timed(moe_time(sheet.device, p, form, load, tokens, topk, op.out.n, inter, op.gated), found)
