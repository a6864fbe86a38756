"""Calibration of attention: decode and prefill by kernel and dtype, over heads, head size and length."""

from collections.abc import Iterator
from typing import Any

from ridgepoint.measurement.calibrate.grid import ATTENTION_DECODE, ATTENTION_PREFILL
from ridgepoint.measurement.calibrate.linear import DTYPES
from ridgepoint.measurement.calibrate.pool import Pool, filler, weight_stream

__all__ = ["ATTENTION_KERNELS", "FLEX_PREFILL", "attention_pool", "attention_samples", "flex_samples"]

ATTENTION_KERNELS = {"flash": "", "math": "math"}
"""Name in reports -> what pins it; torch's own dispatch on a CPU is its flash kernel."""
_KV_BYTES = 40e6
_MOST_COPIES = 8
"""With a stream of 4 MB between them: beyond the last-level cache together."""


def attention_samples(kernel: str, act: str, seconds: float, cache_bytes: float) -> Iterator[dict[str, Any]]:
    """A sample per shape of both grids; caches are full, as they are when a step is measured."""
    import torch

    from ridgepoint.kernels.attention import Attention

    module = Attention(ATTENTION_KERNELS[kernel])
    dtype = getattr(torch, DTYPES[act])
    stream = weight_stream(cache_bytes)
    with torch.inference_mode():
        for phase, grid in (("decode", ATTENTION_DECODE), ("prefill", ATTENTION_PREFILL)):
            for shape in grid:
                timing = attention_pool(module, phase, shape, dtype).passes(lambda key, step: step, seconds, 2, stream)[
                    shape
                ]
                b, heads, kv_heads, d, length = shape
                yield {
                    "probe": "attention", "kernel": kernel, "act": act, "phase": phase,
                    "batch": b, "heads": heads, "kv_heads": kv_heads, "head_dim": d, "length": length,
                    "seconds": timing.seconds, "spread": timing.spread, "n_samples": timing.samples,
                }  # fmt: skip


FLEX_PREFILL: tuple[tuple[int, int, int, int, int, int], ...] = (
    (1, 10, 5, 64, 176, 0), (3, 12, 2, 64, 304, 0), (1, 7, 7, 64, 656, 0), (1, 12, 3, 32, 400, 0), (1, 10, 5, 128, 560, 176),
)  # fmt: skip
"""(batch, heads, kv_heads, head_dim, new tokens, window); each is compiled for itself, so there are few."""


def flex_samples(act: str, seconds: float, cache_bytes: float) -> Iterator[dict[str, Any]]:
    """A prefill sample per shape of FlexAttention; an `absent` one where it cannot be compiled."""
    import torch

    from ridgepoint.errors import NotSupported
    from ridgepoint.kernels.flex import flex_attention

    dtype, stream = getattr(torch, DTYPES[act]), weight_stream(cache_bytes)
    with torch.inference_mode():
        for *shape, window in FLEX_PREFILL:
            b, heads, kv_heads, d, length = shape
            pool = attention_pool(
                lambda q, k, v, window=window: flex_attention(q, k, v, window), "prefill", tuple(shape), dtype
            )
            try:
                (timing,) = pool.passes(lambda key, step: step, seconds, 2, stream).values()
            except NotSupported as error:
                yield {"probe": "absent", "of": f"attention flex {act}", "absent": str(error)}
                return
            yield {
                "probe": "attention", "kernel": "flex", "act": act, "phase": "prefill", "batch": b, "heads": heads,
                "kv_heads": kv_heads, "head_dim": d, "length": length, "window": window,
                "seconds": timing.seconds, "spread": timing.spread, "n_samples": timing.samples,
            }  # fmt: skip


def attention_pool(module: Any, phase: str, shape: tuple[int, int, int, int, int], dtype: Any) -> Pool:
    """Copies of one shape's inputs, each with the step that attends over it."""
    import torch

    b, heads, kv_heads, d, length = shape
    new = 1 if phase == "decode" else length
    size = 2 * b * kv_heads * length * d * torch.empty(0, dtype=dtype).element_size()
    copies = max(2, min(_MOST_COPIES, int(_KV_BYTES / size)))
    pool = Pool()
    for _ in range(copies):
        k, v = (filler(b, kv_heads, length, d).to(dtype, copy=True) for _ in range(2))
        q = torch.randn(b, new, heads, d).to(dtype).transpose(1, 2)
        pool.members.append((shape, lambda q=q, k=k, v=v: module(q, k, v)))
    return pool
