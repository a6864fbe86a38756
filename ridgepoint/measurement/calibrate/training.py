"""Calibration of a training step: each operator of the engine forward with recording and backward through autograd, and AdamW.

Shapes: M rows, N outputs, K inputs, B sequences, H heads, T tokens, D head dim.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from ridgepoint.errors import NotSupported
from ridgepoint.measurement.calibrate.linear import DTYPES
from ridgepoint.measurement.calibrate.pool import Timing, filler, summarise, weight_stream

__all__ = [
    "ATTENTION_GRID",
    "PASS_GRID",
    "PRODUCT_GRID",
    "THIN_GRID",
    "adapter_samples",
    "attention_samples",
    "hook_samples",
    "pass_samples",
    "product_samples",
    "training_probes",
    "update_samples",
]

PRODUCT_GRID: tuple[tuple[int, int, int], ...] = (
    (64, 416, 416), (64, 1216, 448), (64, 448, 1216), (64, 5120, 320), (160, 224, 640), (160, 832, 832), (256, 448, 1216),
    (256, 1216, 448), (512, 352, 352), (512, 640, 224), (16, 640, 640), (1, 32, 32), (32, 16384, 352),
)  # fmt: skip
"""(M, N, K) of linear layers; the last is a head's, whose weights no cache holds."""
THIN_GRID: tuple[tuple[int, int, int], ...] = tuple(
    shape
    for m, wide, rank in ((64, 448, 16), (64, 1216, 8), (160, 640, 48), (256, 832, 16), (512, 416, 8), (384, 1344, 24))
    for shape in ((m, rank, wide), (m, wide, rank))
)
"""The same of adapters: into the rank and out of it."""
PASS_GRID: tuple[tuple[int, int], ...] = ((1, 64), (64, 320), (64, 1344), (192, 704), (512, 448), (448, 1728))
_FAR = ((12288, 448),)
"""A sum of two tensors that no cache holds, as of the two gradients of a tied table."""
_LOSS_GRID: tuple[tuple[int, int], ...] = ((1, 64), (64, 256), (64, 6144), (256, 3072), (96, 20480), (320, 32768))
_TABLE_GRID: tuple[tuple[int, int, int], ...] = ((64, 320, 256), (64, 320, 12288), (320, 640, 4096), (256, 448, 24576))
"""(M, width, rows of the table)."""
ATTENTION_GRID: tuple[tuple[int, int, int, int], ...] = (
    (1, 4, 16, 64), (1, 6, 64, 64), (4, 6, 64, 64), (1, 9, 192, 64), (2, 4, 320, 64), (2, 6, 128, 128), (8, 4, 64, 32),
)  # fmt: skip
"""(B, H, T, D)."""
_UPDATE_GRID: tuple[tuple[int, int], ...] = ((96, 2048), (64, 65536), (12, 1_000_000), (2, 8_000_000))
"""(tensors, elements of each): together more than a cache holds, but for the first."""
_LEAST = 5
_FEWEST, _PATIENCE = 3, 5.0
"""Rounds that do where they take this many times the seconds that were meant for all."""
_DEAR = 30.0
"""Two rounds do where they take this many."""
_SLOW = 5e7
"""Products of a call from which on one copy does: arithmetic then hides whether weights are in the cache."""


@dataclass(frozen=True)
class _Case:
    """An operator to be run: its forward, and what gets a gradient."""

    forward: Callable[[], Any]
    leaves: tuple[Any, ...]


