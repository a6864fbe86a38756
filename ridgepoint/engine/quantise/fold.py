"""Moves a factor per input channel from a linear layer into what comes before it, so that a layer computes the same.

Shapes: scale[k], one factor per input of the layers of a group.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ridgepoint.engine.models.decoder import DecoderLayer

__all__ = ["Group", "fold", "groups_of"]


@dataclass(frozen=True)
class Group:
    """Linear layers that share one input, and where a factor of that input can go.

    `before`: a norm, or the linear layer whose outputs `rows` the input is made of (its later half of a fused gate and up).
    `repeat`: how often each output stands in the input (grouped key/value heads), in runs of `width`.
    """

    linears: tuple[str, ...]
    before: str
    rows: tuple[int, int] | None = None
    repeat: int = 1
    width: int = 1


def groups_of(layer: DecoderLayer) -> tuple[Group, ...]:
    """The groups of a layer. Left out: inputs behind an activation that does not commute with a factor (GELU, and ReLU
    squared); outputs that are normed (sandwich norms) are no obstacle, since factors are of inputs."""
    into = ("qkv_proj",) if layer.fused else ("q_proj", "k_proj", "v_proj")
    up = ("gate_up_proj",) if layer.mlp.fused else ("gate_proj", "up_proj") if layer.mlp.gated else ("up_proj",)
    groups = [Group(into, "input_norm"), _attention_out(layer), Group(up, "post_attention_norm")]
    wide = layer.mlp.intermediate_size
    if layer.mlp.fused:
        groups.append(Group(("down_proj",), "gate_up_proj", (wide, 2 * wide)))
    elif layer.mlp.gated or layer.mlp.act == "relu":
        groups.append(Group(("down_proj",), "up_proj", (0, wide)))
    return tuple(groups)


def _attention_out(layer: DecoderLayer) -> Group:
    kv = layer.kv_heads * layer.head_dim
    shared = {"repeat": layer.heads // layer.kv_heads, "width": layer.head_dim}
    if layer.fused:
        first = (layer.heads + layer.kv_heads) * layer.head_dim
        return Group(("o_proj",), "qkv_proj", (first, first + kv), **shared)
    return Group(("o_proj",), "v_proj", (0, kv), **shared)


@torch.no_grad()
def fold(layer: nn.Module, group: Group, scale: Tensor) -> None:
    """Multiply the inputs of the group's weights by `scale` and divide what comes before by it, in place."""
    for name in group.linears:
        weight = layer.get_submodule(name).weight
        weight.copy_((weight.float() * scale).to(weight.dtype))
    before = layer.get_submodule(group.before)
    if isinstance(before, nn.Linear):
        first, last = group.rows or (0, before.out_features)
        per_row = once(scale, group)
        parts = [before.weight[first:last]] + ([] if before.bias is None else [before.bias[first:last]])
    else:
        per_row = scale
        parts = [p for p in (before.weight, getattr(before, "bias", None)) if p is not None]
    for part in parts:
        part.copy_((part.float() / (per_row[:, None] if part.dim() == 2 else per_row)).to(part.dtype))


def once(scale: Tensor, group: Group) -> Tensor:
    """scale[k] by output of what comes before: the first of each run of repeats."""
    if group.repeat == 1:
        return scale
    return scale.view(-1, group.repeat, group.width)[:, 0].reshape(-1)


def shared(scale: Tensor, group: Group) -> Tensor:
    """scale[k] with one value, the geometric mean, for inputs that one output before feeds."""
    if group.repeat == 1:
        return scale
    runs = scale.view(-1, group.repeat, group.width).log().mean(1, keepdim=True).exp()
    return runs.expand(-1, group.repeat, -1).reshape(-1)
