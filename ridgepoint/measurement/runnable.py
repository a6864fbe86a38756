"""Turns a plan's side into a step that runs: model, cache and inputs, ready to be called again and again."""

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


@dataclass(frozen=True)
class Runnable:
    """`call()` is one step; `model` is what it runs, for operator timing; `tokens` are its new tokens."""

    call: Callable[[], object]
    model: "nn.Module"
    tokens: int
    random: bool


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


def runnable(workload: Decoder | LinearLayer, side: Side, step: Step, weights: Weights) -> Runnable:
    """The step of `side` on `weights`; inputs and cache are random and are made here, outside of any timing."""
    import torch

    plan = side.plan(workload, step)
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[plan.dtype]
    tokens = int(plan.step.tokens)
    if isinstance(workload, LinearLayer):
        x = torch.randn(tokens, workload.k).to(plan.device, dtype)
        call = _rotate(weights.model, x)
    else:
        call = _decoder_call(workload, plan.step, plan.dtype, plan.device, weights.model)
    return Runnable(_with_threads(call, plan.threads), weights.model, tokens, weights.random)


def _decoder_call(workload: Decoder, step: Step, dtype: str, device: str, model: Any) -> Callable[[], object]:
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
    return lambda: model(tokens, cache, cached, step.logits)


def _rotated(layer: LinearLayer, plan: Any, convert: Callable, cache_bytes: float) -> Weights:
    import torch
    from torch import nn

    linear = nn.utils.skip_init(nn.Linear, layer.k, layer.n, bias=False).requires_grad_(False)
    linear.weight.normal_(std=0.02)
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[plan.dtype]
    holder = convert(nn.ModuleDict({"linear": linear.to(plan.device, dtype)}))
    copies = max(2, int(_ROTATED_BYTES * cache_bytes / float(plan.weight_bytes) + 1))
    modules = nn.ModuleList([holder["linear"], *(deepcopy(holder["linear"]) for _ in range(min(copies, 512) - 1))])
    return Weights(modules, len(modules), True)


def _rotate(modules: Any, x: Any) -> Callable[[], object]:
    import torch

    turn = 0

    @torch.inference_mode()
    def call() -> object:
        nonlocal turn
        turn = (turn + 1) % len(modules)
        return modules[turn](x)

    return call


def _with_threads(call: Callable[[], object], threads: int) -> Callable[[], object]:
    import torch

    def threaded() -> object:
        if torch.get_num_threads() != threads:
            torch.set_num_threads(threads)
        return call()

    return threaded


def _longest(step: Step) -> int:
    return max(int(g.context) for g in step.groups)
