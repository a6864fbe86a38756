"""A linear layer that was read from a quantised checkpoint: its weight dequantised, and beside it the codes it came from."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from ridgepoint.engine.quantised.awq import read_awq
from ridgepoint.engine.quantised.compressed import read_compressed
from ridgepoint.engine.quantised.gptq import read_gptq
from ridgepoint.engine.quantised.held import Held
from ridgepoint.engine.quantised.tensors import LayerTensors
from ridgepoint.errors import BadInput, NotSupported
from ridgepoint.kernels.codes import Codes, Grid
from ridgepoint.workload.stored import StoredFormat

if TYPE_CHECKING:
    from ridgepoint.engine.checkpoint import Checkpoint  # random weights need no safetensors

__all__ = ["StoredLinear", "forget_codes", "held_codes", "read_linears"]

_READERS: dict[str, Callable[[LayerTensors, StoredFormat, int, int], Held]] = {
    "gptq": read_gptq,
    "gptq_v2": read_gptq,
    "awq": read_awq,
    "pack-quantized": read_compressed,
    "int-quantized": read_compressed,
    "naive-quantized": read_compressed,
    "float-quantized": read_compressed,
}
_UNUSED = ("input_scale", "input_zero_point")
"""Of activations, which a dequantised layer does not quantise."""


class StoredLinear(nn.Linear):
    """`weight` holds what the codes stand for, so that everything that takes a linear layer takes this one."""

    held: Held | None = None


def read_linears(
    module: nn.Module, names: Mapping[str, str], checkpoint: "Checkpoint", stored: StoredFormat
) -> tuple[set[str], set[str]]:
    """Replace each linear layer of `module` that the checkpoint quantises by one that was read from it.

    `names`: the checkpoint's name of each submodule. Returns the names of the parameters that were filled, and of the
    tensors that were read. Raises BadInput, with file and tensor, for what is missing, of another shape, dtype or range.
    """
    filled: set[str] = set()
    read: set[str] = set()
    for name, path in names.items():
        linear = module.get_submodule(name)
        if not isinstance(linear, nn.Linear) or not stored.holds(path):
            continue
        tensors = LayerTensors(checkpoint, path)
        module.set_submodule(name, _read(linear, tensors, stored))
        read |= tensors.read | {f"{path}.{leaf}" for leaf in _UNUSED if tensors.has(leaf)}
        filled |= {f"{name}.weight", f"{name}.bias"}
    return filled, read


def _read(linear: nn.Linear, tensors: LayerTensors, stored: StoredFormat) -> StoredLinear:
    if stored.layout not in _READERS:
        raise NotSupported(f"{stored.layout} weights are predicted, not read yet; {', '.join(_READERS)} are read")
    n, k = linear.out_features, linear.in_features
    like = linear.weight
    held = _READERS[stored.layout](tensors, stored, n, k)
    if held.group_of is not None and stored.weight:
        raise _not_in_runs(tensors, held.group_of, stored.group or k)
    bias = tensors.bias(n, linear.bias is not None)
    read = nn.utils.skip_init(StoredLinear, k, n, bias=bias is not None, dtype=like.dtype, device=like.device)
    read.requires_grad_(False)
    read.weight.copy_(held.dequantised())
    if bias is not None:
        read.bias.copy_(bias)
    read.held = held
    return read


def _not_in_runs(tensors: LayerTensors, group_of: Tensor, group: int) -> BadInput:
    k = len(group_of)
    stray = (group_of != torch.arange(k) // group).nonzero()
    if not len(stray):
        return BadInput(
            f"{tensors.path} has {k} inputs, not a multiple of {group}: name dequantised to compute it all the same"
        )
    leaf = "g_idx" if tensors.has("g_idx") else "weight_g_idx"
    at = int(stray[0])
    return tensors.wrong(
        leaf,
        f"puts input {at} into group {int(group_of[at])}, though config.json tells of no act-order; no kernel here reads it: "
        "name dequantised to compute it all the same",
    )


def held_codes(module: nn.Module, grids: Mapping[str, Grid]) -> dict[str, Codes]:
    """The codes of `module`'s linear layers as they were read, for the kernels of `grids`; none of random weights."""
    linears = {name: module.get_submodule(name) for name in grids}
    return {
        name: _on(linear.held.codes(grids[name]), linear.weight.device)
        for name, linear in linears.items()
        if isinstance(linear, StoredLinear) and linear.held is not None
    }


def _on(codes: Codes, device: torch.device) -> Codes:
    def moved(tensor: Tensor | None) -> Tensor | None:
        return None if tensor is None else tensor.to(device)

    return Codes(codes.q.to(device), codes.scale.to(device), moved(codes.zero), codes.grid)


def forget_codes(module: nn.Module) -> None:
    """Let go of the codes of layers that stayed dense."""
    for linear in module.modules():
        if isinstance(linear, StoredLinear):
            linear.held = None
