"""The algorithms by name: what each does to a layer before its codes are chosen, and how it chooses them."""

from collections.abc import Mapping

from torch import nn

from ridgepoint.engine.convert import ChooseCodes
from ridgepoint.engine.quantise.awq import awq_codes, awq_scale
from ridgepoint.engine.quantise.gptq import gptq
from ridgepoint.engine.quantise.inputs import Inputs
from ridgepoint.engine.quantise.smooth import smooth
from ridgepoint.kernels.codes import Codes, Grid, nearest

__all__ = ["chosen_codes"]


def chosen_codes(algorithm: str, inputs: Mapping[str, Inputs]) -> ChooseCodes:
    """What `replace_linears` asks for the codes of a layer's linear layers; `inputs` are those of that layer."""

    def choose(layer: nn.Module, grids: Mapping[str, Grid]) -> dict[str, Codes]:
        if algorithm == "awq":
            awq_scale(layer, inputs, grids)
        elif algorithm == "smooth":
            smooth(layer, inputs, grids)
        return {name: _codes(algorithm, layer.get_submodule(name), inputs[name], grid) for name, grid in grids.items()}

    return choose


def _codes(algorithm: str, linear: nn.Module, inputs: Inputs, grid: Grid) -> Codes:
    weight = linear.weight.detach().float()
    if algorithm == "gptq":
        return gptq(weight, inputs.hessian, grid)
    return awq_codes(weight, inputs, grid) if algorithm == "awq" else nearest(weight, grid)
