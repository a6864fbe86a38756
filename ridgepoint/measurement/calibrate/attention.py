"""Calibration of attention: decode and prefill by kernel and dtype, over heads, head size and length."""

from collections.abc import Iterator
from typing import Any

from ridgepoint.measurement.calibrate.grid import ATTENTION_DECODE, ATTENTION_PREFILL
from ridgepoint.measurement.calibrate.linear import DTYPES
from ridgepoint.measurement.calibrate.pool import Pool, filler, weight_stream

__all__ = ["ATTENTION_KERNELS", "attention_pool", "attention_samples"]

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
