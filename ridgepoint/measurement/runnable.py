"""Turns a plan's side into a step that runs: model, cache and inputs, ready to be called again and again."""

import random
from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, cast

from ridgepoint.choice import Metal, Side
from ridgepoint.errors import NotSupported
from ridgepoint.measurement.module import around, build_user_module, module_call
from ridgepoint.measurement.request import Subject, TextRequest
from ridgepoint.measurement.rotated import rotate, rotated
from ridgepoint.measurement.text import windows_of
from ridgepoint.measurement.zeros import zero_share
from ridgepoint.workload import Decoder, Linear, LinearLayer, Plan, Step, Traced

if TYPE_CHECKING:
    from torch import nn

    from ridgepoint.engine.build import Convert
    from ridgepoint.measurement.compiled import Compiled
    from ridgepoint.measurement.trace.load import Built

__all__ = ["Runnable", "Weights", "build_weights", "runnable"]


@dataclass(frozen=True)
class Weights:
    """A converted model; one serves every batch of its side. `built`: of the user's module, with its example."""

    model: "nn.Module"
    copies: int
    random: bool
    built: "Built | None" = None
    zeros: float | None = None
    """Share of the linear layers' weights that is zero, where a choice set some to zero."""


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
    rows: tuple[tuple[str, str], ...] = ()
    """Of a traced module: operator and row of the plan of each call, in order."""
    replay: Callable[[], object] | None = None
    """`calls` steps captured as one CUDA graph, where the side asks for it and they could be captured."""
    calls: int = 1
    flags: tuple[str, ...] = ()
    compile_s: float | None = None
    """What compiling the step took, where the side asks for it."""
    held: Callable[[], dict[str, int]] | None = None
    """Of a training step: what it holds, by item and at its peak."""
    zeros: float | None = None
    """As of its weights."""
    untimed: str = ""
    """Why its operators are not timed one by one."""
    row_of: Callable[[str], str] = str
    """Row of the plan that a module's path belongs to, where operators are modules."""

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
    workload: Subject,
    side: Side,
    step: Step,
    kernels: Mapping[str, str],
    directory: str = "",
    cache_bytes: float = 32e6,
    calibration: "TextRequest | None" = None,
) -> Weights:
    """The model of `side`, from the safetensors in `directory` or with random weights; packed once a layer.

    An algorithm that needs inputs is given those of the text `calibration`; without one, and for random weights, codes are
    rounded to nearest: which codes are stored changes no time. Where the side sets weights to zero, those that are there
    when all its choices have been carried out are counted.
    """
    weights = _build_weights(workload, side, step, kernels, directory, cache_bytes, calibration)
    sparse = any(c.AXIS == "sparsity" and c.spelled != "dense" for c in side.choices)
    return replace(weights, zeros=zero_share(weights.model)) if sparse else weights


def _build_weights(
    workload: Subject, side: Side, step: Step, kernels: Mapping[str, str], directory: str, cache_bytes: float,
    calibration: "TextRequest | None",
) -> Weights:  # fmt: skip
    plan = side.plan(workload, step)

    def convert(module: "nn.Module", layer: int | None) -> "nn.Module":
        return side.on_metal(module, plan, Metal(kernels, layer))

    if isinstance(workload, LinearLayer):
        layers = rotated(workload, plan, convert, cache_bytes)
        return Weights(layers, len(layers), True)
    if isinstance(workload, Traced):
        built = build_user_module(workload, plan)
        return Weights(convert(built.module, None), 1, False, built)
    from ridgepoint.engine.build import build_random, load_safetensors

    shaped = replace(workload, max_position_embeddings=max(64, _longest(step)))
    if not directory:
        smaller = replace(shaped, blocks=cast(Decoder, plan.workload).blocks)
        model = build_random(smaller, plan.dtype, convert=convert, device=plan.device, alike=_alike(plan, side))
        return Weights(model, 1, True)
    from pathlib import Path

    if side.algorithms and calibration is not None:
        tokens = windows_of(workload, directory, calibration)
        shaped = replace(shaped, max_position_embeddings=max(shaped.max_position_embeddings, len(tokens[0])))
        convert = _calibrated(side, plan, kernels, tokens)
    model = load_safetensors(shaped, Path(directory), plan.dtype, convert, plan.device, plan.kept)
    return Weights(model, 1, False)


def _calibrated(side: Side, plan: Plan, kernels: Mapping[str, str], tokens: list[list[int]]) -> "Convert":
    """The side's rewrite with the inputs that each layer is given by the layers before it, as rewritten."""
    import torch

    from ridgepoint.engine.quantise.inputs import Walk

    walk = Walk(torch.tensor(tokens))

    def convert(module: "nn.Module", layer: int | None) -> "nn.Module":
        return walk(module, lambda part, inputs: side.on_metal(part, plan, Metal(kernels, layer, inputs)))

    return convert


