"""Which weights of a linear layer become zero: those of the lowest score, of the whole layer, of a row, or of every four.

Shapes: weight, score, kept [n, k] of n outputs and k inputs.
"""

import torch
from torch import Tensor, nn

from ridgepoint.engine.quantise.inputs import Inputs

__all__ = ["kept_of_rows", "kept_of_whole", "kept_two_of_four", "prune", "scores"]


def scores(weight: Tensor, inputs: Inputs | None) -> Tensor:
    """|w|, or with the layer's inputs |w| times the norm of its input over all tokens (Wanda, arXiv 2306.11695, eq. 1)."""
    size = weight.detach().float().abs()
    return size if inputs is None else size * inputs.norms


def kept_of_whole(score: Tensor, sparsity: float) -> Tensor:
    """The highest scores of the layer: all but `sparsity` of its weights, rounded to a whole one."""
    gone = round(sparsity * score.numel())
    kept = torch.ones(score.numel(), dtype=torch.bool)
    kept[score.flatten().argsort(stable=True)[:gone]] = False
    return kept.view(score.shape)


def kept_of_rows(score: Tensor, sparsity: float) -> Tensor:
    """The highest scores of each row, which are compared with no other output's (arXiv 2306.11695, section 3)."""
    gone = round(sparsity * score.shape[1])
    kept = torch.ones(score.shape, dtype=torch.bool)
    return kept.scatter_(1, score.argsort(dim=1, stable=True)[:, :gone], False)


def kept_two_of_four(score: Tensor) -> Tensor:
    """The two highest scores of every four neighbours of a row (Mishra et al. 2021, arXiv 2104.08378)."""
    fours = score.reshape(-1, 4)
    kept = torch.ones(fours.shape, dtype=torch.bool)
    return kept.scatter_(1, fours.argsort(dim=1, stable=True)[:, :2], False).view(score.shape)


@torch.no_grad()
def prune(linear: nn.Module, sparsity: float, two_of_four: bool, inputs: Inputs | None) -> None:
    """Set the weights that are not kept to zero; the layer stays as large as it was, and has a tensor of its own: a head may
    have shared the embedding's."""
    weight = linear.weight
    score = scores(weight.cpu(), inputs)
    if two_of_four:
        kept = kept_two_of_four(score)
    elif inputs is not None:
        kept = kept_of_rows(score, sparsity)
    else:
        kept = kept_of_whole(score, sparsity)
    linear.weight = nn.Parameter(weight * kept.to(weight.device, weight.dtype), requires_grad=False)
