"""Replaces the linear layers of any module by those of a kernel."""

from collections.abc import Callable

import torch
from torch import nn

from ridgepoint.errors import NotSupported
from ridgepoint.kernels.ladder import LinearKernel

__all__ = ["replace_linears"]

Select = Callable[[str, nn.Linear], LinearKernel | None]


@torch.no_grad()
def replace_linears(model: nn.Module, select: Select, act: str, group: int = 0) -> nn.Module:
    """The same `model` with each `nn.Linear` that `select(qualified name, module)` gives a kernel packed for it.

    `act` is the dtype of the activations ("fp32", "bf16", "fp16"), `group` the inputs per scale where the format has
    groups. A layer whose kernel is None stays. Raises NotSupported, before anything is changed, if a kernel cannot
    take `act`, a shape or this machine.
    """
    chosen = [
        (name, module, kernel)
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and (kernel := select(name, module)) is not None
    ]
    for name, module, kernel in chosen:
        _refuse(name, module, kernel, act, group)
    for name, module, kernel in chosen:
        bias = None if module.bias is None else module.bias.detach().float()
        packed = kernel.pack(module.weight.detach().float(), bias, act, group)
        if not name:
            return packed
        parent, _, leaf = name.rpartition(".")
        setattr(model.get_submodule(parent), leaf, packed)
    return model


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
