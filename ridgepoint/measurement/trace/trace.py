"""Traces a module at several batches on tensors without memory, and joins the calls to sizes that are affine in the batch."""

import logging
import re
import warnings
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

from ridgepoint.errors import BadInput, NotSupported
from ridgepoint.kernels.ladder import TORCH_DTYPES
from ridgepoint.measurement.trace.living import Living
from ridgepoint.measurement.trace.load import Built, build_module, cast, inputs_for, order_of, said_by, without_memory
from ridgepoint.measurement.trace.recorder import Recorder, Seen, followed, quiet_paths
from ridgepoint.workload.format import DTYPE_BYTES
from ridgepoint.workload.traced import Call, Traced

__all__ = ["trace_built", "trace_file"]

_BATCHES = (3, 5, 11)
"""Two say how a size depends on the batch, the third checks it; no usual size of a model."""
_MOST_CALLS = 200_000


def trace_file(path: str, name: str, dtypes: Sequence[str]) -> Traced:
    """The workload that `FILE.py:NAME` builds. Built without memory where its code allows that, else with; code that reads
    values is run on real tensors instead, three times."""
    label, fake = f"{path}:{name}", FakeTensorMode()
    logging.getLogger("torch._subclasses.fake_tensor").setLevel(logging.CRITICAL)  # we say it in one line
    try:
        return trace_built(label, build_module(path, name, fake), dtypes, fake)
    except BadInput:
        built = build_module(path, name)  # says for itself what is wrong with the code, if anything
    try:
        return trace_built(label, built, dtypes)
    except BadInput:
        traced = trace_built(label, build_module(path, name), dtypes, run=True)
        note = "traced by running it: its code reads values or makes tensors that a trace without memory cannot follow"
        return replace(traced, not_modelled=(*traced.not_modelled, note))


