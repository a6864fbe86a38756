"""Calibration of torch.compile: what guards, kept calls and fused kernels take, each in the smallest graph that shows it."""

import time
from collections.abc import Callable, Iterator
from typing import Any

from ridgepoint.errors import NotSupported
from ridgepoint.measurement.calibrate.linear import DTYPES
from ridgepoint.measurement.calibrate.pointwise import refresh
from ridgepoint.measurement.calibrate.pool import filler, summarise, weight_stream
from ridgepoint.measurement.compiled import compiled, forget

__all__ = ["CHAINS", "CHAIN_GRID", "LAYERS", "chain_samples", "first_compilation_samples", "stack_samples"]

LAYERS, _NARROW = 32, 64
"""Linear layers of a stack, so small that what calling them takes is most of their time."""
CHAIN_GRID: tuple[tuple[int, int], ...] = ((1, 640), (160, 1472), (640, 1472))
"""Rows and columns."""
_WARM, _LEAST = 2, 20


def first_compilation_samples(seconds: float, cache_bytes: float) -> Iterator[dict[str, Any]]:
    """The first compilation of a process, of one addition, and what a step of it costs: its guards."""
    import torch

    forget()
    x = torch.ones(64)
    begin = time.perf_counter()
    try:
        made = compiled(lambda x: x + 1, x, torch.inference_mode())
    except NotSupported as error:
        yield {"probe": "absent", "of": "compile", "absent": str(error)}
        return
    started = time.perf_counter() - begin
    with torch.inference_mode():
        (step,) = _in_turns((lambda: made.step(x),), seconds, _between(x, cache_bytes))
    yield {"probe": "compile first", "seconds": step, "compile_s": started}


def stack_samples(act: str, seconds: float) -> Iterator[dict[str, Any]]:
    """Small linear layers with nothing and with a relu between them: compiled, and the layers alone in eager mode."""
    import torch
    from torch import nn

    forget()
    dtype = getattr(torch, DTYPES[act])
    made = [nn.Linear(_NARROW, _NARROW, bias=False).to(dtype) for _ in range(LAYERS)]
    layers, x = nn.ModuleList(made).requires_grad_(False), filler(1, _NARROW).to(dtype, copy=True)
    for fused in (0, 1):
        step = _stack(layers, torch.relu if fused else lambda x: x)
        try:
            stack = compiled(step, x, torch.inference_mode())
        except NotSupported as error:
            yield {"probe": "absent", "of": f"compile {act}", "absent": str(error)}
            return
        with torch.inference_mode():
            alone = _stack(layers, lambda x: x)
            whole, linear = _in_turns((lambda stack=stack: stack.step(x), lambda alone=alone: alone(x)), seconds)
        yield {
            "probe": "compile stack", "act": act, "layers": LAYERS, "fused": fused * LAYERS, "seconds": whole,
            "linear_s": linear, "compile_s": stack.seconds,
        }  # fmt: skip


def _stack(layers: Any, between: Callable[[Any], Any]) -> Callable[[Any], Any]:
    def step(x: Any) -> Any:
        for layer in layers:
            x = between(layer(x))
        return x

    return step


def chain_samples(act: str, seconds: float, cache_bytes: float) -> Iterator[dict[str, Any]]:
    """One fused kernel of each kind and size, its inputs just written, behind a read of other weights."""
    import torch

    dtype = getattr(torch, DTYPES[act])
    for name, (inputs, chain) in CHAINS.items():
        for rows, cols in CHAIN_GRID:
            forget()
            xs = tuple(filler(rows, cols).to(dtype, copy=True) for _ in range(inputs))
            try:
                made = compiled(lambda xs, chain=chain: chain(*xs), xs, torch.inference_mode())
            except NotSupported as error:
                yield {"probe": "absent", "of": f"compile {name} {act}", "absent": str(error)}
                return
            with torch.inference_mode():
                step = lambda made=made, xs=xs: made.step(xs)  # noqa: E731
                (whole,) = _in_turns((step,), seconds, _between(xs, cache_bytes))
            yield {
                "probe": "compile chain", "chain": name, "act": act, "rows": rows, "cols": cols, "seconds": whole,
                "compile_s": made.seconds,
            }  # fmt: skip


def _between(inputs: Any, cache_bytes: float) -> Callable[[], None]:
    stream = weight_stream(cache_bytes)

    def between() -> None:
        stream()
        refresh(inputs if isinstance(inputs, tuple) else (inputs,))

    return between


def _in_turns(
    steps: tuple[Callable[[], object], ...], seconds: float, between: Callable[[], None] = lambda: None
) -> list[float]:
    """CPU seconds of each step, called in turns: what the machine does meanwhile meets all of them alike."""
    clock = time.thread_time_ns
    samples: list[list[int]] = [[] for _ in steps]
    start = clock()
    while len(samples[0]) < _LEAST or clock() - start < seconds * 1e9:
        for step, mine in zip(steps, samples, strict=True):
            between()
            before = clock()
            step()
            mine.append(clock() - before)
    return [summarise(mine[_WARM:]).seconds for mine in samples]


def _residual(x: Any, y: Any, z: Any) -> Any:
    """A residual and the norm behind it, as decoders have them."""
    from torch.nn import functional as F

    x = x + y
    return x, F.rms_norm(x, (x.shape[-1],), z[0], 1e-5)


def _gated(gate: Any, up: Any) -> Any:
    from torch.nn import functional as F

    return F.silu(gate) * up


def _softmax(x: Any) -> Any:
    return x.softmax(-1)


def _scale(x: Any) -> Any:
    """Almost nothing but bytes."""
    return x * 1.5


def _scale(x: Any) -> Any:
    """Almost nothing but bytes."""
    return x * 1.5


CHAINS: dict[str, tuple[int, Callable[..., Any]]] = {
    "residual": (3, _residual), "gated": (2, _gated), "softmax": (1, _softmax), "scale": (1, _scale),
}  # fmt: skip
"""Name -> number of inputs, the operators."""
