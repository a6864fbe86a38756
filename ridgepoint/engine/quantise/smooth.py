"""SmoothQuant: moves outliers of activations into the weights, so that both can be rounded to 8 bits."""

from collections.abc import Mapping

import torch

from ridgepoint.engine.models.decoder import DecoderLayer
from ridgepoint.engine.quantise.fold import fold, groups_of
from ridgepoint.engine.quantise.inputs import Inputs
from ridgepoint.kernels.codes import Grid

__all__ = ["ALPHA", "smooth"]

ALPHA = 0.5
"""How much of the difficulty goes to the weights (Xiao et al. 2022, arXiv 2211.10438, section 4)."""


@torch.no_grad()
def smooth(layer: DecoderLayer, inputs: Mapping[str, Inputs], grids: Mapping[str, Grid], alpha: float = ALPHA) -> None:
    """Fold s = max|x|^α / max|w|^(1 - α) into the layers behind norms (arXiv 2211.10438, equation 4).

    As in the paper, the inputs of the output and down projections are left as they are.
    """
    for group in groups_of(layer):
        if group.rows is not None or not all(name in grids for name in group.linears):
            continue
        seen = inputs[group.linears[0]]
        most = seen.most.clamp(min=1e-5)
        weights = torch.stack([layer.get_submodule(name).weight.float().abs().amax(0) for name in group.linears])
        widest = weights.amax(0).clamp(min=1e-5)
        scale = (most.pow(alpha) / widest.pow(1 - alpha)).clamp(min=1e-5)
        fold(layer, group, scale)
        seen.divide(scale)
