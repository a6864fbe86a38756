"""Small random networks beyond decoders, run whole and call by call: what a network costs beyond its operators on their own."""

import time
from collections.abc import Iterator
from typing import Any

import msgspec
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ridgepoint.measurement.calibrate.linear import DTYPES
from ridgepoint.measurement.calibrate.pool import summarise
from ridgepoint.measurement.clock import ThreadCpu
from ridgepoint.measurement.module_rows import Turns
from ridgepoint.measurement.rows import BETWEEN
from ridgepoint.measurement.trace.load import Built
from ridgepoint.measurement.trace.trace import trace_built

__all__ = ["module_net_samples"]

_LEAST, _MOST = 2, 30


class _Images(nn.Module):
    """Plain, strided, 1x1, grouped, depthwise and transposed convolutions with the norms and activations around them."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.bn1 = nn.Conv2d(3, 40, 5, 2, 2), nn.BatchNorm2d(40)
        self.wide, self.bn2 = nn.Conv2d(40, 80, 3, 2, 1), nn.BatchNorm2d(80)
        self.one, self.bn3 = nn.Conv2d(80, 208, 1), nn.BatchNorm2d(208)
        self.deep, self.bn4 = nn.Conv2d(208, 208, 3, 1, 1, groups=208), nn.BatchNorm2d(208)
        self.narrow, self.norm = nn.Conv2d(208, 80, 1), nn.GroupNorm(8, 80)
        self.grouped, self.back = nn.Conv2d(80, 80, 3, 1, 1, groups=10), nn.ConvTranspose2d(80, 56, 2, 2)
        self.last, self.head = nn.Conv2d(96, 56, 3, padding=1), nn.Linear(56, 72)

    def forward(self, x: Tensor) -> Tensor:
        wide = F.relu(self.bn1(self.first(x)))
        x = F.relu(self.bn2(self.wide(wide)))
        y = F.silu(self.bn3(self.one(x)))
        y = self.narrow(F.hardswish(self.bn4(self.deep(y))))
        x = torch.sigmoid(self.norm(x + y))
        x = self.back(self.grouped(x))
        x = self.last(torch.cat((x, wide), 1))
        return self.head(F.max_pool2d(F.relu(x), 3, 2).mean((2, 3)))


class _Tokens(nn.Module):
    """Patches, two ways of attention, mixing over tokens, norms and feed-forward layers."""

    def __init__(self, wide: int = 208, heads: int = 4, tokens: int = 49):
        super().__init__()
        self.patch, self.heads = nn.Conv2d(3, wide, 8, 8), heads
        self.norms = nn.ModuleList(nn.LayerNorm(wide) for _ in range(4))
        self.qkv, self.out = nn.Linear(wide, 3 * wide), nn.Linear(wide, wide)
        self.mix, self.unmix = nn.Linear(tokens, 80), nn.Linear(80, tokens)
        self.up, self.down = nn.Linear(wide, 720), nn.Linear(720, wide)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch(x).flatten(2).transpose(1, 2).contiguous()  # else every norm would copy first
        for norm, by_hand in zip(self.norms[:2], (True, False), strict=True):
            x = x + self._attend(norm(x), by_hand)
        x = x + self.unmix(F.gelu(self.mix(self.norms[2](x).transpose(1, 2)))).transpose(1, 2)
        return x + self.down(F.gelu(self.up(self.norms[3](x))))

    def _attend(self, x: Tensor, by_hand: bool) -> Tensor:
        b, t, c = x.shape
        q, k, v = self.qkv(x).view(b, t, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4)
        if by_hand:
            y = (q @ k.transpose(-2, -1) * (c // self.heads) ** -0.5).softmax(-1) @ v
        else:
            y = F.scaled_dot_product_attention(q, k, v)
        return self.out(y.transpose(1, 2).reshape(b, t, c))


_NETS = {
    "images": (_Images, 72, (1, 3, 17), ""), "images, channels last": (_Images, 72, (1, 3, 17), "last"),
    "tokens": (_Tokens, 56, (1, 4, 24), ""),
}  # fmt: skip
"""Network, height and width of its input, batches, layout."""


def module_net_samples(act: str, seconds: float) -> Iterator[dict[str, Any]]:
    """A sample per network and batch in one dtype: seconds of the step and of each row, and the traced network itself."""
    dtype = getattr(torch, DTYPES[act])
    for name, (made, side, batches, layout) in _NETS.items():
        order = torch.channels_last if layout else torch.contiguous_format
        torch.manual_seed(0)
        example = torch.randn(1, 3, side, side).to(memory_format=order)
        traced = trace_built(f"calibration:{name}", _built(made, example, order), (act,))
        module = _built(made, example, order).module.to(dtype)
        for batch in batches:
            x = example.to(dtype).repeat(batch, 1, 1, 1).contiguous(memory_format=order)
            whole, rows = _time(module, x, traced.in_order(act), seconds)
            timing = summarise(whole)
            yield {
                "probe": "module net", "net": name, "traced": msgspec.to_builtins(traced), "batch": batch, "act": act,
                "seconds": timing.seconds, "spread": timing.spread, "n_samples": timing.samples, "ops": rows,
            }  # fmt: skip


def _built(made: type[nn.Module], example: Tensor, order: torch.memory_format) -> Built:
    return Built(made().eval().requires_grad_(False).to(memory_format=order), (example,), {}, 1)


def _time(
    module: nn.Module, x: Tensor, rows: tuple[tuple[str, str], ...], seconds: float
) -> tuple[list[int], dict[str, float]]:
    """The whole call and, in turns with it, its operators: nanoseconds of all, seconds of the rows as shares of it."""
    clock = ThreadCpu()

    @torch.inference_mode()
    def call() -> object:
        return module(x)

    call()
    turns = Turns(clock)
    begin = time.thread_time_ns()
    while len(turns) < _LEAST or (time.thread_time_ns() - begin < seconds * 1e9 and len(turns) < _MOST):
        turns.more(call, rows)
    whole = [round(1e9 * plain_s) for plain_s, _ in turns.taken]
    step_s = float(np.percentile(whole, 20)) * 1e-9
    return whole, {row: step_s * share for row, share in turns.shares().items() if row != BETWEEN}
