"""Calibration of the operators between linear layers, by rows and columns."""

import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from ridgepoint.measurement.calibrate.grid import POINTWISE_GRID
from ridgepoint.measurement.calibrate.linear import DTYPES
from ridgepoint.measurement.calibrate.pool import Pool, weight_stream

__all__ = ["KINDS", "Made", "behind", "behind_s", "kinds_of", "pointwise_samples", "refresh", "timed"]

Made = tuple[Callable[[], object], tuple[Any, ...]]
"""A step, and the inputs that the operator before it has just written."""
_COPIES = 6
_HEAD_DIM = 64
_VOCAB = 4096
_PREFILL_ROWS = 100


def pointwise_samples(act: str, seconds: float, cache_bytes: float) -> Iterator[dict[str, Any]]:
    """A sample per kind and grid point in one dtype."""
    import torch

    stream = weight_stream(cache_bytes)
    with torch.inference_mode():
        for kind, build in kinds_of(act).items():
            for rows, cols in POINTWISE_GRID:
                timing = timed(build(rows, cols, getattr(torch, DTYPES[act])), seconds, stream)
                yield {
                    "probe": "pointwise", "kind": kind, "act": act, "rows": rows, "cols": cols,
                    "seconds": timing.seconds, "spread": timing.spread, "n_samples": timing.samples,
                }  # fmt: skip


def refresh(inputs: tuple[Any, ...]) -> None:
    """Write the inputs anew: they are then as near as their writer leaves them in a network."""
    for x in inputs:
        x.mul_(1.0)


def behind(made: Made, stream: Callable[[], object], visits: int) -> list[int]:
    """Nanoseconds of the step at each visit, behind a stream of other bytes and with its inputs just written."""
    step, inputs = made
    step()
    samples = []
    for _ in range(visits):
        stream()
        refresh(inputs)
        before = time.thread_time_ns()
        step()
        samples.append(time.thread_time_ns() - before)
    return samples


def behind_s(made: Made, between: Callable[[], object], visits: int) -> float:
    """20th percentile of the step's seconds behind `between`."""
    return float(np.percentile(behind(made, between, visits), 20)) * 1e-9


def timed(made: Made, seconds: float, stream: Callable[[], object]) -> Any:
    step, inputs = made
    key = (0,)
    pool = Pool([(key, step)] * _COPIES)

    def between(_: tuple[int, ...]) -> None:
        stream()
        refresh(inputs)

    return pool.passes(lambda _, step: step, seconds, 3, between)[key]


def _embedding(rows: int, cols: int, dtype: Any) -> Made:
    import torch

    from ridgepoint.kernels.pointwise import Embedding

    module = Embedding(_VOCAB, cols, dtype)
    module.weight.data.normal_()
    tokens = torch.randint(0, _VOCAB, (rows, 1))
    return lambda: module(tokens), ()


def _norm(rows: int, cols: int, dtype: Any) -> Made:
    import torch

    from ridgepoint.kernels.pointwise import RmsNorm

    module, x = RmsNorm(cols, dtype=dtype), torch.randn(rows, 1, cols).to(dtype)
    return lambda: module(x), (x,)


def _rope(rows: int, cols: int, dtype: Any) -> Made:
    from ridgepoint.kernels.pointwise import Rope

    q, k, _ = _heads(rows, cols, dtype)
    module = Rope(_HEAD_DIM, max_positions=512, dtype=dtype)
    return lambda: module(q, k, 24), (q, k)


def _kv_write(rows: int, cols: int, dtype: Any) -> Made:
    import torch

    from ridgepoint.kernels.pointwise import KvWrite

    _, k, v = _heads(rows, 2 * cols, dtype, kv=True)
    b, heads, t, d = k.shape
    caches = [torch.zeros(b, heads, t + 96, d, dtype=dtype) for _ in range(2)]
    module = KvWrite()
    return lambda: module(k, v, *caches, 24), (k, v)


def _add(rows: int, cols: int, dtype: Any) -> Made:
    import torch

    from ridgepoint.kernels.pointwise import Add

    module, x, y = Add(), torch.randn(rows, 1, cols).to(dtype), torch.randn(rows, 1, cols).to(dtype)
    return lambda: module(x, y), (y,)


def _silu_mul(rows: int, cols: int, dtype: Any) -> Made:
    import torch

    from ridgepoint.kernels.pointwise import SiluMul

    module, x, y = SiluMul(), torch.randn(rows, 1, cols).to(dtype), torch.randn(rows, 1, cols).to(dtype)
    return lambda: module(x, y), (y,)


def _heads(rows: int, cols: int, dtype: Any, kv: bool = False) -> tuple[Any, Any, Any]:
    """q, k, v as a layer makes them: views of [B, T, heads x d], decode-like below `_PREFILL_ROWS` rows, else one sequence."""
    import torch

    b, t = (rows, 1) if rows < _PREFILL_ROWS else (1, rows)
    total = cols // _HEAD_DIM
    k_heads = total // 2 if kv else max(1, total // 4)
    q_heads = total - k_heads

    def view(heads: int) -> Any:
        return torch.randn(b, t, heads * _HEAD_DIM).to(dtype).view(b, t, heads, _HEAD_DIM).transpose(1, 2)

    return view(q_heads), view(k_heads), view(k_heads)


def _layer_norm(rows: int, cols: int, dtype: Any) -> Made:
    import torch

    from ridgepoint.kernels.pointwise import LayerNorm

    module, x = LayerNorm(cols, dtype=dtype), torch.randn(rows, 1, cols).to(dtype)
    return lambda: module(x), (x,)


def _gelu_mul(rows: int, cols: int, dtype: Any) -> Made:
    import torch

    from ridgepoint.kernels.pointwise import GeluMul

    module, x, y = GeluMul(), torch.randn(rows, 1, cols).to(dtype), torch.randn(rows, 1, cols).to(dtype)
    return lambda: module(x, y), (y,)


def _unary(name: str, *arguments: float) -> Callable[[int, int, Any], Made]:
    def build(rows: int, cols: int, dtype: Any) -> Made:
        import torch

        from ridgepoint.kernels import pointwise

        module, x = getattr(pointwise, name)(*arguments), torch.randn(rows, 1, cols).to(dtype)
        return lambda: module(x), (x,)

    return build


KINDS: dict[str, Callable[[int, int, Any], Made]] = {
    "embedding": _embedding,
    "rms_norm": _norm,
    "rope": _rope,
    "kv_write": _kv_write,
    "add": _add,
    "silu_mul": _silu_mul,
    "layer_norm": _layer_norm,
    "gelu_mul": _gelu_mul,
    "gelu": _unary("Gelu"),
    "relu": _unary("Relu"),
    "scale": _unary("Scale", 8.0),
    "softcap": _unary("Softcap", 30.0),
}
_NOT_FP16 = ("layer_norm", "gelu_mul", "gelu", "relu", "scale", "softcap")


def kinds_of(act: str) -> dict[str, Callable[[int, int, Any], Made]]:
    """What is measured in a dtype: fp16, slow on most CPUs, only in models of the Llama shape."""
    return {kind: build for kind, build in KINDS.items() if act != "fp16" or kind not in _NOT_FP16}
