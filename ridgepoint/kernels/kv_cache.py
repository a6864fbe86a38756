"""Keys and values kept in int8, fp8 or int4: quantised token by token as they are written, dequantised before attention.

Shapes: B batch, K key/value heads, T new tokens, L cache length, S tokens so far, D head dim. No fused kernel on a CPU reads
such a cache: all of it becomes the activations' dtype at each step, then attention runs as ever.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ridgepoint.errors import UnknownName
from ridgepoint.kernels.pointwise import KvWrite

__all__ = ["CACHE_FORMATS", "KvRead", "KvStore", "KvWriteQuantised"]

CACHE_FORMATS = ("int8", "fp8", "int4")
_FP8_MOST = 448.0
"""Largest number of e4m3 (Micikevicius et al. 2022, arXiv 2209.05433, table 1)."""
_FP8_IN_FP16 = 256.0
"""2^(15 - 7): e4m3's bits in the places of fp16's read as a number so much smaller, subnormals included."""


@dataclass(frozen=True)
class KvStore:
    """Keys, or values, of one layer in `format`.

    int8: codes[B, K, L, D] and an fp32 scale of each token and head; int4: two codes to a byte [B, K, L, D/2], the first in
    the low half, and a bf16 scale and smallest value; fp8 (e4m3): the number itself, cut off at 448, without a scale.
    """

    format: str
    codes: Tensor
    scale: Tensor | None

    @staticmethod
    def zeros(shape: tuple[int, int, int, int], format: str, device: str = "cpu") -> "KvStore":
        """An empty store for [B, K, L, D]; UnknownName for another format."""
        if format not in CACHE_FORMATS:
            raise UnknownName("KV cache format", format, CACHE_FORMATS)
        *rows, d = shape
        if format == "int8":
            codes, scale = torch.zeros(shape, dtype=torch.int8), torch.zeros(*rows, 1)
        elif format == "int4":
            codes, scale = torch.zeros(*rows, d // 2, dtype=torch.uint8), torch.zeros(*rows, 2, dtype=torch.bfloat16)
        else:
            codes, scale = torch.zeros(shape, dtype=torch.float8_e4m3fn), None
        return KvStore(format, codes.to(device), None if scale is None else scale.to(device))

    @property
    def nbytes(self) -> int:
        """Codes and scales."""
        return self.codes.nbytes + (0 if self.scale is None else self.scale.nbytes)

    def span(self, start: int, end: int) -> "KvStore":
        """A view of the tokens from `start` to `end`."""
        return KvStore(
            self.format, self.codes[:, :, start:end], None if self.scale is None else self.scale[:, :, start:end]
        )

    @property
    def tokens(self) -> int:
        """L, or S of a view."""
        return self.codes.shape[2]

    def write(self, x_BKTD: Tensor, position: int) -> None:
        """Quantise new tokens into the places from `position` on."""
        end = position + x_BKTD.shape[2]
        if self.scale is None:
            self.codes[:, :, position:end] = x_BKTD.clamp(-_FP8_MOST, _FP8_MOST).to(self.codes.dtype)
            return
        x = x_BKTD.float()
        if self.format == "int8":
            scale = x.abs().amax(-1, keepdim=True).div_(127).clamp_(min=1e-10)
            self.codes[:, :, position:end] = x.div(scale).round_().to(torch.int8)
            self.scale[:, :, position:end] = scale
            return
        low, high = x.aminmax(dim=-1, keepdim=True)
        scale = ((high - low) / 15).clamp_(min=1e-8).bfloat16()
        low = low.bfloat16()  # codes are rounded against what is stored
        q = x.sub(low.float()).div_(scale.float()).round_().clamp_(0, 15).to(torch.uint8)
        self.codes[:, :, position:end] = q[..., ::2] | q[..., 1::2] << 4
        self.scale[:, :, position:end] = torch.cat((scale, low), -1)

    def read(self, dtype: torch.dtype) -> Tensor:
        """[B, K, S, D] in `dtype`."""
        if self.format == "fp8":
            # torch's own cast goes number by number; shifts move the bits to where fp16 has them, exactly
            bits = self.codes.view(torch.int8).to(torch.int16).bitwise_left_shift_(7).bitwise_and_(~0x4000)
            return bits.view(torch.float16).to(dtype).mul_(_FP8_IN_FP16)
        assert self.scale is not None, "integers have a scale"
        if self.format == "int8":
            return self.codes.to(dtype).mul_(self.scale.to(dtype))
        q = torch.stack((self.codes & 15, self.codes >> 4), -1).flatten(-2).to(dtype)
        scale, low = self.scale.to(dtype).split(1, -1)
        return q.mul_(scale).add_(low)

    def normal_(self) -> None:
        """Fill it with random tokens."""
        *rows, d = self.codes.shape
        wide = 2 * d if self.format == "int4" else d
        self.write(torch.randn(*rows, wide, device=self.codes.device), 0)


class KvWriteQuantised(KvWrite):
    """As KvWrite, into a `KvStore`; a plain cache is written as ever (nothing is kept there beyond the call)."""

    def forward(self, k: Tensor, v: Tensor, k_cache: Tensor | KvStore, v_cache: Tensor | KvStore, position: int):  # type: ignore[no-untyped-def,override]
        if isinstance(k_cache, Tensor) or isinstance(v_cache, Tensor):
            return super().forward(k, v, k_cache, v_cache, position)  # type: ignore[arg-type]
        end = position + k.shape[2]
        k_cache.write(k, position)
        v_cache.write(v, position)
        return k_cache.span(0, end), v_cache.span(0, end)


class KvRead(nn.Module):
    """Keys and values of all tokens so far, or of the `last` ones, in the activations' dtype."""

    def __init__(self, dtype: torch.dtype):
        super().__init__()
        self.dtype = dtype

    def forward(self, k: Tensor | KvStore, v: Tensor | KvStore, last: int = 0) -> tuple[Tensor, Tensor]:
        return self._read(k, last), self._read(v, last)

    def _read(self, x: Tensor | KvStore, last: int) -> Tensor:
        if isinstance(x, Tensor):
            return x
        return x.span(max(0, x.tokens - last) if last else 0, x.tokens).read(self.dtype)
