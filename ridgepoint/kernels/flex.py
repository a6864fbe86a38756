"""FlexAttention: attention with a rule for which keys a query sees, compiled for it, which skips blocks that the rule hides.

Shapes: B batch, H query heads, K key/value heads, T new tokens, S keys so far (S >= T), D head dim.
"""

from functools import cache, partial
from typing import Any

import torch
from torch import Tensor

from ridgepoint.errors import NotSupported

__all__ = ["BLOCK", "flex_attention"]

BLOCK = 128
"""Queries and keys of a block: one is computed whole if any of its pairs is seen (Dong et al. 2024, arXiv 2412.05496)."""


def flex_attention(q_BHTD: Tensor, k_BKSD: Tensor, v_BKSD: Tensor, window: int = 0) -> Tensor:
    """softmax(q kᵀ / √D) v where a new token sees the keys up to its own, of those the last `window` (0: all).

    The first call for a shape compiles, 10 to 20 s on one core. NotSupported where torch cannot compile it here.
    """
    new, keys = q_BHTD.shape[2], k_BKSD.shape[2]
    mask = _block_mask(new, keys, window, q_BHTD.device.type)
    return _compiled()(q_BHTD, k_BKSD, v_BKSD, mask)


class _Flex:
    """torch's FlexAttention, compiled at the first call of each shape. Beyond so many shapes torch would fall back to running
    it uncompiled, tens of times slower, without an error: here that is one."""

    def __init__(self) -> None:
        from torch.nn.attention import flex_attention as torch_flex

        self._call = torch.compile(torch_flex.flex_attention, dynamic=False)
        self._seen: set[object] = set()

    def __call__(self, q_BHTD: Tensor, k_BKSD: Tensor, v_BKSD: Tensor, mask: Any) -> Tensor:
        grouped = q_BHTD.shape[1] != k_BKSD.shape[1]
        key = (q_BHTD.shape, k_BKSD.shape, q_BHTD.dtype, q_BHTD.stride(), k_BKSD.stride(), id(mask))
        if key in self._seen:
            return self._call(q_BHTD, k_BKSD, v_BKSD, block_mask=mask, enable_gqa=grouped)
        from torch._dynamo import config

        try:
            with config.patch(recompile_limit=_SHAPES, fail_on_recompile_limit_hit=True):
                out = self._call(q_BHTD, k_BKSD, v_BKSD, block_mask=mask, enable_gqa=grouped)
        except (RuntimeError, AssertionError) as error:  # torch's own errors of the compiler derive from RuntimeError
            raise NotSupported(
                f"flex: torch cannot compile FlexAttention here: {str(error).splitlines()[0]}"
            ) from error
        self._seen.add(key)
        return out


_SHAPES = 64
"""Shapes that one process may compile."""


@cache
def _compiled() -> _Flex:
    return _Flex()


@cache
def _block_mask(new: int, keys: int, window: int, device: str) -> Any:
    from torch.nn.attention.flex_attention import create_block_mask

    with torch.inference_mode(False):  # kept for later calls, whatever their mode
        rule = partial(_sees, keys - new, window or keys)
        return create_block_mask(rule, None, None, new, keys, device=device, BLOCK_SIZE=BLOCK)


def _sees(cached: int, window: int, batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
    return (key <= query + cached) & (key > query + cached - window)