def product_samples(act: str, form: str, seconds: float, cache_bytes: float) -> Iterator[dict[str, Any]]:
    """Linear layers: forward, the gradient of the input, and of weights as they are that of the weights.

    `form`: the weights' format, or "thin" for the products of adapters.
    """
    import torch

    dtype, stream, dense = getattr(torch, DTYPES[act]), weight_stream(cache_bytes), form in (act, "thin")
    for m, n, k in THIN_GRID if form == "thin" else PRODUCT_GRID:
        if form == "nf4" and (k % 64 or n < 64):
            continue
        copies = 1 if m * n * k > _SLOW else 2 if form == "nf4" else 4
        layers = [_layer(n, k, dtype, form) for _ in range(copies)]
        inputs = [filler(m, k).to(dtype, copy=True) for _ in range(copies)]
        shape = {"subject": "linear" if form == act else f"linear {form}", "form": "product", "m": m, "n": n, "k": k}
        cases = [_through(layer, x.detach().requires_grad_()) for layer, x in zip(layers, inputs, strict=True)]
        forward, back = _timed(cases, seconds, stream)
        yield _sample(act, "forward", forward, shape)
        yield _sample(act, "grad_input", back, {**shape, "n": k, "k": n})
        if dense:
            cases = [_onto(layer, x) for layer, x in zip(layers, inputs, strict=True)]
            _, back = _timed(cases, seconds, stream)
            yield _sample(act, "grad_weight", back, {**shape, "m": n, "n": k, "k": m})


def _layer(n: int, k: int, dtype: Any, form: str) -> Any:
    from torch import nn

    layer = nn.Linear(k, n, bias=False).to(dtype).requires_grad_(False)
    layer.weight.copy_(filler(n, k) * 0.02)
    if form != "nf4":
        return layer
    from ridgepoint.kernels.nf4 import trainable_nf4

    return trainable_nf4(layer)


def _through(layer: Any, x: Any) -> _Case:
    return _Case(lambda: layer(x), (x,))


def _onto(layer: Any, x: Any) -> _Case:
    layer.weight.requires_grad_()
    return _Case(lambda: layer(x), (layer.weight,))


def attention_samples(act: str, seconds: float, cache_bytes: float) -> Iterator[dict[str, Any]]:
    """Causal attention by torch's own choice of kernel, forward and backward."""
    import torch

    from ridgepoint.kernels.attention import Attention

    kernel, stream = Attention(), weight_stream(cache_bytes)
    for batch, heads, length, width in ATTENTION_GRID:

        def case(b: int = batch, h: int = heads, t: int = length, d: int = width) -> _Case:
            q, k, v = (
                filler(b, t, h, d).to(getattr(torch, DTYPES[act]), copy=True).transpose(1, 2).requires_grad_()
                for _ in range(3)
            )
            return _Case(lambda: kernel(q, k, v), (q, k, v))

        shape = {
            "subject": "attention",
            "form": "attention",
            "batch": batch,
            "heads": heads,
            "length": length,
            "head_dim": width,
        }
        forward, back = _timed([case() for _ in range(2)], seconds, stream)
        yield _sample(act, "forward", forward, shape)
        yield _sample(act, "grad_input", back, shape)


def pass_samples(act: str, seconds: float, cache_bytes: float) -> Iterator[dict[str, Any]]:
    """Norms, activations, sums, rotary embedding, what adapters add, look-ups and the loss, forward and backward."""
    import torch

    dtype, stream = getattr(torch, DTYPES[act]), weight_stream(cache_bytes)
    for kind, build in _kinds(dtype).items():
        for rows, cols in (*PASS_GRID, *(_FAR if kind == "add" else ())):
            shape = {"subject": kind, "form": "pass", "rows": rows, "cols": cols}
            forward, back = _timed([build(rows, cols) for _ in range(3)], seconds, stream)
            yield _sample(act, "forward", forward, shape)
            yield _sample(act, "grad_input", back, shape)
    yield from _norm_weight_samples(act, seconds, stream)
    for rows, cols in _LOSS_GRID:
        shape = {"subject": "cross_entropy", "form": "pass", "rows": rows, "cols": cols}
        forward, back = _timed([_loss(rows, cols, dtype)], seconds, stream)
        yield _sample(act, "forward", forward, shape)
        yield _sample(act, "grad_input", back, shape)
    for rows, cols, table in _TABLE_GRID:
        forward, back = _timed([_look_up(rows, cols, table, dtype)], seconds, stream)
        yield _sample(act, "forward", forward, {"subject": "embedding", "form": "pass", "rows": rows, "cols": cols})
        yield _sample(act, "grad_weight", back, {"subject": "embedding", "form": "pass", "rows": table, "cols": cols})


