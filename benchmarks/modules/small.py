"""Small networks for scoring predictions, first run when the laws of small calls stood: digits, waves, words, tables, scenes."""

import itertools

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Gated(nn.Module):
    """A dilated convolution over time with a gate, and a 1x1 convolution back (WaveNet, arXiv 1609.03499)."""

    def __init__(self, wide: int, dilation: int):
        super().__init__()
        self.both = nn.Conv1d(wide, 2 * wide, 3, padding=dilation, dilation=dilation)
        self.back = nn.Conv1d(wide, wide, 1)

    def forward(self, x: Tensor) -> Tensor:
        value, gate = self.both(x).chunk(2, 1)
        return x + self.back(torch.tanh(value) * torch.sigmoid(gate))


class Crossing(nn.Module):
    """Products of the input with itself beside a perceptron (Deep & Cross, arXiv 1708.05123)."""

    def __init__(self, fields: int, wide: int, crosses: int, inner: int):
        super().__init__()
        self.tables = nn.ModuleList(nn.Embedding(500, wide) for _ in range(fields))
        every = fields * wide
        self.cross = nn.ModuleList(nn.Linear(every, every) for _ in range(crosses))
        self.deep = nn.Sequential(nn.Linear(every, inner), nn.ReLU(), nn.Linear(inner, inner), nn.ReLU())
        self.head = nn.Linear(every + inner, 1)

    def forward(self, fields: Tensor) -> Tensor:
        first = x = torch.cat([table(fields[:, i]) for i, table in enumerate(self.tables)], 1)
        for cross in self.cross:
            x = first * cross(x) + x
        return torch.sigmoid(self.head(torch.cat((x, self.deep(first)), 1)))


class Words(nn.Module):
    """Token table, layers of causal attention with RMS norms and gated feed-forward, head."""

    def __init__(self, vocab: int, wide: int, heads: int, inner: int, layers: int):
        super().__init__()
        self.table, self.heads = nn.Embedding(vocab, wide), heads
        self.norms = nn.ModuleList(nn.RMSNorm(wide) for _ in range(2 * layers))
        self.qkv = nn.ModuleList(nn.Linear(wide, 3 * wide, bias=False) for _ in range(layers))
        self.out = nn.ModuleList(nn.Linear(wide, wide, bias=False) for _ in range(layers))
        self.up = nn.ModuleList(nn.Linear(wide, 2 * inner, bias=False) for _ in range(layers))
        self.down = nn.ModuleList(nn.Linear(inner, wide, bias=False) for _ in range(layers))
        self.head = nn.Linear(wide, vocab, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.table(tokens)
        b, t, c = x.shape
        for i, (qkv, out, up, down) in enumerate(zip(self.qkv, self.out, self.up, self.down, strict=True)):
            parts = qkv(self.norms[2 * i](x)).view(b, t, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4)
            y = F.scaled_dot_product_attention(*parts.unbind(0), is_causal=True)
            x = x + out(y.transpose(1, 2).reshape(b, t, c))
            gate, value = up(self.norms[2 * i + 1](x)).chunk(2, -1)
            x = x + down(F.silu(gate) * value)
        return self.head(x)


class Scenes(nn.Module):
    """Convolutions with group norm and average pooling, as for small pictures of a game."""

    def __init__(self, wide: int):
        super().__init__()
        widths = [3, wide, 2 * wide, 4 * wide]
        self.convs = nn.ModuleList(nn.Conv2d(a, b, 3, padding=1) for a, b in itertools.pairwise(widths))
        self.norms = nn.ModuleList(nn.GroupNorm(8, b) for b in widths[1:])
        self.head = nn.Linear(4 * wide * 36, 18)

    def forward(self, x: Tensor) -> Tensor:
        for conv, norm in zip(self.convs, self.norms, strict=True):
            x = F.avg_pool2d(F.relu(norm(conv(x))), 2)
        return self.head(x.flatten(1))


def digits() -> tuple[nn.Module, Tensor]:
    """0.4M parameters, 1x28x28: two convolutions and two linear layers."""
    body = [nn.Conv2d(1, 20, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(20, 50, 5), nn.ReLU(), nn.MaxPool2d(2)]
    return nn.Sequential(*body, nn.Flatten(), nn.Linear(800, 500), nn.Tanh(), nn.Linear(500, 10)), torch.randn(
        2, 1, 28, 28
    )


def waves() -> tuple[nn.Module, Tensor]:
    """0.4M parameters, 1x600: nine gated convolutions over time."""
    body = [Gated(84, 2 ** (i % 5)) for i in range(9)]
    return nn.Sequential(nn.Conv1d(1, 84, 5, 2, 2), *body, nn.Conv1d(84, 30, 1)), torch.randn(2, 1, 600)


def words() -> tuple[nn.Module, Tensor]:
    """1.8M parameters, 90 tokens."""
    return Words(1500, 168, 4, 432, 4), torch.randint(0, 1500, (2, 90))


def table() -> tuple[nn.Module, Tensor]:
    """1.2M parameters, 22 fields of a table."""
    return Crossing(22, 20, 3, 420), torch.randint(0, 500, (4, 22))


def scenes() -> tuple[nn.Module, Tensor]:
    """0.2M parameters, 3x48x48."""
    return Scenes(32), torch.randn(2, 3, 48, 48)