def _alike(plan: Plan, side: Side) -> Callable[[int], object]:
    """Layers are alike to whom every row of the plan is whole, or has both or neither, and whom every choice means or not."""
    split = {op.name: frozenset(op.layers) for op in plan.ops if isinstance(op, Linear) and op.layers}
    scopes = [scope for c in side.choices if (scope := getattr(c, "scope", None)) is not None]

    def key(layer: int) -> object:
        meant = tuple(bool(scope.inside(frozenset([layer]))) for scope in scopes)
        return frozenset(name for name, layers in split.items() if layer in layers), meant

    return key


def _decoder_row(plan: Plan) -> Callable[[str], str]:
    """Row of a module's path: `layers.7.attention` is the attention of layer 7's block."""
    found: dict[int | None, Callable[[str], Linear | None]] = {}

    def row(path: str) -> str:
        parts = path.split(".")
        layer = int(parts[1]) if parts[0] == "layers" else None
        if layer not in found:
            found[layer] = plan.linears_at(layer)
        op = found[layer](path)
        return plan.workload.row_at(layer, path, plan.dtype) if op is None else op.name

    return row


def runnable(workload: Subject, side: Side, step: Step, weights: Weights, cache_bytes: float = 32e6) -> Runnable:
    """The step of `side` on `weights`; inputs and cache are random and are made here, outside of any timing."""
    import torch

    from ridgepoint.kernels.ladder import TORCH_DTYPES

    plan = side.plan(workload, step)
    tokens = int(plan.step.tokens)
    if plan.step.phase == "train":
        from ridgepoint.measurement.training import training_run

        run = training_run(plan, weights.model)
        return Runnable(
            weights.model, _with_threads(run.step, plan.threads), tokens, weights.random, False, [],
            held=run.held, zeros=weights.zeros, untimed="operators of a training step are not timed one by one",
        )  # fmt: skip
    if isinstance(workload, LinearLayer):
        x = torch.randn(tokens, workload.k).to(plan.device, TORCH_DTYPES[plan.dtype])
        call, kv_bytes = rotate(x), 0
    elif isinstance(workload, Traced):
        assert weights.built is not None, "a module is built with its example"
        call, kv_bytes = module_call(plan, weights.built), 0
    else:
        call, kv_bytes = _decoder_call(plan)
    small = (
        not isinstance(workload, LinearLayer)
        and plan.device == "cpu"
        and float(plan.weight_bytes) < _SMALL * cache_bytes
    )
    rows = workload.in_order(plan.dtype) if isinstance(workload, Traced) else ()
    made = _compiled(call, weights, plan) if plan.launch == "compile" else None
    if made is not None:  # its fused operators have no rows, and a copy of its weights would be compiled again
        call, rows, small = made.step, (), False
    run = Runnable(
        weights.model, _with_threads(around(plan)(call), plan.threads), tokens, weights.random, small, [], weights.copies,
        kv_bytes, rows, flags=made.flags if made else (), compile_s=made.seconds if made else None, untimed=_untimed(plan),
        zeros=weights.zeros,
        row_of=(lambda path: "linear") if isinstance(workload, LinearLayer) else _decoder_row(plan),
    )  # fmt: skip
    if plan.launch == "graph":
        return _as_graph(run, _GRAPH_CALLS if isinstance(workload, LinearLayer) else 1)
    return run


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


def _untimed(plan: Plan) -> str:
    if plan.launch == "compile":
        return "operators inside a compiled step are not timed one by one"
    if plan.autograd != "inference":  # torch then takes some operators apart that a trace names as one
        return f"operators are timed one by one in inference mode only, not with {plan.autograd}"
    return ""


def _compiled(call: Callable[["nn.Module"], object], weights: Weights, plan: Plan) -> "Compiled":
    """The step compiled with as many threads as it is going to have."""
    import torch

    from ridgepoint.measurement.compiled import compiled

    torch.set_num_threads(plan.threads)
    return compiled(call, weights.model, around(plan))


def _decoder_call(plan: Plan) -> tuple[Callable[[Any], object], int]:
    """The step, and the bytes of its cache."""
    import torch

    from ridgepoint.engine.cache import KvCache

    step, device, workload = plan.step, plan.device, cast(Decoder, plan.workload)
    if len(step.groups) != 1:
        raise NotSupported(
            f"a {step.phase} step is predicted but not measured yet; decode, prefill, forward and train are"
        )
    group = step.groups[0]
    batch, new, cached = int(group.count), int(group.new), int(group.cached)
    shaped = replace(workload, max_position_embeddings=cached + new)
    cache = KvCache(shaped, batch, cached + new, plan.dtype, device, plan.cache)
    for tensor in (*cache.keys, *cache.values):
        tensor.normal_()
    tokens = torch.randint(0, workload.vocab_size, (batch, new), device=device)
    return lambda model: model.logits(tokens, cache, cached, step.logits), cache.bytes


def _with_threads(call: Callable[[Any], object], threads: int) -> Callable[[Any], object]:
    import torch

    def threaded(model: Any) -> object:
        if torch.get_num_threads() != threads:
            torch.set_num_threads(threads)
        return call(model)

    return threaded


def _longest(step: Step) -> int:
    return max(int(g.context) for g in step.groups)
