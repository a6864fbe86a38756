"""Builds a model that runs: from random weights for measuring speed, or from a safetensors checkpoint.

`convert` is called once on the model without its layers (`lm_head`, number None) and then per decoder layer with its
number (its linear layers are named `q_proj`, `down_proj` and so on); it returns the module to use. Only one layer is held
unconverted at a time.
"""

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, cast

import torch
from torch import nn

from ridgepoint.engine.models.decoder import DecoderLayer, DecoderModel, rope_of
from ridgepoint.engine.runs import check_runs
from ridgepoint.errors import NotSupported
from ridgepoint.workload.decoder import Decoder

if TYPE_CHECKING:
    from ridgepoint.engine.checkpoint import Checkpoint

__all__ = ["Convert", "build_random", "load_safetensors"]

Convert = Callable[[nn.Module, int | None], nn.Module]
"""(module, number of the decoder layer that it is, or None) -> the module to use."""
Alike = Callable[[int], object]
"""Number of a layer -> what `convert` goes by: layers of one block that agree in it are converted once and copied."""


def _keep(module: nn.Module, layer: int | None) -> nn.Module:
    return module


def _all_alike(layer: int) -> object:
    return None


@torch.no_grad()
def build_random(
    decoder: Decoder, dtype: str, device: str = "cpu", convert: Convert = _keep, seed: int = 0,
    alike: Alike = _all_alike,
) -> DecoderModel:  # fmt: skip
    """A model for measuring speed: like layers of a block are copies of one layer of random weights (std 0.02).

    Each copy has its own memory, so that traffic is that of a real model, while filling and packing cost one layer.
    Its outputs mean nothing.
    """
    check_runs(decoder)
    generator = torch.Generator(device).manual_seed(seed)

    def fill(module: nn.Module) -> None:
        for name, weight in module.named_parameters():
            if not name.endswith("norm.weight"):
                weight.normal_(std=0.02, generator=generator)

    model = _without_layers(decoder, dtype, device)
    fill(model)
    model = cast(DecoderModel, convert(model, None))
    for block in decoder.blocks:
        kinds: dict[object, nn.Module] = {}
        for number in range(len(model.layers), len(model.layers) + block.count):
            first = kinds.get(alike(number))
            if first is None:
                layer = DecoderLayer(decoder, block, rope_of(decoder, block, dtype, device), dtype, device)
                fill(layer)
                first = kinds[alike(number)] = convert(layer, number)
                model.layers.append(first)
            else:
                model.layers.append(copy.deepcopy(first))
    return model.eval()


@torch.no_grad()
def load_safetensors(
    decoder: Decoder,
    directory: Path,
    dtype: str,
    convert: Convert = _keep,
    device: str = "cpu",
    kept: tuple[int, ...] = (),
) -> DecoderModel:
    """The checkpoint in `directory` (Hugging Face's names for Llama), cast to `dtype`, layer by layer.

    `kept`: numbers of the layers to build, () for all; `convert` is given their place among those.
    Linear layers that it holds quantised (`decoder.stored`) are given to `convert` dequantised, as `StoredLinear`s that
    remember their codes for as long.

    Raises BadInput, with file and tensor, for what is missing, of another shape or has no place in the model, and for
    pickled weights, which are never opened.
    """
    from ridgepoint.engine.checkpoint import open_checkpoint  # random weights need no safetensors

    if decoder.family not in _READ:
        raise NotSupported(
            f"{directory}: weights of the family {decoder.family} are not read yet; those of {', '.join(_READ)} are"
        )
    check_runs(decoder)
    checkpoint = open_checkpoint(directory)
    model = _without_layers(decoder, dtype, device)
    outer = _outer_names(decoder)
    blocks = [block for block in decoder.blocks for _ in range(block.count)]
    ropes = {block: rope_of(decoder, block, dtype, device) for block in decoder.blocks}
    heads = {} if decoder.tie_word_embeddings else {"lm_head": "lm_head"}
    read = _fill(model, {name: own for own, name in outer.items()}, heads, checkpoint, decoder)
    model = cast(DecoderModel, _converted(model, None, convert))
    for i, block in enumerate(blocks):
        if kept and i not in kept:
            read |= {name for name in checkpoint.file_of if name.startswith(f"model.layers.{i}.")}
            continue
        layer = DecoderLayer(decoder, block, ropes[block], dtype, device)
        linears = {name: f"model.layers.{i}.{_PARENT[name]}" for name, _ in layer.named_children() if name in _PARENT}
        read |= _fill(layer, _layer_names(i, layer), linears, checkpoint, decoder)
        model.layers.append(_converted(layer, len(model.layers), convert))
    tied = ["lm_head.weight"] if decoder.tie_word_embeddings else []
    checkpoint.refuse_unread(
        read, [*tied, *(n for n in checkpoint.file_of if decoder.stored and n.endswith(_OF_CACHE))]
    )
    return model.eval()


def _fill(
    module: nn.Module, names: dict[str, str], linears: dict[str, str], checkpoint: "Checkpoint", decoder: Decoder
) -> set[str]:
    """Fills the parameters of `module` from the tensors that `names` gives them, and its quantised `linears` from theirs;
    returns the names of the tensors that were read."""
    filled: set[str] = set()
    read: set[str] = set()
    if decoder.stored is not None:
        from ridgepoint.engine.quantised.linear import read_linears

        filled, read = read_linears(module, linears, checkpoint, decoder.stored)
    left = {name: module.get_parameter(own).detach() for own, name in names.items() if own not in filled}
    checkpoint.copy_into(left)
    return read | left.keys()


def _converted(module: nn.Module, layer: int | None, convert: Convert) -> nn.Module:
    converted = convert(module, layer)
    from ridgepoint.engine.quantised.linear import forget_codes

    forget_codes(converted)
    return converted


def _without_layers(decoder: Decoder, dtype: str, device: str) -> DecoderModel:
    model = DecoderModel(replace(decoder, blocks=()), dtype, device)
    model.decoder = decoder
    return model


def _outer_names(decoder: Decoder) -> dict[str, str]:
    names = {"model.embed_tokens.weight": "embed_tokens.weight", "model.norm.weight": "final_norm.weight"}
    return names if decoder.tie_word_embeddings else {**names, "lm_head.weight": "lm_head.weight"}


_OF_CACHE = (".k_scale", ".v_scale")
"""Scales of a quantised KV cache that some quantised checkpoints hold: the plan's own `kv` choice has none of a tensor."""
_READ = ("llama", "smollm", "mistral", "qwen2", "qwen3", "phi3")
"""Families whose checkpoints have Llama's names."""
_PARENT = {
    "input_norm": "input_layernorm", "post_attention_norm": "post_attention_layernorm",
    **{name: f"self_attn.{name}" for name in ("q_proj", "k_proj", "v_proj", "qkv_proj", "o_proj", "q_norm", "k_norm")},
    **{name: f"mlp.{name}" for name in ("gate_proj", "up_proj", "gate_up_proj", "down_proj")},
}  # fmt: skip
"""Where Hugging Face's Llama keeps the weights of our modules."""


def _layer_names(index: int, layer: DecoderLayer) -> dict[str, str]:
    """The checkpoint's name of each parameter of a layer."""
    names = {}
    for name, _ in layer.named_parameters():
        module, _, leaf = name.rpartition(".")
        names[name] = f"model.layers.{index}.{_PARENT[module]}.{leaf}"
    return names
