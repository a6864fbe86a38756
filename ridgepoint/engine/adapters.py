"""Adapters on metal: LoRA by peft beside linear layers, over weights as they are or in NF4 by bitsandbytes; merged and taken out.

QLoRA (Dettmers et al., arXiv 2305.14314): the base in NF4 without double quantisation, adapters and activations in bf16.
"""

from collections.abc import Callable, Collection
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import torch
from torch import nn

from ridgepoint.errors import NotSupported

__all__ = ["AdapterShape", "adapter_parameters", "inject", "merge", "quantise_base", "unmerge"]


@dataclass(frozen=True, slots=True)
class AdapterShape:
    """Rank r and scale alpha: y = x Wᵀ + (alpha / r) (x Aᵀ) Bᵀ."""

    rank: int
    alpha: int


def quantise_base(model: nn.Module, chosen: Callable[[str], bool]) -> nn.Module:
    """Each `nn.Linear` whose qualified name is `chosen` as bitsandbytes' `Linear4bit`: NF4, blocks of 64, fp32 scales.

    It computes in the activations' dtype by dequantising the whole matrix, forward and for the gradient of its input; the
    packed CPU kernel of inference has no gradient.
    """
    if find_spec("bitsandbytes") is None:
        raise NotSupported(
            "qlora stores the base by bitsandbytes, which is not installed; pip install 'ridgepoint[metal]'"
        )
    from ridgepoint.kernels.nf4 import trainable_nf4

    for name, module in list(model.named_modules()):
        if isinstance(module, nn.Linear) and chosen(name):
            parent, _, leaf = name.rpartition(".")
            setattr(model.get_submodule(parent), leaf, trainable_nf4(module))
    model.is_loaded_in_4bit = True  # by this peft knows to use its own layer for bitsandbytes, which can merge
    return model


def inject(model: nn.Module, names: Collection[str], shape: AdapterShape, dtype: torch.dtype) -> nn.Module:
    """`model` with an adapter beside each linear layer of these names (their last part); everything else is frozen.

    A is drawn at random, B is 0, as in the paper, so that outputs do not change at first. Adapters are in `dtype`, that of
    the activations: peft's `get_peft_model` would keep them in fp32 and cast around them.
    """
    if find_spec("peft") is None:
        raise NotSupported("adapters are made by peft, which is not installed; pip install 'ridgepoint[train]'")
    from peft import LoraConfig, inject_adapter_in_model

    config = LoraConfig(r=shape.rank, lora_alpha=shape.alpha, target_modules=list(names), bias="none", lora_dropout=0.0)
    model = inject_adapter_in_model(config, model)
    for parameter in adapter_parameters(model).values():
        parameter.data = parameter.data.to(dtype)
    return model


def adapter_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """Parameters of all adapters by name; none where the model has none."""
    return {name: p for name, p in model.named_parameters() if ".lora_A." in name or ".lora_B." in name}


def merge(model: nn.Module) -> None:
    """Add every adapter to the weights beside it, W + (alpha / r) B A: outputs stay, and the two thin products go.

    NF4 weights are dequantised, added to and quantised again, which moves them by up to a quantisation step.
    """
    for layer in _adapted(model):
        layer.merge()


def unmerge(model: nn.Module) -> None:
    """Take every adapter out again: weights come back up to the rounding of one addition and one subtraction; NF4 ones up to
    being quantised once more."""
    for layer in _adapted(model):
        layer.unmerge()


def _adapted(model: nn.Module) -> list[Any]:
    from peft.tuners.lora.layer import LoraLayer

    layers = [module for module in model.modules() if isinstance(module, LoraLayer)]
    if not layers:
        raise NotSupported("the model has no adapters to merge; a side with lora has")
    return layers
