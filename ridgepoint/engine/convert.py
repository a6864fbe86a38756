"""Replaces the linear layers of any module by those of a kernel."""

from collections.abc import Callable, Mapping

import torch
from torch import nn

from ridgepoint.errors import NotSupported
from ridgepoint.kernels.codes import Codes, Grid
from ridgepoint.kernels.ladder import LinearKernel

__all__ = ["ChooseCodes", "replace_linears"]

Select = Callable[[str, nn.Linear], LinearKernel | None]
ChooseCodes = Callable[[nn.Module, Mapping[str, Grid]], Mapping[str, Codes]]
"""(module, grid by name of its linear layers) -> codes by name; it may change what the module's other parts hold."""


@torch.no_grad()
def replace_linears(
    model: nn.Module, select: Select, act: str, group: int = 0, choose: ChooseCodes | None = None
) -> nn.Module:
    """The same `model` with each `nn.Linear` that `select(qualified name, module)` gives a kernel packed for it.

    `act` is the dtype of the activations ("fp32", "bf16", "fp16"), `group` the inputs per scale where the format has
    groups. A layer whose kernel is None stays. Codes are those of `choose`, else the nearest. Raises NotSupported, before
    anything is changed, if a kernel cannot take `act`, a shape, this machine or codes that it did not choose.
    """
    chosen = [
        (name, module, kernel)
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and (kernel := select(name, module)) is not None
    ]
    for name, module, kernel in chosen:
        _refuse(name, module, kernel, act, group)
    codes = choose(model, {name: _grid(name, kernel, group) for name, _, kernel in chosen}) if choose and chosen else {}
    for name, module, kernel in chosen:
        bias = None if module.bias is None else module.bias.detach().float()
        if name in codes:
            assert kernel.pack_codes is not None, "a kernel with a grid packs its codes"
            packed = kernel.pack_codes(codes[name], bias, act)
        else:
            packed = kernel.pack(module.weight.detach().float(), bias, act, group)
        if not name:
            return packed
        parent, _, leaf = name.rpartition(".")
        setattr(model.get_submodule(parent), leaf, packed)
    return model


def _grid(name: str, kernel: LinearKernel, group: int) -> Grid:
    if kernel.grid is None:
        raise NotSupported(f"{name} by {kernel.name}: this kernel chooses its codes itself; no other algorithm can")
    return kernel.grid.grouped(group) if kernel.grid.group else kernel.grid


def _refuse(name: str, module: nn.Linear, kernel: LinearKernel, act: str, group: int) -> None:
    what = f"{name or 'linear layer'} by {kernel.name}"
    if reason := kernel.available():
        raise NotSupported(f"{what}: {reason}")
    if module.weight.device.type != kernel.device:
        raise NotSupported(f"{what}: the layer is on {module.weight.device.type}, the kernel runs on {kernel.device}")
    if act not in kernel.acts:
        raise NotSupported(f"{what}: activations in {act}; this kernel takes {' or '.join(kernel.acts)}")
    if reason := kernel.check(module.out_features, module.in_features, group):
        raise NotSupported(f"{what}: {reason}")
