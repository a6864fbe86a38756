"""Channels of the feed-forward layer and heads of attention that are removed, so that the tensors are really smaller.

Shapes: W[n, k] of n outputs and k inputs; kept[…] indices, in their old order.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from ridgepoint.engine.models.decoder import DecoderLayer
from ridgepoint.engine.quantise.inputs import Inputs

__all__ = ["keep_channels", "keep_heads"]


@torch.no_grad()
def keep_channels(layer: DecoderLayer, count: int, inputs: Mapping[str, Inputs], by_inputs: bool = False) -> None:
    """Keep the `count` intermediate channels of the highest score; nothing where there are no more than that. `inputs`, what is
    known of the layer's inputs, is cut to what is left, for choices that look at it next.

    `by_inputs`: a channel's score is the norm of its column of `down_proj` times the norm of what it is given over a
    calibration text (Wanda's, arXiv 2306.11695, summed over a column, as An et al. do in FLAP, arXiv 2312.11983); else
    times the norm of its row of `up_proj`.
    """
    wide = layer.down_proj.in_features
    if wide <= count:
        return
    into = layer.gate_up_proj if layer.mlp.fused else layer.up_proj
    score = layer.down_proj.weight.float().norm(dim=0)
    asked = by_inputs and "down_proj" in inputs
    score = score * (inputs["down_proj"].norms if asked else into.weight[-wide:].float().norm(dim=1))
    kept = _highest(score, count)
    if layer.mlp.fused:
        _keep_rows(layer, "gate_up_proj", torch.cat([kept, wide + kept]))
    else:
        for name in ("gate_proj", "up_proj") if layer.mlp.gated else ("up_proj",):
            _keep_rows(layer, name, kept)
    _keep_columns(layer, "down_proj", kept, inputs)


@torch.no_grad()
def keep_heads(layer: DecoderLayer, count: int, inputs: Mapping[str, Inputs], by_inputs: bool = False) -> None:
    """Keep `count` key/value heads, each with its query heads: those of the highest score, by `o_proj`'s columns as above, else
    times the norm of the head's rows of `v_proj`."""
    groups, size = layer.kv_heads, layer.head_dim
    if groups <= count:
        return
    queries = layer.heads // groups
    columns = layer.o_proj.weight.float().norm(dim=0)
    if by_inputs and "o_proj" in inputs:
        score = (columns * inputs["o_proj"].norms).view(groups, -1).norm(dim=1)
    else:
        values = (layer.qkv_proj if layer.fused else layer.v_proj).weight[-groups * size :].float()
        score = columns.view(groups, -1).norm(dim=1) * values.view(groups, -1).norm(dim=1)
    kept = _highest(score, count)
    of_queries, of_keys = _spread(kept, queries * size), _spread(kept, size)
    if layer.fused:
        q, kv = layer.heads * size, groups * size
        _keep_rows(layer, "qkv_proj", torch.cat([of_queries, q + of_keys, q + kv + of_keys]))
    else:
        for name, rows in (("q_proj", of_queries), ("k_proj", of_keys), ("v_proj", of_keys)):
            _keep_rows(layer, name, rows)
    _keep_columns(layer, "o_proj", of_queries, inputs)
    layer.heads, layer.kv_heads = count * queries, count


def _highest(score: Tensor, count: int) -> Tensor:
    return score.cpu().argsort(descending=True, stable=True)[:count].sort().values


def _spread(kept: Tensor, size: int) -> Tensor:
    """Indices of the elements of each kept block of `size`."""
    return (kept[:, None] * size + torch.arange(size)).flatten()


def _keep_rows(layer: nn.Module, name: str, rows: Tensor) -> None:
    old = layer.get_submodule(name)
    _replace(layer, name, old.weight[rows], None if old.bias is None else old.bias[rows])


def _keep_columns(layer: nn.Module, name: str, columns: Tensor, inputs: Mapping[str, Inputs]) -> None:
    old = layer.get_submodule(name)
    if name in inputs:
        inputs[name].keep(columns)
    _replace(layer, name, old.weight[:, columns], old.bias)


def _replace(layer: nn.Module, name: str, weight: Tensor, bias: Tensor | None) -> None:
    n, k = weight.shape
    new = nn.utils.skip_init(nn.Linear, k, n, bias=bias is not None, dtype=weight.dtype, device=weight.device)
    new.weight = nn.Parameter(weight.contiguous(), requires_grad=False)
    if bias is not None:
        new.bias = nn.Parameter(bias.contiguous(), requires_grad=False)
    setattr(layer, name, new)
