"""Convolutional networks for scoring predictions: residual, depthwise and plain stacks, none of a published shape."""

import itertools

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Residual(nn.Module):
    """Two 3x3 convolutions with batch norm, and a 1x1 one beside them where the shape changes."""

    def __init__(self, wide_in: int, wide: int, stride: int):
        super().__init__()
        self.conv1 = nn.Conv2d(wide_in, wide, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(wide)
        self.conv2 = nn.Conv2d(wide, wide, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(wide)
        self.beside = nn.Conv2d(wide_in, wide, 1, stride, bias=False) if stride > 1 or wide_in != wide else None

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(y + (x if self.beside is None else self.beside(x)))


class Inverted(nn.Module):
    """1x1 wider, depthwise 5x5, 1x1 narrower."""

    def __init__(self, wide: int, wider: int, stride: int = 1, out: int = 0):
        super().__init__()
        self.expand = nn.Conv2d(wide, wider, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(wider)
        self.depthwise = nn.Conv2d(wider, wider, 5, stride, 2, groups=wider, bias=False)
        self.bn2 = nn.BatchNorm2d(wider)
        self.project = nn.Conv2d(wider, out or wide, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(out or wide)
        self.adds = stride == 1 and not out

    def forward(self, x: Tensor) -> Tensor:
        y = F.hardswish(self.bn1(self.expand(x)))
        y = self.bn3(self.project(F.hardswish(self.bn2(self.depthwise(y)))))
        return x + y if self.adds else y


class UNet(nn.Module):
    """Down by strides, up by transposed convolutions, with group norm and concatenation."""

    def __init__(self, wide: int):
        super().__init__()
        self.first = nn.Conv2d(3, wide, 3, padding=1)
        self.down = nn.ModuleList(nn.Conv2d(wide << i, wide << (i + 1), 3, 2, 1) for i in range(3))
        self.norms = nn.ModuleList(nn.GroupNorm(8, wide << (i + 1)) for i in range(3))
        self.up = nn.ModuleList(nn.ConvTranspose2d(wide << (i + 1), wide << i, 2, 2) for i in reversed(range(3)))
        self.join = nn.ModuleList(nn.Conv2d(2 * wide << i, wide << i, 3, padding=1) for i in reversed(range(3)))
        self.last = nn.Conv2d(wide, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.silu(self.first(x))
        kept = []
        for down, norm in zip(self.down, self.norms, strict=True):
            kept.append(x)
            x = F.silu(norm(down(x)))
        for up, join in zip(self.up, self.join, strict=True):
            x = F.silu(join(torch.cat((up(x), kept.pop()), 1)))
        return self.last(x)


def residual() -> tuple[nn.Module, Tensor]:
    """4.0M parameters, 3x112x112."""
    stages = [
        Residual(40, 40, 1),
        Residual(40, 88, 2),
        Residual(88, 176, 2),
        Residual(176, 352, 2),
        Residual(352, 352, 1),
    ]
    first = nn.Sequential(nn.Conv2d(3, 40, 7, 2, 3, bias=False), nn.BatchNorm2d(40), nn.ReLU(), nn.MaxPool2d(3, 2, 1))
    head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(352, 300))
    return nn.Sequential(first, *stages, head), torch.randn(2, 3, 112, 112)


def mobile() -> tuple[nn.Module, Tensor]:
    """1.2M parameters, 3x160x160."""
    body = [
        nn.Conv2d(3, 24, 3, 2, 1, bias=False), nn.BatchNorm2d(24), nn.Hardswish(),
        Inverted(24, 72, 2, 40), Inverted(40, 120), Inverted(40, 160, 2, 80), Inverted(80, 320), Inverted(80, 320, 2, 160),
        Inverted(160, 640), Inverted(160, 640),
    ]  # fmt: skip
    return nn.Sequential(*body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(160, 500)), torch.randn(2, 3, 160, 160)


def unet() -> tuple[nn.Module, Tensor]:
    """1.6M parameters, 3x96x96."""
    return UNet(36), torch.randn(2, 3, 96, 96)


def plain() -> tuple[nn.Module, Tensor]:
    """12M parameters, of them most in the head, 3x64x64."""
    wide = [3, 48, 96, 144, 208]
    layers: list[nn.Module] = []
    for a, b in itertools.pairwise(wide):
        layers += [nn.Conv2d(a, b, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
    return nn.Sequential(
        *layers, nn.Flatten(), nn.Linear(208 * 16, 3000), nn.ReLU(), nn.Linear(3000, 200)
    ), torch.randn(2, 3, 64, 64)


class Thin(nn.Module):
    """Residual stages for small images, narrow."""

    def __init__(self, wide: int) -> None:
        super().__init__()
        self.first, self.bn = nn.Conv2d(3, wide, 3, padding=1, bias=False), nn.BatchNorm2d(wide)
        widths = [wide, wide, wide, 2 * wide, 2 * wide, 4 * wide, 4 * wide]
        self.body = nn.Sequential(*(Residual(a, b, b // a) for a, b in itertools.pairwise(widths)))
        self.head = nn.Linear(4 * wide, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(F.relu(self.bn(self.first(x)))).mean((2, 3)))


def thin() -> tuple[nn.Module, Tensor]:
    """0.5M parameters, 3x32x32."""
    return Thin(28), torch.randn(2, 3, 32, 32)
