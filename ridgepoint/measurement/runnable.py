"""Turns a plan's side into a step that runs: model, cache and inputs, ready to be called again and again."""

import random
from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from ridgepoint.choice import Side
from ridgepoint.errors import NotSupported
from ridgepoint.workload import Decoder, LinearLayer, Step

if TYPE_CHECKING:
    from torch import nn

__all__ = ["Runnable", "Weights", "build_weights", "runnable"]

_ROTATED_BYTES = 3.0


@dataclass(frozen=True)
class Weights:
    """A converted model; one serves every batch of its side."""

    model: "nn.Module"
    copies: int
    random: bool


@dataclass
class Runnable:
    """`call()` is one step of `model`; `tokens` are its new tokens.

    `renew()` puts a copy of the weights in the place of those in use, so that luck of placement varies; it is for
    working sets near the last-level cache, where two copies of the same weights can differ by 15 % while they live.
    """

    model: "nn.Module"
    step: Callable[["nn.Module"], object]
    tokens: int
    random: bool
    small: bool
    """Whether all weights together are near the last-level cache."""
    pads: list[object]
    copies: int = 1
    """Of a layer, rotated."""
    cache_bytes: int = 0
    """Keys and values."""
    replay: Callable[[], object] | None = None
    """`calls` steps captured as one CUDA graph, where the side asks for it and they could be captured."""
    calls: int = 1
    flags: tuple[str, ...] = ()

    def call(self) -> object:
        """`calls` steps: one, but for a single layer in a CUDA graph."""
        return self.plain() if self.replay is None else self.replay()

    def plain(self) -> object:
        """One step, launched operator by operator."""
        return self.step(self.model)

    def renew(self) -> None:
        """Copy the weights behind a buffer of random size, held so that the copy lands on other pages."""
        import torch

        self.pads.append(torch.empty(random.randrange(1, _MOST_PAD_BYTES), dtype=torch.uint8).fill_(1))
        if len(self.pads) > _PADS:
            self.pads.pop(random.randrange(_PADS))
        self.model = deepcopy(self.model)


_MOST_PAD_BYTES = 4 * 2**20
_PADS = 16
_SMALL = 3.0
"""Weights below this many last-level caches are renewed during a comparison."""


def build_weights(
    workload: Decoder | LinearLayer,
    side: Side,
    step: Step,
    kernels: Mapping[str, str],
    directory: str = "",
    cache_bytes: float = 32e6,
) -> Weights:
    """The model of `side`, from the safetensors in `directory` or with random weights; packed once a layer."""
    plan = side.plan(workload, step)

    def convert(module: "nn.Module") -> "nn.Module":
        return side.on_metal(module, plan, kernels)

    if isinstance(workload, LinearLayer):
        return _rotated(workload, plan, convert, cache_bytes)
    from ridgepoint.engine.build import build_random, load_safetensors

    shaped = replace(workload, max_position_embeddings=max(64, _longest(step)))
    if directory:
        from pathlib import Path

        return Weights(
            load_safetensors(shaped, Path(directory), plan.dtype, convert=convert, device=plan.device), 1, False
        )
    return Weights(build_random(shaped, plan.dtype, convert=convert, device=plan.device), 1, True)


def runnable(
    workload: Decoder | LinearLayer, side: Side, step: Step, weights: Weights, cache_bytes: float = 32e6
) -> Runnable:
    """The step of `side` on `weights`; inputs and cache are random and are made here, outside of any timing."""
    import torch

    plan = side.plan(workload, step)
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[plan.dtype]
    tokens = int(plan.step.tokens)
    if isinstance(workload, LinearLayer):
        x = torch.randn(tokens, workload.k).to(plan.device, dtype)
        call, kv_bytes = _rotate(x), 0
    else:
        call, kv_bytes = _decoder_call(workload, plan.step, plan.dtype, plan.device)
    small = isinstance(workload, Decoder) and plan.device == "cpu" and float(plan.weight_bytes) < _SMALL * cache_bytes
    run = Runnable(
        weights.model, _with_threads(call, plan.threads), tokens, weights.random, small, [], weights.copies, kv_bytes
    )
    return _as_graph(run, _GRAPH_CALLS if isinstance(workload, LinearLayer) else 1) if plan.graph else run


_GRAPH_CALLS = 64
"""Calls of a single layer per graph: enough that starting the graph is a few percent of one call."""


def _as_graph(run: Runnable, calls: int) -> Runnable:
    from ridgepoint.measurement.graph import graphed

    def several() -> object:
        for _ in range(calls):
            out = run.plain()
        return out

    whole, reason = graphed(several)
    return replace(run, replay=whole, calls=calls, flags=(reason,) if reason else ())


def _decoder_call(workload: Decoder, step: Step, dtype: str, device: str) -> tuple[Callable[[Any], object], int]:
    """The step, and the bytes of its cache."""
    import torch

    from ridgepoint.engine.cache import KvCache

    if len(step.groups) != 1 or step.phase == "train":
        raise NotSupported(f"a {step.phase} step is predicted but not measured yet; decode, prefill and forward are")
    group = step.groups[0]
    batch, new, cached = int(group.count), int(group.new), int(group.cached)
    shaped = replace(workload, max_position_embeddings=cached + new)
    cache = KvCache(shaped, batch, cached + new, dtype, device)
    for tensor in (*cache.keys, *cache.values):
        tensor.normal_()
    tokens = torch.randint(0, workload.vocab_size, (batch, new), device=device)
    return lambda model: model(tokens, cache, cached, step.logits), cache.bytes


def _rotated(layer: LinearLayer, plan: Any, convert: Callable, cache_bytes: float) -> Weights:
    import torch
    from torch import nn

    linear = nn.utils.skip_init(nn.Linear, layer.k, layer.n, bias=False, device=plan.device).requires_grad_(False)
    linear.weight.normal_(std=0.02)
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[plan.dtype]
    holder = convert(nn.ModuleDict({"linear": linear.to(plan.device, dtype)}))
    copies = max(2, int(_ROTATED_BYTES * cache_bytes / float(plan.weight_bytes) + 1))
    modules = nn.ModuleList([holder["linear"], *(deepcopy(holder["linear"]) for _ in range(min(copies, 512) - 1))])
    return Weights(modules, len(modules), True)


def _rotate(x: Any) -> Callable[[Any], object]:
    import torch

    turn = 0

    @torch.inference_mode()
    def call(modules: Any) -> object:
        nonlocal turn
        turn = (turn + 1) % len(modules)
        return modules[turn](x)

    return call


def _with_threads(call: Callable[[Any], object], threads: int) -> Callable[[Any], object]:
    import torch

    def threaded(model: Any) -> object:
        if torch.get_num_threads() != threads:
            torch.set_num_threads(threads)
        return call(model)

    return threaded


def _longest(step: Step) -> int:
    return max(int(g.context) for g in step.groups)
