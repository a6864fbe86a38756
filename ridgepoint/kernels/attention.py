"""Scaled dot-product attention with grouped key/value heads, by torch's dispatch or by a pinned kernel.

Shapes: B batch, H query heads, K key/value heads, T new tokens, S keys so far, D head dim.
"""

import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from ridgepoint.errors import UnknownName
from ridgepoint.kernels.flex import flex_attention

__all__ = ["ATTENTION_KERNELS", "Attention"]

_BACKENDS = {
    "flash": SDPBackend.FLASH_ATTENTION,
    "math": SDPBackend.MATH,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
    "cudnn": SDPBackend.CUDNN_ATTENTION,
}
ATTENTION_KERNELS = ("", *_BACKENDS, "grouped", "flex")
"""The names that `Attention` takes; "" leaves the choice to torch."""


class Attention(nn.Module):
    """softmax(q kᵀ / √D) v: causal for T > 1 unless a mask[T, S] says more (new tokens behind cached ones).

    "grouped" is torch's dispatch with the query heads of one key/value head laid out as rows, which is the same sum and
    spares torch one pass over the keys per query head; it applies to decode (T = 1) and equals "" elsewhere. "flex" is
    compiled for causality and the window of its prompt, whatever the mask, and equals "" for T = 1.
    """

    def __init__(self, kernel: str = ""):
        super().__init__()
        if kernel not in ATTENTION_KERNELS:
            raise UnknownName("attention kernel", kernel, ATTENTION_KERNELS[1:])
        self.kernel = kernel

    def forward(
        self, q_BHTD: Tensor, k_BKSD: Tensor, v_BKSD: Tensor, mask_TS: Tensor | None = None, window: int = 0
    ) -> Tensor:
        kernel = self.kernel
        if kernel == "flex" and q_BHTD.shape[2] > 1:
            return flex_attention(q_BHTD, k_BKSD, v_BKSD, window)
        if kernel in ("", "flex"):
            return _attend(q_BHTD, k_BKSD, v_BKSD, mask_TS)
        if kernel != "grouped":
            with sdpa_kernel(_BACKENDS[kernel]):
                return _attend(q_BHTD, k_BKSD, v_BKSD, mask_TS)
        if q_BHTD.shape[2] > 1:
            return _attend(q_BHTD, k_BKSD, v_BKSD, mask_TS)
        b, h, _, d = q_BHTD.shape
        kv_heads = k_BKSD.shape[1]
        rows = q_BHTD.reshape(b, kv_heads, h // kv_heads, d)
        return F.scaled_dot_product_attention(rows, k_BKSD, v_BKSD).reshape(b, h, 1, d)


def _attend(q_BHTD: Tensor, k_BKSD: Tensor, v_BKSD: Tensor, mask_TS: Tensor | None) -> Tensor:
    return F.scaled_dot_product_attention(
        q_BHTD,
        k_BKSD,
        v_BKSD,
        attn_mask=mask_TS,
        is_causal=mask_TS is None and q_BHTD.shape[2] > 1,
        enable_gqa=q_BHTD.shape[1] != k_BKSD.shape[1],
    )
