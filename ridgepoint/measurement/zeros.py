"""Sparsity that is really there: zeros among the weights of a model's linear layers, counted after it was built."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn

__all__ = ["zero_share"]


def zero_share(model: "nn.Module") -> float | None:
    """Share of the weights of all linear layers but the head that are zero, as kernels multiply them; None without any.

    Of packed formats the values that they stand for: a zero that a grid of codes does not have is none.
    """
    import torch
    from torch import nn

    zeros = total = 0
    with torch.inference_mode():
        for name, module in model.named_modules():
            if name.rpartition(".")[2] == "lm_head":
                continue
            if isinstance(module, nn.Linear):
                weight = module.weight
            elif hasattr(module, "dequantised"):
                weight = module.dequantised()
            else:
                continue
            total += weight.numel()
            zeros += weight.numel() - int(weight.count_nonzero())
    return zeros / total if total else None