def trace_built(
    label: str, built: Built, dtypes: Sequence[str], fake: FakeTensorMode | None = None, run: bool = False
) -> Traced:
    """The workload of a module that is there; its parameters lose their memory, unless `run`.

    `dtypes`: in which to trace ("" is the module's own). Raises NotSupported where a size is not affine in the batch or
    the calls depend on it, or where the code reads values.
    """
    path, _, name = label.rpartition(":")
    own, mode = _own_dtype(built.module), None if run else fake or FakeTensorMode()
    if mode is not None:
        built = without_memory(built, mode)
    module = built.module
    calls, order, live, notes = {}, {}, {}, dict[str, None]()
    for dtype in dict.fromkeys(d or own for d in dtypes):
        with said_by(path or label, name), mode or nullcontext(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch warns of fake tensors, which are ours, not the user's
            cast(module, TORCH_DTYPES[dtype])
            runs = [_run(module, *inputs_for(built, batch, TORCH_DTYPES[dtype])) for batch in _BATCHES]
        calls[dtype], order[dtype] = _joined(label, [seen for seen, _ in runs])
        live[dtype] = _line(_BATCHES, [peak for _, peak in runs])
        notes.update(dict.fromkeys(_notes(runs[0][0])))
    stored = sum(t.numel() for t in (*module.parameters(), *module.buffers()) if t.is_floating_point())
    return Traced(
        name=label, dtype=own, parameters=sum(p.numel() for p in module.parameters()), stored_elements=stored,
        calls=calls, order=order, live_bytes=live, inputs=_inputs(built), not_modelled=tuple(notes),
    )  # fmt: skip


def _own_dtype(module: nn.Module) -> str:
    found = next((t.dtype for t in (*module.parameters(), *module.buffers()) if t.is_floating_point()), torch.float32)
    names = {torch_dtype: name for name, torch_dtype in TORCH_DTYPES.items()}
    if found not in names:
        raise NotSupported(f"the module's parameters are {found}; {', '.join(TORCH_DTYPES)} are possible")
    return names[found]


@torch.inference_mode()
def _run(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[list[Seen], int]:
    """The calls, and the most bytes of results that live at once."""
    given = [t for t in (*args, *kwargs.values()) if isinstance(t, Tensor)]
    living = Living((*given, *module.parameters(), *module.buffers()))
    recorder = Recorder(living=living, fake=all(isinstance(t, FakeTensor) for t in given))
    with quiet_paths(), followed(recorder, module), recorder:
        module(*args, **kwargs)
    if len(recorder.seen) > _MOST_CALLS:
        raise NotSupported(f"one call of the module makes {len(recorder.seen)} operator calls; at most {_MOST_CALLS}")
    held, last = recorder.flow.held(), any(order_of(t) is torch.channels_last for t in given)
    seen = [_with_held(_laid_out(one, last), held.get(i, 0)) for i, one in enumerate(recorder.seen)]
    return seen, living.peak_bytes


def _laid_out(seen: Seen, last: bool) -> Seen:
    """Operators on images keep the order of the input; tensors without memory do not show it."""
    if not last or (seen.what.kind != "conv" and not seen.what.sizes.get("pixels")):
        return seen
    return replace(seen, what=replace(seen.what, options={**seen.what.options, "layout": "last"}))


def _with_held(seen: Seen, held: int) -> Seen:
    """With its traffic, and what of it are temporaries of one module, in elements of its dtype."""
    sizes, width = seen.what.sizes, DTYPE_BYTES[seen.dtype]
    if "traffic" not in sizes:
        return seen
    counted = {**sizes, "traffic": sizes["traffic"] / width, "held": held / width}
    return replace(seen, what=replace(seen.what, sizes=counted))


def _line(xs: Sequence[int], ys: Sequence[float]) -> tuple[float, float]:
    """(a, b) of a + b x through the first and the last point."""
    slope = (ys[-1] - ys[0]) / (xs[-1] - xs[0])
    return ys[0] - slope * xs[0], slope


def _joined(label: str, runs: Sequence[list[Seen]]) -> tuple[tuple[Call, ...], tuple[int, ...]]:
    """Calls with affine sizes, like ones counted together, and the index in them of each call in order."""
    if len({len(run) for run in runs}) > 1:
        found = ", ".join(f"{len(run)} calls at batch {b}" for run, b in zip(runs, _BATCHES, strict=True))
        raise NotSupported(f"{label}: its operators depend on the batch: {found}")
    keys: dict[tuple[Any, ...], int] = {}
    firsts: list[tuple[Seen, dict[str, tuple[float, float]], list[str]]] = []
    order = []
    for same in zip(*runs, strict=True):
        one = same[0]
        if any((s.name, s.what.options) != (one.name, one.what.options) for s in same):
            raise NotSupported(f"{label}: {_place(one)} is {one.name} at one batch and another operator at the next")
        sizes = {key: _affine(label, one, key, [s.what.sizes[key] for s in same]) for key in one.what.sizes}
        options = tuple(sorted(one.what.options.items()))
        key = (_pattern(one.path), one.what.kind, one.dtype, tuple(sizes.items()), options, one.own_weight)
        if one.what.kind == "view":
            key = ("view",)
        if key not in keys:
            keys[key] = len(firsts)
            firsts.append((one, sizes, []))
        index = keys[key]
        firsts[index][2].append(one.path)
        order.append(index)
    return _named(firsts), tuple(order)


def _affine(label: str, seen: Seen, key: str, values: Sequence[float]) -> tuple[float, float]:
    """(a, b) of a + b x batch through the first two, checked at the third."""
    start, slope = _line(_BATCHES[:2], values[:2])
    if key == "held" and abs(start + slope * _BATCHES[2] - values[2]) > 1e-6 * max(1, values[2]):
        return 0.0, 0.0  # whether it is a temporary depends on the batch: then it is none
    if abs(start + slope * _BATCHES[2] - values[2]) > 1e-6 * max(1, values[2]):
        raise NotSupported(
            f"{label}: {_place(seen)}: the size {key} of {seen.name} is {values[0]}, {values[1]}, {values[2]} at batch "
            f"{', '.join(map(str, _BATCHES))}: not a multiple of it"
        )
    return start, slope


def _place(seen: Seen) -> str:
    return seen.path or "the module itself"


def _pattern(path: str) -> str:
    """The path with its numbers left open, so that the layers of a stack share a row."""
    return re.sub(r"(^|\.)\d+(?=\.|$)", r"\1*", path)


def _named(firsts: Sequence[tuple[Seen, dict[str, tuple[float, float]], list[str]]]) -> tuple[Call, ...]:
    """Rows with names of their own: the module's path (its pattern for several), the operator where it makes more."""
    patterns = [_pattern(seen.path) for seen, _, _ in firsts]
    taken: dict[str, int] = {}
    calls = []
    for (seen, sizes, paths), pattern in zip(firsts, patterns, strict=True):
        if seen.what.kind == "view":
            row = "views"
        else:
            place = _placed(seen.path, len(set(paths)), pattern if patterns.count(pattern) == 1 else "")
            main = seen.own_weight or (seen.what.kind == "conv" and "conv" in place.rpartition(".")[2])
            row = place if main and place else f"{place}:{seen.name.strip('_')}" if place else seen.name.strip("_")
        taken[row] = taken.get(row, 0) + 1
        calls.append(
            Call(
                row=row if taken[row] == 1 else f"{row}#{taken[row]}", kind=seen.what.kind, dtype=seen.dtype,
                aten="" if seen.what.kind == "view" else seen.name,
                count=len(paths), sizes=sizes, options=dict(seen.what.options),
                modules=tuple(dict.fromkeys(paths)) if seen.own_weight else (),
            )
        )  # fmt: skip
    return tuple(calls)


def _placed(first: str, places: int, pattern: str) -> str:
    """The path of one module; of several their pattern, or, where another row has it too, the first and how many more."""
    if places == 1:
        return first
    return pattern or f"{first} +{places - 1}"


def _notes(run: Sequence[Seen]) -> list[str]:
    unknown: dict[str, int] = {}
    for seen in run:
        if not seen.known:
            unknown[seen.name] = unknown.get(seen.name, 0) + 1
    return [
        f"aten.{name}: {count} {'call' if count == 1 else 'calls'}, guessed as {_GUESS.get(name, 'a pass over its tensors')}, "
        "so the interval is wide"
        for name, count in unknown.items()
    ]


_GUESS = {"mkldnn_rnn_layer": "a product for each step of the sequence", "_trilinear": "a product with all its weights"}


def _inputs(built: Built) -> tuple[str, ...]:
    """Each input in words: `x0: [batch, 3, 224, 224]`."""
    named = [*((f"x{i}", x) for i, x in enumerate(built.args)), *built.kwargs.items()]
    words = []
    for name, x in named:
        if isinstance(x, Tensor):
            first = ["batch"] if x.dim() and x.shape[0] == built.items else [str(n) for n in x.shape[:1]]
            words.append(f"{name}: [{', '.join([*first, *map(str, x.shape[1:])])}]")
    return tuple(words)
