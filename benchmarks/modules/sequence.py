"""Networks over sequences and vectors for scoring predictions: encoder, decoder with odd sizes, mixer, perceptron."""

import itertools

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Attention(nn.Module):
    """Self-attention with one projection in and one out, by torch's kernel or by hand."""

    def __init__(self, wide: int, heads: int, causal: bool, by_hand: bool = False):
        super().__init__()
        self.qkv, self.out = nn.Linear(wide, 3 * wide), nn.Linear(wide, wide)
        self.heads, self.causal, self.by_hand = heads, causal, by_hand

    def forward(self, x: Tensor) -> Tensor:
        b, t, c = x.shape
        q, k, v = self.qkv(x).view(b, t, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4)
        if self.by_hand:
            scores = q @ k.transpose(-2, -1) * (c // self.heads) ** -0.5
            y = scores.softmax(-1) @ v
        else:
            y = F.scaled_dot_product_attention(q, k, v, is_causal=self.causal)
        return self.out(y.transpose(1, 2).reshape(b, t, c))


class Layer(nn.Module):
    """Norm, attention, add, norm, feed-forward, add."""

    def __init__(self, wide: int, heads: int, inner: int, causal: bool, by_hand: bool = False):
        super().__init__()
        self.norm1, self.attention = nn.LayerNorm(wide), Attention(wide, heads, causal, by_hand)
        self.norm2, self.up, self.down = nn.LayerNorm(wide), nn.Linear(wide, inner), nn.Linear(inner, wide)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x))
        return x + self.down(F.gelu(self.up(self.norm2(x))))


class Text(nn.Module):
    """Token and position tables, layers, norm, head."""

    def __init__(self, vocab: int, length: int, wide: int, layers: list[Layer], outputs: int):
        super().__init__()
        self.tokens, self.positions = nn.Embedding(vocab, wide), nn.Parameter(torch.zeros(length, wide))
        self.layers, self.norm, self.head = nn.ModuleList(layers), nn.LayerNorm(wide), nn.Linear(wide, outputs)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.tokens(tokens) + self.positions[: tokens.shape[1]]
        for layer in self.layers:
            x = layer(x)
        return self.head(self.norm(x))


class Mixer(nn.Module):
    """Mixes over patches, then over channels (MLP-Mixer, arXiv 2105.01601)."""

    def __init__(self, patches: int, wide: int, inner: int, outer: int):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(wide), nn.LayerNorm(wide)
        self.over_patches = nn.Sequential(nn.Linear(patches, inner), nn.GELU(), nn.Linear(inner, patches))
        self.over_channels = nn.Sequential(nn.Linear(wide, outer), nn.GELU(), nn.Linear(outer, wide))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.over_patches(self.norm1(x).transpose(1, 2)).transpose(1, 2)
        return x + self.over_channels(self.norm2(x))


class Patched(nn.Module):
    """Patches by a strided convolution, a body, the mean over patches, a head."""

    def __init__(self, size: int, wide: int, body: nn.Module, outputs: int):
        super().__init__()
        self.patch, self.body = nn.Conv2d(3, wide, size, size), body
        self.norm, self.head = nn.LayerNorm(wide), nn.Linear(wide, outputs)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch(x).flatten(2).transpose(1, 2)
        return self.head(self.norm(self.body(x)).mean(1))


def encoder() -> tuple[nn.Module, Tensor]:
    """21M parameters, 72 tokens, attention by hand."""
    layers = [Layer(344, 4, 1376, False, by_hand=True) for _ in range(8)]
    return Text(27000, 96, 344, layers, 12), torch.randint(0, 27000, (2, 72))


def decoder() -> tuple[nn.Module, Tensor]:
    """58M parameters, 100 tokens, odd sizes."""
    layers = [Layer(552, 6, 1932, True) for _ in range(11)]
    return Text(9001, 160, 552, layers, 9001), torch.randint(0, 9001, (2, 100))


def long() -> tuple[nn.Module, Tensor]:
    """8M parameters, 760 tokens."""
    return Text(3000, 800, 360, [Layer(360, 6, 1080, True) for _ in range(4)], 3000), torch.randint(0, 3000, (2, 760))


def short() -> tuple[nn.Module, Tensor]:
    """1.7M parameters, 48 tokens."""
    return Text(3000, 64, 144, [Layer(144, 4, 576, False) for _ in range(5)], 10), torch.randint(0, 3000, (2, 48))


def low() -> tuple[nn.Module, Tensor]:
    """1.1M parameters, 3x48x48."""
    return Patched(8, 136, nn.Sequential(*(Mixer(36, 136, 72, 544) for _ in range(7))), 20), torch.randn(2, 3, 48, 48)


def narrow() -> tuple[nn.Module, Tensor]:
    """0.9M parameters, 300 inputs."""
    wide = [300, 600, 600, 600, 60]
    layers = itertools.chain.from_iterable((nn.Linear(a, b), nn.ReLU()) for a, b in itertools.pairwise(wide))
    return nn.Sequential(*layers), torch.randn(4, 300)


def slim() -> tuple[nn.Module, Tensor]:
    """1M parameters in 40 layers: most of a small batch is calls."""
    layers = itertools.chain.from_iterable((nn.Linear(160, 160), nn.LayerNorm(160), nn.GELU()) for _ in range(40))
    return nn.Sequential(*layers), torch.randn(4, 160)


def large() -> tuple[nn.Module, Tensor]:
    """256M parameters, 40 tokens."""
    layers = [Layer(1160, 10, 4640, True) for _ in range(14)]
    return Text(13000, 64, 1160, layers, 13000), torch.randint(0, 13000, (2, 40))


def mixer() -> tuple[nn.Module, Tensor]:
    """11M parameters, 3x120x120."""
    body = nn.Sequential(*(Mixer(100, 328, 176, 1312) for _ in range(10)))
    return Patched(12, 328, body, 250), torch.randn(2, 3, 120, 120)


def perceptron() -> tuple[nn.Module, Tensor]:
    """25M parameters, 700 inputs."""
    wide = [700, 2600, 2600, 2600, 2600, 900, 40]
    layers: list[nn.Module] = []
    for a, b in itertools.pairwise(wide):
        layers += [nn.Linear(a, b), nn.ReLU()]
    return nn.Sequential(*layers[:-1]), torch.randn(4, 700)


def torch_encoder() -> tuple[nn.Module, Tensor]:
    """15M parameters, 80 vectors of 416, torch's own encoder layer."""
    layer = nn.TransformerEncoderLayer(416, 8, 1248, batch_first=True, activation="gelu")
    return nn.TransformerEncoder(layer, 9, enable_nested_tensor=False), torch.randn(2, 80, 416)
