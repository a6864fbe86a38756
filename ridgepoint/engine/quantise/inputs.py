"""What the linear layers of a decoder layer are given on a calibration text, gathered while it runs.

Shapes: B windows, T tokens of each, M = B T rows, C hidden size, k inputs of a linear layer.
"""

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ridgepoint.engine.models.decoder import DecoderLayer, DecoderModel

__all__ = ["Inputs", "Walk"]

_WINDOWS = 16
"""Windows in one pass of a layer."""


@dataclass
class Inputs:
    """Of one linear layer over all calibration tokens: hessian[k, k] = sum x xᵀ, mean |x|[k], most |x|[k]."""

    hessian: Tensor
    mean: Tensor
    most: Tensor
    count: int = 0

    @staticmethod
    def empty(k: int) -> "Inputs":
        """Before the first token."""
        return Inputs(torch.zeros(k, k), torch.zeros(k), torch.zeros(k))

    @property
    def norms(self) -> Tensor:
        """[k], the root of the sum of x² over all tokens."""
        return self.hessian.diagonal().clamp(min=0.0).sqrt()

    def divide(self, scale: Tensor) -> None:
        """The same inputs after a factor[k] has been taken out of them."""
        self.hessian = self.hessian / scale[:, None] / scale
        self.mean, self.most = self.mean / scale, self.most / scale

    def keep(self, kept: Tensor) -> None:
        """The same inputs after all but those have been removed."""
        self.hessian = self.hessian[kept][:, kept]
        self.mean, self.most = self.mean[kept], self.most[kept]

    def add(self, x_MK: Tensor) -> None:
        """Count more rows."""
        x = x_MK.float()
        size = x.abs()
        self.hessian.addmm_(x.t(), x)
        self.mean = (self.mean * self.count + size.sum(0)) / (self.count + len(x))
        self.most = torch.maximum(self.most, size.amax(0))
        self.count += len(x)


Rewrite = Callable[[nn.Module, Mapping[str, Inputs]], nn.Module]


class Walk:
    """Carries the calibration tokens from layer to layer while a model is built, as GPTQ does: the inputs of a layer are the
    outputs of the layers before it as they have been rewritten (arXiv 2210.17323, section 4, "setup").

    Call it on the model without layers first, then on each layer in order. Everything is computed in fp32 with the weights
    that kernels stand for, whatever their dtype. Ignored: the rounding of activations.
    """

    def __init__(self, tokens_BT: Tensor):
        self._tokens_BT = tokens_BT
        self._states_BTC: Tensor | None = None

    @torch.no_grad()
    def __call__(self, module: nn.Module, rewrite: Rewrite) -> nn.Module:
        """`rewrite(module, inputs by name)`; `inputs` is empty for the model without its layers."""
        if isinstance(module, DecoderModel):
            self._states_BTC = module.embedded(self._tokens_BT).view(*self._tokens_BT.shape, -1).float()
            return rewrite(module, {})
        assert isinstance(module, DecoderLayer), "a model is built from its outside to its last layer"
        plain = _in_fp32(module)
        with _gathered(plain) as inputs:
            self._run(plain)
        rewritten = rewrite(module, inputs)
        self._states_BTC = self._run(_in_fp32(rewritten))
        return rewritten

    def _run(self, layer: nn.Module) -> Tensor:
        assert self._states_BTC is not None
        out = []
        for block_BTC in self._states_BTC.split(_WINDOWS):
            batch, length, width = block_BTC.shape
            cache = torch.zeros(batch, layer.kv_heads, length, layer.head_dim)
            y = layer(block_BTC.reshape(-1, width), batch, cache, torch.zeros_like(cache), 0, None)
            out.append(y.view(batch, length, width))
        return torch.cat(out)


def _in_fp32(layer: nn.Module) -> nn.Module:
    """A copy of the layer with plain linear layers of the weights that its kernels hold."""
    copied = copy.deepcopy(layer)
    for name, module in list(copied.named_modules()):
        if hasattr(module, "dequantised"):
            parent, _, leaf = name.rpartition(".")
            setattr(copied.get_submodule(parent), leaf, _dense(layer.get_submodule(name)))
    return copied.float()


def _dense(kernel: nn.Module) -> nn.Linear:
    weight = kernel.dequantised().float()
    linear = nn.utils.skip_init(nn.Linear, weight.shape[1], weight.shape[0], bias=kernel.bias is not None)
    linear.weight = nn.Parameter(weight, requires_grad=False)
    if kernel.bias is not None:
        linear.bias = nn.Parameter(kernel.bias.float(), requires_grad=False)
    return linear


@contextmanager
def _gathered(layer: nn.Module) -> Iterator[dict[str, Inputs]]:
    """Inputs of each linear layer by name, complete when the block ends; layers that are given one tensor share theirs."""
    found: dict[str, Inputs] = {}
    last: tuple[Tensor | None, Inputs | None] = None, None

    def note(name: str, x: Tensor) -> None:
        nonlocal last
        if x is last[0] and last[1] is not None:
            found[name] = last[1]
            return
        inputs = found.setdefault(name, Inputs.empty(x.shape[-1]))
        inputs.add(x.detach().flatten(0, -2))
        last = x, inputs

    hooks = [
        module.register_forward_pre_hook(lambda _, args, name=name: note(name, args[0]))
        for name, module in layer.named_modules()
        if isinstance(module, nn.Linear)
    ]
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()
