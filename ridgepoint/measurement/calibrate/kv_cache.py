"""Calibration of a quantised KV cache: writing new tokens, and reading all of them before attention, by tokens and width."""

from collections.abc import Callable, Iterator
from typing import Any

from ridgepoint.measurement.calibrate.linear import DTYPES
from ridgepoint.measurement.calibrate.pointwise import Made, timed
from ridgepoint.measurement.calibrate.pool import weight_stream

__all__ = ["READ_GRID", "WRITE_GRID", "kv_cache_samples"]

READ_GRID = ((40, 384), (40, 1280), (280, 384), (280, 1280), (2400, 384), (2400, 1280), (5000, 384), (5000, 1280))
WRITE_GRID = ((1, 384), (1, 1280), (6, 384), (6, 1280), (40, 384), (40, 1280), (288, 384), (288, 1280))
"""(tokens of all sequences, elements of key and value of a token)."""
_HEAD_DIM = 64
_PREFILL_ROWS = 100
_MOST_SEQUENCES = 8
_ROOM = 96
"""Tokens for which a cache has more room than it holds, so that what is read is not one run of bytes."""


def kv_cache_samples(format: str, act: str, seconds: float, cache_bytes: float) -> Iterator[dict[str, Any]]:
    """A sample per grid point of reading and of writing a cache in `format` with activations in `act`."""
    import torch

    stream, dtype = weight_stream(cache_bytes), getattr(torch, DTYPES[act])
    kinds: tuple[tuple[str, tuple[tuple[int, int], ...], Callable[[str, int, int, Any], Made]], ...] = (
        (f"kv_read_{format}", READ_GRID, _read), (f"kv_write_{format}", WRITE_GRID, _write),
    )  # fmt: skip
    with torch.inference_mode():
        for kind, grid, build in kinds:
            for rows, cols in grid:
                timing = timed(build(format, rows, cols, dtype), seconds, stream)
                yield {
                    "probe": "pointwise", "kind": kind, "act": act, "rows": rows, "cols": cols,
                    "seconds": timing.seconds, "spread": timing.spread, "n_samples": timing.samples,
                }  # fmt: skip


def _read(format: str, rows: int, cols: int, dtype: Any) -> Made:
    from ridgepoint.kernels.kv_cache import KvRead, KvStore

    batch = next(b for b in range(_MOST_SEQUENCES, 0, -1) if rows % b == 0)
    shape = (batch, cols // (2 * _HEAD_DIM), rows // batch + _ROOM, _HEAD_DIM)
    keys, values = (KvStore.zeros(shape, format) for _ in range(2))
    for store in (keys, values):
        store.normal_()
    module = KvRead(dtype)
    k, v = (store.span(0, rows // batch) for store in (keys, values))
    return lambda: module(k, v), ()


def _write(format: str, rows: int, cols: int, dtype: Any) -> Made:
    """Decode-like below `_PREFILL_ROWS` rows, else one sequence."""
    import torch

    from ridgepoint.kernels.kv_cache import KvStore, KvWriteQuantised

    batch, new = (rows, 1) if rows < _PREFILL_ROWS else (1, rows)
    heads = cols // (2 * _HEAD_DIM)
    k, v = (
        torch.randn(batch, new, heads * _HEAD_DIM).to(dtype).view(batch, new, heads, _HEAD_DIM).transpose(1, 2)
        for _ in range(2)
    )
    keys, values = (KvStore.zeros((batch, heads, new + _ROOM, _HEAD_DIM), format) for _ in range(2))
    module = KvWriteQuantised()
    return lambda: module(k, v, keys, values, 24), (k, v)