def _kinds(dtype: Any) -> dict[str, Callable[[int, int], _Case]]:

    from ridgepoint.kernels import pointwise

    def one(make: Callable[[int, int], Any]) -> Callable[[int, int], _Case]:
        def build(rows: int, cols: int) -> _Case:
            module, x = make(rows, cols), _leaf(rows, cols, dtype)
            return _Case(lambda: module(x), (x,))

        return build

    def two(make: Callable[[], Any]) -> Callable[[int, int], _Case]:
        def build(rows: int, cols: int) -> _Case:
            module, x, y = make(), _leaf(rows, cols, dtype), _leaf(rows, cols, dtype)
            return _Case(lambda: module(x, y), (x, y))

        return build

    def twice(rows: int, cols: int) -> _Case:
        x, add = _leaf(rows, cols, dtype), pointwise.Add()
        return _Case(lambda: add(x, x), (x,))

    def rope(rows: int, cols: int) -> _Case:
        width = 64 if cols > 64 else 32
        heads = cols // width
        turn = pointwise.Rope(width, max_positions=rows, dtype=dtype)
        keys = max(1, heads // 4)
        q, k = (
            filler(1, rows, count, width).to(dtype, copy=True).transpose(1, 2).requires_grad_()
            for count in (heads - keys, keys)
        )
        return _Case(lambda: turn(q, k, 0), (q, k))

    return {
        "rms_norm": one(lambda rows, cols: pointwise.RmsNorm(cols, dtype=dtype)),
        "layer_norm": one(lambda rows, cols: pointwise.LayerNorm(cols, dtype=dtype)),
        "silu_mul": two(pointwise.SiluMul), "gelu_mul": two(pointwise.GeluMul),
        "gelu": one(lambda rows, cols: pointwise.Gelu()), "relu": one(lambda rows, cols: pointwise.Relu()),
        "scale": one(lambda rows, cols: pointwise.Scale(1.5)), "softcap": one(lambda rows, cols: pointwise.Softcap(30.0)),
        "add": twice, "adapter_add": two(lambda: _adapter_sum), "adapter_add_copy": two(lambda: _adapter_sum_of_copy),
        "rope": rope,
    }  # fmt: skip


def _leaf(rows: int, cols: int, dtype: Any) -> Any:
    return filler(rows, cols).to(dtype, copy=True).requires_grad_()


def _adapter_sum(result: Any, z: Any) -> Any:
    """What peft adds to a layer's result."""
    return result + z * 2.0


def _adapter_sum_of_copy(result: Any, z: Any) -> Any:
    """The same over bitsandbytes' layers, whose result peft copies first."""
    return result.clone() + z * 2.0


def _loss(rows: int, cols: int, dtype: Any) -> _Case:
    import torch
    from torch.nn import functional as F

    logits, targets = _leaf(rows, cols, dtype), torch.arange(rows) % cols
    return _Case(lambda: F.cross_entropy(logits.float(), targets), (logits,))


def _look_up(rows: int, cols: int, table: int, dtype: Any) -> _Case:
    import torch

    from ridgepoint.kernels.pointwise import Embedding

    embedding = Embedding(table, cols, dtype)
    embedding.weight.requires_grad_()
    tokens = torch.arange(rows) * 7919 % table
    return _Case(lambda: embedding(tokens), (embedding.weight,))


def _norm_weight_samples(act: str, seconds: float, stream: Callable[[], object]) -> Iterator[dict[str, Any]]:
    """The gradient of a norm's weight alone: normed input times gradient, summed over rows; in fp32, as norms compute."""
    import torch

    dtype = getattr(torch, DTYPES[act])
    for rows, cols in PASS_GRID:
        cases = []
        for _ in range(3):
            normed, weight = filler(rows, cols), torch.ones(cols, dtype=dtype, requires_grad=True)
            cases.append(_Case(lambda weight=weight, normed=normed: normed * weight, (weight,)))
        _, back = _timed(cases, seconds, stream)
        yield _sample(act, "grad_weight", back, {"subject": "norm_weight", "form": "pass", "rows": rows, "cols": cols})


def adapter_samples(act: str, form: str, seconds: float, cache_bytes: float) -> Iterator[dict[str, Any]]:
    """What peft's own code takes a call beyond its three products and its sum, on the smallest of layers."""
    import torch

    from ridgepoint.engine.adapters import AdapterShape, inject

    dtype, stream, size, rank = getattr(torch, DTYPES[act]), weight_stream(cache_bytes), 64, 4
    made = []
    for _ in range(3):
        holder = torch.nn.ModuleDict({"layer": _layer(size, size, dtype, form)})
        holder.is_loaded_in_4bit = form == "nf4"
        made.append(inject(holder, ["layer"], AdapterShape(rank, rank), dtype)["layer"].train())
    total = _adapter_sum if form == act else _adapter_sum_of_copy
    xs = [_leaf(1, size, dtype) for _ in made]

    def by_hand(layer: Any, x: Any) -> Any:
        return total(layer.base_layer(x), layer.lora_B["default"](layer.lora_A["default"](x)))

    whole = [_Case(lambda layer=layer, x=x: layer(x), (x,)) for layer, x in zip(made, xs, strict=True)]
    parts = [_Case(lambda layer=layer, x=x: by_hand(layer, x), (x,)) for layer, x in zip(made, xs, strict=True)]
    (first, _), (second, _) = _timed(whole, seconds, stream), _timed(parts, seconds, stream)
    extra = Timing(max(first.seconds - second.seconds, 0.0), first.spread, first.samples)
    subject = "adapter_add" if form == act else "adapter_add_copy"
    yield _sample(act, "forward", extra, {"subject": subject, "form": "call"})


def hook_samples(act: str, seconds: float) -> Iterator[dict[str, Any]]:
    """What checkpointing costs beside the second forward pass, on chains of tiny products of two kept tensors each."""
    import torch
    from torch.utils.checkpoint import checkpoint

    x = torch.ones(1, 8, dtype=getattr(torch, DTYPES[act]), requires_grad=True)
    w = torch.ones(1, 8, dtype=x.dtype, requires_grad=True)
    for count in _CHAINS:

        def chain(y: Any, count: int = count) -> Any:
            for _ in range(count):
                y = y * w
            return y

        again = _Case(lambda chain=chain: checkpoint(chain, x, use_reentrant=False), (x, w))
        (ahead, behind), (first, back) = (
            _timed([case], seconds, lambda: None) for case in (_Case(lambda chain=chain: chain(x), (x, w)), again)
        )
        extra = max(first.seconds + back.seconds - 2 * ahead.seconds - behind.seconds, 1e-7)
        timing = Timing(extra, back.spread, back.samples)
        yield _sample(
            act, "forward", timing, {"subject": "recompute_hooks", "form": "pass", "rows": 2 * count, "cols": 1}
        )


_CHAINS = (4, 16, 64)


def update_samples(act: str, seconds: float) -> Iterator[dict[str, Any]]:
    """torch's fused AdamW over like tensors, with gradients already there."""
    import torch

    dtype = getattr(torch, DTYPES[act])
    for tensors, elements in _UPDATE_GRID:
        weights = [filler(elements).to(dtype, copy=True).requires_grad_() for _ in range(tensors)]
        for weight in weights:
            weight.grad = weight.detach().clone()
        optimizer = torch.optim.AdamW(weights, lr=1e-5, fused=True)
        samples: list[int] = []
        optimizer.step()
        begin = time.thread_time_ns()
        while len(samples) < _LEAST or time.thread_time_ns() - begin < seconds * 1e9:
            start = time.thread_time_ns()
            optimizer.step()
            samples.append(time.thread_time_ns() - start)
        shape = {"subject": "adamw", "form": "pass", "rows": tensors, "cols": elements}
        yield _sample(act, "update", summarise(samples), shape)


def _timed(cases: Sequence[_Case], seconds: float, stream: Callable[[], object]) -> tuple[Timing, Timing]:
    """Forward and backward of one case, the mean over the cases in turn; other bytes pass through the cache in between."""
    import torch

    outputs = [_outputs(case) for case in cases]
    ones = [torch.ones_like(y) for ys in outputs for y in ys]
    del outputs
    ahead: list[int] = []
    behind: list[int] = []
    begin, clock = time.thread_time_ns(), time.thread_time_ns
    with torch.enable_grad():
        while not _enough(len(ahead) - 1, (clock() - begin) * 1e-9, seconds):
            stream()
            start = clock()
            made = [case.forward() for case in cases]
            middle = clock()
            flat = [y for ys in made for y in (ys if isinstance(ys, tuple) else (ys,))]
            before = clock()
            torch.autograd.backward(flat, ones)
            ahead.append(middle - start)
            behind.append(clock() - before)
            del made, flat
            for case in cases:
                for leaf in case.leaves:
                    leaf.grad = None
    return _mean(ahead[1:], len(cases)), _mean(behind[1:], len(cases))


def _enough(rounds: int, spent_s: float, seconds: float) -> bool:
    if rounds < _FEWEST:
        return rounds >= 2 and spent_s >= _DEAR * seconds
    return spent_s >= seconds and (rounds >= _LEAST or spent_s >= _PATIENCE * seconds)


def _outputs(case: _Case) -> tuple[Any, ...]:
    made = case.forward()
    return made if isinstance(made, tuple) else (made,)


def _mean(samples: Sequence[int], cases: int) -> Timing:
    timing = summarise(list(samples))
    return Timing(timing.seconds / cases, timing.spread, timing.samples)


def _sample(act: str, sweep: str, timing: Timing, shape: dict[str, Any]) -> dict[str, Any]:
    return {
        "probe": "training", "act": act, "sweep": sweep, **shape,
        "seconds": timing.seconds, "spread": timing.spread, "n_samples": timing.samples,
    }  # fmt: skip


def training_probes(seconds: float, cache_bytes: float) -> Iterator[tuple[str, Iterator[dict[str, Any]]]]:
    """(title, samples) of all operators; of what is not installed a sample that says so."""
    for act in ("fp32", "bf16"):
        yield f"training products {act}", product_samples(act, act, seconds, cache_bytes)
        yield f"adapters' products {act}", product_samples(act, "thin", seconds, cache_bytes)
        yield f"training attention {act}", attention_samples(act, seconds, cache_bytes)
        yield f"training operators {act}", pass_samples(act, seconds, cache_bytes)
        yield f"adapters {act}", _or_absent(f"adapters {act}", adapter_samples(act, act, seconds, cache_bytes))
        yield f"keeping tensors back {act}", hook_samples(act, 10 * seconds)
        yield f"optimizer {act}", update_samples(act, seconds)
    yield "training products nf4", _or_absent("nf4", product_samples("bf16", "nf4", seconds, cache_bytes))
    yield "adapters nf4", _or_absent("adapters nf4", adapter_samples("bf16", "nf4", seconds, cache_bytes))


def _or_absent(what: str, samples: Iterator[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    try:
        yield from samples
    except (NotSupported, ImportError) as reason:
        yield {"probe": "absent", "of": what, "absent": str(reason)}
