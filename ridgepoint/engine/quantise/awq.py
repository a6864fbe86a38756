"""AWQ: scales up the inputs that matter before rounding to nearest, and narrows ranges where that lowers the error.

Shapes: weight[n, k], x[rows, k], scale[k].
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from ridgepoint.engine.models.decoder import DecoderLayer
from ridgepoint.engine.quantise.fold import fold, groups_of, shared
from ridgepoint.engine.quantise.inputs import Inputs
from ridgepoint.kernels.codes import Codes, Grid

__all__ = ["awq_codes", "awq_scale"]

_STEPS = 20
"""Exponents from 0 to 1 that are tried (Lin et al. 2023, arXiv 2306.00978, section 3.2: a grid of 20)."""
_SHRINKS = tuple(1.0 - 0.025 * i for i in range(13))
"""Ranges that are tried, as a share of the whole one (same section, "weight clipping")."""


@torch.no_grad()
def awq_scale(layer: DecoderLayer, inputs: Mapping[str, Inputs], grids: Mapping[str, Grid]) -> None:
    """Fold into each group of linear layers the factor s = mean|x|^α that rounds them best (arXiv 2306.00978, equation 5).

    α is the one of `_STEPS` with the least squared error of the group's outputs; α = 0 changes nothing.
    Left alone: groups of which a layer is in no `grids`.
    """
    for group in groups_of(layer):
        if not all(name in grids for name in group.linears):
            continue
        seen = inputs[group.linears[0]]
        best, least = None, float("inf")
        for step in range(_STEPS):
            scale = shared(_factor(seen.mean, step / _STEPS), group)
            error = sum(
                float(squared_error(_weight(layer, name), _rounded(layer, name, scale, grids[name]), seen.hessian))
                for name in group.linears
            )
            if error < least:
                best, least = scale, error
        if best is not None and bool((best != 1).any()):
            fold(layer, group, best)
            seen.divide(best)


def _factor(mean: Tensor, exponent: float) -> Tensor:
    """mean|x|^α, centred so that the greatest and the least multiply to 1."""
    scale = mean.clamp(min=1e-5).pow(exponent)
    return (scale / (scale.max() * scale.min()).sqrt()).clamp(min=1e-4)


def _weight(layer: DecoderLayer, name: str) -> Tensor:
    return layer.get_submodule(name).weight.detach().float()


def _rounded(layer: DecoderLayer, name: str, scale: Tensor, grid: Grid) -> Tensor:
    return grid.rounded(_weight(layer, name) * scale) / scale


def squared_error(weight: Tensor, other: Tensor, hessian: Tensor) -> Tensor:
    """Sum over tokens and outputs of ((W - Ŵ) x)², by the hessian of the inputs."""
    gap = weight - other
    return ((gap @ hessian) * gap).sum()


@torch.no_grad()
def awq_codes(weight: Tensor, inputs: Inputs, grid: Grid) -> Codes:
    """Codes rounded to nearest on ranges narrowed, group by group, to what lowers the error of the outputs most.

    The paper's code looks at each group's own share of the outputs; here the errors of all other groups are counted too,
    which on small models decides whether narrowing helps at all. Two sweeps over the groups.
    """
    w = grid.groups(weight)
    groups, size = w.shape[1:]
    scale, zero = grid.fit(w)
    gap = w - grid.values(grid.codes(w, scale, zero), scale, zero)
    for g in [*range(groups), *range(groups)]:
        here = slice(g * size, (g + 1) * size)
        own = inputs.hessian[here, here]
        cross = gap.flatten(1) @ inputs.hessian[:, here] - gap[:, g] @ own
        scale[:, g], narrowed, gap[:, g] = _narrowed(w[:, g], own, cross, grid)
        if zero is not None:
            zero[:, g] = narrowed
    return grid.pack(grid.codes(w, scale, zero).reshape(weight.shape), scale, zero)


def _narrowed(w: Tensor, own: Tensor, cross: Tensor, grid: Grid) -> tuple[Tensor, Tensor | None, Tensor]:
    """Scale[n], zero[n] and W - Ŵ[n, group] of one group with the least error; `cross`[n, group]: what the others add."""
    least = torch.full((len(w),), float("inf"))
    best: tuple[Tensor, Tensor | None, Tensor] | None = None
    for shrink in _SHRINKS:
        s, z = grid.fit(w, shrink)
        gap = w - grid.values(grid.codes(w, s, z), s, z)
        error = ((gap @ own + 2 * cross) * gap).sum(-1)
        better = error < least
        least = torch.where(better, error, least)
        if best is None:
            best = s, z, gap
            continue
        zero = None if z is None or best[1] is None else torch.where(better, z, best[1])
        best = torch.where(better, s, best[0]), zero, torch.where(better[:, None], gap, best[2])
    assert best is not None, "at least one range is tried"
    return best
