"""Follows one call of a module operator by operator: where each was called, what it costs on paper, how long it took."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from ridgepoint.kernels.ladder import TORCH_DTYPES
from ridgepoint.measurement.clock import Clock
from ridgepoint.measurement.trace.aten import RULES, Described, described, is_view, passed_over, tensors_of
from ridgepoint.measurement.trace.flow import Flow
from ridgepoint.measurement.trace.living import Living

__all__ = ["Recorder", "Seen", "followed", "quiet_paths", "taken_apart"]


@dataclass(frozen=True, slots=True)
class Seen:
    """One call: the path of the module in which it was made, what it is, and the dtype of its result."""

    path: str
    what: Described
    dtype: str
    name: str
    known: bool
    own_weight: bool = False
    """Whether it is the product of an `nn.Linear` with its own weight, which a weight format may replace."""


class Recorder(TorchDispatchMode):
    """Records every ATen operator that is called inside; those that are composite and unknown are taken apart.

    Without a clock: `seen` is filled, for tensors without memory. With a clock: `marks` is filled, a pair per call in
    the same order, and nothing else is done between them.
    """

    def __init__(self, clock: Clock | None = None, living: Living | None = None, fake: bool = True):
        super().__init__()
        self.living = living
        self.seen: list[Seen] = []
        self.marks: list[tuple[Any, Any]] = []
        self.names: list[str] = []
        self.clock = clock
        self.stack: list[tuple[str, nn.Module | None]] = [("", None)]
        self.frames = [0]
        """Numbers of the module calls that are under way; one without parameters or children belongs to its caller's."""
        self.opened = 0
        self.flow = Flow()
        self.fake = fake
        """Whether tensors have no memory; real ones are not kept to follow temporaries."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None) -> Any:
        kwargs = kwargs or {}
        if func is torch.ops.prim.device.default:  # a question, not an operator
            return func(*args, **kwargs)
        name = func._schema.name.removeprefix("aten::")
        if not _taken_whole(name, func):
            # by the kernel that eager mode runs; `func.decompose` prefers Python's version, where there is one
            with self:
                return func._op_dk(torch._C.DispatchKey.CompositeImplicitAutograd, *args, **kwargs)
        if self.clock is not None:
            mark = self.clock.mark
            start = mark()
            out = func(*args, **kwargs)
            self.marks.append((start, mark()))
            self.names.append(name)
            return out
        out = func(*args, **kwargs)
        self._record(name, args, kwargs, out)
        if self.living is not None:
            self.living.made(tensors_of(out))
        return out

    def _record(self, name: str, args: Any, kwargs: Mapping[str, Any], out: Any) -> None:
        what = described(name, args, kwargs, out)
        known = what is not None and not what.options.get("guessed", False)
        if what is None:
            view = is_view(args, out)
            what, known = (Described("view", {"rows": 0, "cols": 0}), True) if view else (passed_over(args, out), False)
        path, module = self.stack[-1]
        if isinstance(module, nn.RNNBase) and what.kind not in ("view", "linear"):
            known = False  # called by torch's own loop over the steps, in one operator or in many
            what = what if what.kind == "matmul" else passed_over(args, out)
        if what.kind != "view" and self.fake:
            self.flow.called(
                len(self.seen),
                self.frames[-1],
                "traffic" in what.sizes,
                tensors_of((*args, *kwargs.values())),
                tensors_of(out),
            )
        own = what.kind == "linear" and type(module) is nn.Linear and len(args) > 1 and args[1] is module.weight
        self.seen.append(Seen(path, what, _dtype(args, out), name, known, own))


_KNOWN: dict[Any, bool] = {}
"""By overload: those of one name differ."""


def _taken_whole(name: str, func: Any) -> bool:
    """Whether the operator is timed and described as it is: it is known, or there is nothing it is composed of."""
    if func not in _KNOWN:
        composite = torch._C._dispatch_has_kernel_for_dispatch_key(func.name(), "CompositeImplicitAutograd")
        _KNOWN[func] = name.rstrip("_") in RULES or not composite
    return _KNOWN[func]


def taken_apart(name: str) -> bool:
    """Whether a trace sees what the operator of that name is composed of, instead of it."""
    packet = getattr(torch.ops.aten, name, None)
    return packet is not None and not any(_taken_whole(name, getattr(packet, x)) for x in packet.overloads())


def _dtype(args: Any, out: Any) -> str:
    """Of the first tensor of floats among result and arguments; "fp32" for operators on integers alone."""
    for value in (out, *args):
        for t in value if isinstance(value, list | tuple) else (value,):
            if isinstance(t, Tensor) and t.is_floating_point():
                return _DTYPES.get(t.dtype, "fp32")
    return "fp32"


_DTYPES = {torch_dtype: name for name, torch_dtype in TORCH_DTYPES.items()}


@contextmanager
def followed(recorder: Recorder, module: nn.Module) -> Iterator[None]:
    """Keeps the recorder's `stack` at the module in which an operator is called, by hooks on every module."""
    paths = {id(m): name for name, m in module.named_modules()}

    def enter(m: nn.Module, _: Any) -> None:
        recorder.stack.append((paths.get(id(m), recorder.stack[-1][0]), m))
        recorder.opened += 1
        own = next(m.parameters(), None) is not None or next(m.buffers(), None) is not None
        recorder.frames.append(recorder.opened if own or next(m.children(), None) is not None else recorder.frames[-1])

    def leave(_: nn.Module, __: Any, ___: Any) -> None:
        recorder.stack.pop()
        recorder.frames.pop()

    hooks = (
        nn.modules.module.register_module_forward_pre_hook(enter),
        nn.modules.module.register_module_forward_hook(leave, always_call=True),
    )
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


@contextmanager
def quiet_paths() -> Iterator[None]:
    """Without the fused path of `nn.TransformerEncoderLayer`, which is one operator without a cost that can be told."""
    was = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(was)
