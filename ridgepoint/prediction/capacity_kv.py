"""Bytes of the KV cache on one device: grouped heads, latent vectors, sliding windows, quantised caches, pages."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from ridgepoint.errors import UnknownName
from ridgepoint.prediction.capacity_split import Stage
from ridgepoint.quantity import Array
from ridgepoint.workload import CACHE_FORMATS, DTYPE_BYTES, AttentionSpec, Decoder

__all__ = ["KV_DTYPES", "PAGE_TOKENS", "KvLayers", "kv_bytes", "kv_layers", "kv_page_bytes", "model_kv_bytes"]

KV_DTYPES = ("bf16", "fp16", "fp32", "fp8", "int8", "int4")
PAGE_TOKENS = 16
"""Tokens of a page of the cache (vLLM, vllm/config/cache.py: DEFAULT_BLOCK_SIZE)."""


@dataclass(frozen=True, slots=True)
class KvLayers:
    """`count` like layers: bytes that a token leaves in one of them on one device, and keys that a token sees (0: all)."""

    count: int
    bytes_per_token: float
    window: int


def kv_layers(stage: Stage, kv_dtype: str, tp: int) -> tuple[KvLayers, ...]:
    """The cache of a stage's layers; UnknownName for a dtype that no cache has here."""
    return tuple(KvLayers(count, _token_bytes(b.attention, kv_dtype, tp), b.attention.window) for b, count in stage)


def _token_bytes(attention: AttentionSpec, kv_dtype: str, tp: int) -> float:
    """Key and value of one token in one layer. A latent vector (MLA) serves all heads, so each device keeps all of it;
    of key/value heads each device keeps its share, and at least one."""
    if kv_dtype not in KV_DTYPES:
        raise UnknownName("KV cache dtype", kv_dtype, KV_DTYPES)
    width, scale = CACHE_FORMATS.get(kv_dtype, (DTYPE_BYTES.get(kv_dtype, 0.0), 0.0))
    if attention.latent is not None:
        return attention.kv_bytes_per_token(width) + scale
    heads = max(1, attention.num_key_value_heads // tp)
    return 2 * heads * (attention.head_dim * width + scale)


def kv_bytes(layers: Iterable[KvLayers], context: Array, users: Array) -> Array:
    """Keys and values of `users` sequences of `context` tokens; a layer with a window keeps no more than that."""
    total: Array = 0.0
    for x in layers:
        held = np.minimum(context, x.window) if x.window else context
        total = total + x.count * x.bytes_per_token * users * held
    return total


def kv_page_bytes(layers: Iterable[KvLayers], context: Array, users: Array, chunk: Array) -> Array:
    """What paging adds: each sequence's last page is not full, a window seldom begins at the edge of a page, and while a
    prompt is read the chunk's tokens stand beside the window (vLLM, SlidingWindowSpec; here one chunk for all sequences,
    which share it)."""
    total: Array = 0.0
    for x in layers:
        pages = np.ceil(context / PAGE_TOKENS)
        held, beside = context, np.zeros_like(pages)
        if x.window:
            pages = np.minimum(pages, np.ceil(x.window / PAGE_TOKENS) + 1)
            held = np.minimum(context, x.window)
            beside = np.minimum(chunk, np.maximum(0.0, context - x.window))
        slack = users * (pages * PAGE_TOKENS - held) + beside
        total = total + x.count * x.bytes_per_token * slack
    return total


def model_kv_bytes(model: Decoder, kv_dtype: str, context: Array, users: Array) -> Array:
    """The cache of the whole model, without pages, on one device."""
    stage = tuple((block, block.count) for block in model.blocks)
    return kv_bytes(kv_layers(stage, kv_dtype, 1), context, users)
