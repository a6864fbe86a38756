"""The operators between linear layers: norm, rotary embedding, cache write, activation, residual, look-up.

Shapes: B batch, T new tokens, M = B T rows, H query heads, K key/value heads, D head dim, L cache length.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = [
    "Add", "Embedding", "Gelu", "GeluMul", "KvWrite", "LayerNorm", "Relu", "RmsNorm", "Rope", "Scale", "SiluMul", "Softcap",
]  # fmt: skip


class RmsNorm(nn.Module):
    """x / rms(x) * weight over the last dimension of size `hidden`."""

    def __init__(self, hidden: int, eps: float = 1e-5, dtype: torch.dtype | None = None, device: str | None = None):
        super().__init__()
        self.shape, self.eps = (hidden,), eps
        self.weight = nn.Parameter(torch.ones(hidden, dtype=dtype, device=device), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, self.shape, self.weight, self.eps)


class Rope(nn.Module):
    """Rotary embedding of q[B, H, T, D] and k[B, K, T, D] at positions `position`..`position + T - 1`.

    Rotates half against half, as Hugging Face's Llama does (RoFormer, arXiv 2104.09864, up to the order of pairs).
    A deepcopy shares the tables: they are constants, and one per layer would cost more memory than a layer.
    """

    cos: Tensor
    sin: Tensor

    def __init__(
        self,
        head_dim: int,
        theta: float = 10000.0,
        max_positions: int = 2048,
        dtype: torch.dtype | None = None,
        device: str | None = None,
    ):
        super().__init__()
        self.shift = head_dim // 2
        rates = theta ** -(torch.arange(0, head_dim, 2, device=device).float() / head_dim)
        angle = torch.arange(max_positions, device=device).float()[:, None] * rates
        self.register_buffer("cos", torch.cat((angle.cos(), angle.cos()), -1).to(dtype), persistent=False)
        # the sign of the rotation lives in the table, so that a roll of x does for the rotated half
        self.register_buffer("sin", torch.cat((-angle.sin(), angle.sin()), -1).to(dtype), persistent=False)

    def forward(self, q_BHTD: Tensor, k_BKTD: Tensor, position: int) -> tuple[Tensor, Tensor]:
        end = position + q_BHTD.shape[2]
        cos, sin, shift = self.cos[position:end], self.sin[position:end], self.shift
        return (
            torch.addcmul(q_BHTD * cos, torch.roll(q_BHTD, shift, -1), sin),
            torch.addcmul(k_BKTD * cos, torch.roll(k_BKTD, shift, -1), sin),
        )

    def __deepcopy__(self, memo: dict[int, Any]) -> "Rope":
        memo[id(self.cos)], memo[id(self.sin)] = self.cos, self.sin
        twin = Rope.__new__(Rope)
        nn.Module.__init__(twin)
        twin.shift = self.shift
        twin.register_buffer("cos", self.cos, persistent=False)
        twin.register_buffer("sin", self.sin, persistent=False)
        return twin


class KvWrite(nn.Module):
    """Writes new k, v[B, K, T, D] into caches [B, K, L, D] at `position`; returns views of all so far."""

    def forward(self, k: Tensor, v: Tensor, k_cache: Tensor, v_cache: Tensor, position: int) -> tuple[Tensor, Tensor]:
        end = position + k.shape[2]
        k_cache[:, :, position:end] = k
        v_cache[:, :, position:end] = v
        return k_cache[:, :, :end], v_cache[:, :, :end]


class Add(nn.Module):
    """x + y: the residual."""

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return x + y


class SiluMul(nn.Module):
    """silu(gate) * up."""

    def forward(self, gate: Tensor, up: Tensor) -> Tensor:
        return F.silu(gate).mul_(up)


class Embedding(nn.Module):
    """Rows of weight[vocab, hidden] for integer tokens of any shape."""

    def __init__(self, vocab: int, hidden: int, dtype: torch.dtype | None = None, device: str | None = None):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(vocab, hidden, dtype=dtype, device=device), requires_grad=False)

    def forward(self, tokens: Tensor) -> Tensor:
        return F.embedding(tokens, self.weight)


class LayerNorm(nn.Module):
    """(x - mean(x)) / std(x) * weight + bias over the last dimension of size `hidden`."""

    def __init__(self, hidden: int, eps: float = 1e-5, dtype: torch.dtype | None = None, device: str | None = None):
        super().__init__()
        self.shape, self.eps = (hidden,), eps
        self.weight = nn.Parameter(torch.ones(hidden, dtype=dtype, device=device), requires_grad=False)
        self.bias = nn.Parameter(torch.zeros(hidden, dtype=dtype, device=device), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, self.shape, self.weight, self.bias, self.eps)


class GeluMul(nn.Module):
    """gelu(gate) * up, by the tanh form."""

    def forward(self, gate: Tensor, up: Tensor) -> Tensor:
        return F.gelu(gate, approximate="tanh").mul_(up)


class Gelu(nn.Module):
    """gelu(x), by the tanh form."""

    def forward(self, x: Tensor) -> Tensor:
        return F.gelu(x, approximate="tanh")


class Relu(nn.Module):
    """max(x, 0)."""

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x)


class Scale(nn.Module):
    """x * factor."""

    def __init__(self, factor: float):
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        return x * self.factor


class Softcap(nn.Module):
    """cap * tanh(x / cap)."""

    def __init__(self, cap: float):
        super().__init__()
        self.cap = cap

    def forward(self, x: Tensor) -> Tensor:
        y = (x / self.cap).tanh_()
        return y * self.cap if y.requires_grad else y.mul_(self.cap)  # the gradient of tanh needs its result as it was
