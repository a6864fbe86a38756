"""A single linear layer to be run: copies of it in turn, so that every call meets weights that left the cache."""

from collections.abc import Callable
from copy import deepcopy
from typing import TYPE_CHECKING, Any

from ridgepoint.workload import LinearLayer, Plan

if TYPE_CHECKING:
    from torch import nn

__all__ = ["rotate", "rotated"]

_ROTATED_BYTES = 3.0
_MOST_COPIES = 512


def rotated(
    layer: LinearLayer, plan: Plan, convert: "Callable[[nn.Module, int | None], nn.Module]", cache_bytes: float
) -> "nn.ModuleList":
    """Copies of the converted layer, together three times the last-level cache."""
    from torch import nn

    from ridgepoint.kernels.ladder import TORCH_DTYPES

    linear = nn.utils.skip_init(nn.Linear, layer.k, layer.n, bias=False, device=plan.device).requires_grad_(False)
    linear.weight.normal_(std=0.02)
    holder = convert(nn.ModuleDict({"linear": linear.to(plan.device, TORCH_DTYPES[plan.dtype])}), None)
    copies = min(max(2, int(_ROTATED_BYTES * cache_bytes / float(plan.weight_bytes) + 1)), _MOST_COPIES)
    return nn.ModuleList([holder["linear"], *(deepcopy(holder["linear"]) for _ in range(copies - 1))])


def rotate(x: Any) -> Callable[[Any], object]:
    """A step that gives x to the next copy."""
    import torch

    turn = 0

    @torch.inference_mode()
    def call(modules: Any) -> object:
        nonlocal turn
        turn = (turn + 1) % len(modules)
        return modules[turn](x)

    return call
