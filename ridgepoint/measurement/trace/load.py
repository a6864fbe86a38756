"""Builds the module that `FILE.py:NAME` names, with its example inputs; runs the user's own file, which they named."""

import importlib
import importlib.util
import inspect
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

from ridgepoint.errors import BadInput

__all__ = ["Built", "build_module", "cast", "inputs_for", "order_of", "said_by", "without_memory"]

_OURS = Path(__file__).parents[2]
_WANTED = "it must return (module, example) with example a tensor, a tuple of tensors or a dict of keyword tensors"


@dataclass(frozen=True)
class Built:
    """A module in eval mode, its example inputs, and how many items (the first size) they hold."""

    module: nn.Module
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    items: int


def build_module(path: str, name: str, fake: FakeTensorMode | None = None) -> Built:
    """What `name()` of the file builds. With `fake` every tensor that it makes is without memory."""
    maker = _maker(path, name)
    with said_by(path, name), fake or nullcontext(), warnings.catch_warnings():
        if fake is not None:
            warnings.simplefilter("ignore")  # torch warns of fake tensors, which are ours, not the user's
        made = maker()
    module, example = _parts(path, name, made)
    if isinstance(module, torch.jit.ScriptModule):
        raise BadInput(
            f"{path}:{name} returned a ScriptModule, whose operators cannot be followed; return the module itself"
        )
    args, kwargs = _arguments(path, name, example)
    tensors = [x for x in (*args, *kwargs.values()) if isinstance(x, Tensor)]
    if not tensors or not tensors[0].dim() or not tensors[0].shape[0]:
        raise BadInput(f"{path}:{name}: the example needs a tensor whose first size is the batch")
    return Built(module.eval().requires_grad_(False), args, kwargs, int(tensors[0].shape[0]))


def inputs_for(
    built: Built, batch: int, dtype: torch.dtype | None, device: str = "cpu"
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The example's inputs for `batch` items: tensors whose first size is the example's are repeated to that many,
    those of floats are cast to `dtype` (None: left). Inside a fake mode they are without memory."""

    def resized(x: Any) -> Any:
        if not isinstance(x, Tensor):
            return x
        to = dtype if dtype is not None and x.is_floating_point() else x.dtype
        items = batch if x.dim() and x.shape[0] == built.items else x.shape[0] if x.dim() else 1
        if isinstance(x, FakeTensor):
            return torch.empty((items, *x.shape[1:]) if x.dim() else (), dtype=to, memory_format=order_of(x))
        order = order_of(x)
        if x.dim() and items != x.shape[0]:
            x = x.repeat(-(-items // built.items), *([1] * (x.dim() - 1)))[:items]
        return x.to(device, to).contiguous(memory_format=order)

    return tuple(map(resized, built.args)), {key: resized(x) for key, x in built.kwargs.items()}


def without_memory(built: Built, fake: FakeTensorMode) -> Built:
    """The same with parameters, buffers and inputs as fake tensors; the module itself is changed."""

    def faked(x: Any) -> Any:
        if not isinstance(x, Tensor) or isinstance(x, FakeTensor):
            return x
        if x.is_meta:
            with fake:
                return torch.empty_strided(x.shape, x.stride(), dtype=x.dtype)
        return fake.from_tensor(x)

    exchange(built.module, faked)
    return Built(
        built.module, tuple(map(faked, built.args)), {k: faked(v) for k, v in built.kwargs.items()}, built.items
    )


def cast(module: nn.Module, dtype: torch.dtype) -> None:
    """Parameters and buffers of floats to `dtype`; `Module.to` cannot exchange fake tensors."""
    exchange(module, lambda x: x.to(dtype) if x.is_floating_point() else x)


def exchange(module: nn.Module, by: Callable[[Tensor], Tensor]) -> None:
    """Every parameter and buffer for what `by` makes of it; a parameter that several modules share stays one."""
    made: dict[int, tuple[nn.Parameter, nn.Parameter]] = {}
    for part in module.modules():
        for name, old in part._parameters.items():
            if old is not None:
                if id(old) not in made:
                    made[id(old)] = nn.Parameter(by(old.detach()), requires_grad=False), old
                part._parameters[name] = made[id(old)][0]
        for name, buffer in part._buffers.items():
            if buffer is not None:
                part._buffers[name] = by(buffer)


def order_of(x: Tensor) -> torch.memory_format:
    """Channels last where the example is."""
    last = x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()
    return torch.channels_last if last else torch.contiguous_format


@contextmanager
def said_by(path: str, name: str) -> Iterator[None]:
    """Turns whatever the user's code raises into one line that names its place in that code."""
    try:
        yield
    except (BadInput, KeyboardInterrupt, MemoryError):
        raise
    except BaseException as error:  # SystemExit too: it is their code
        every = traceback.extract_tb(error.__traceback__)
        if Path(every[-1].filename).is_relative_to(_OURS) and not isinstance(error, SystemExit | SyntaxError):
            raise  # our own bug must not look like theirs
        frames = [f for f in every if Path(f.filename).name == Path(path).name]
        line = f", line {frames[-1].lineno}" if frames else ""
        what = str(error).splitlines()[0][:300] if str(error) else "no message"
        raise BadInput(f"{path}:{name}{line}: {type(error).__name__}: {what}") from None


def _maker(path: str, name: str) -> Callable[[], Any]:
    file = Path(path).expanduser()
    if not file.is_file():
        raise BadInput(f"{path}: no such file; a module is named as FILE.py:NAME, for example ./my_model.py:build")
    with said_by(path, name):
        user = _imported(file.resolve())
    maker = getattr(user, name, None)
    if not callable(maker):
        have = ", ".join(
            n for n, x in vars(user).items() if callable(x) and getattr(x, "__module__", "") == user.__name__
        )
        raise BadInput(f"{path} has no function {name!r}; it has {have or 'none'}")
    _check_maker(path, name, maker)
    return maker


def _imported(file: Path) -> ModuleType:
    """The file as a module; of a package (folders with an `__init__.py`) under its full name, so that it may import its
    neighbours."""
    parts, folder = [file.stem], file.parent
    while (folder / "__init__.py").is_file() and folder != folder.parent:
        parts, folder = [folder.name, *parts], folder.parent
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))
    if len(parts) > 1:
        return importlib.import_module(".".join(parts))
    spec = importlib.util.spec_from_file_location(f"ridgepoint_user_{file.stem}", file)
    assert spec is not None and spec.loader is not None
    user = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = user  # dataclasses and pickling of the user's classes look their module up
    spec.loader.exec_module(user)
    return user


def _check_maker(path: str, name: str, maker: Any) -> None:
    """Refuses what cannot be called without arguments."""
    if isinstance(maker, nn.Module):
        raise BadInput(f"{path}:{name} is a module; name a function without arguments that returns (module, example)")
    try:
        missing = [
            p.name for p in inspect.signature(maker).parameters.values()
            if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)
        ]  # fmt: skip
    except ValueError:  # of code that tells no signature
        return
    if missing:
        raise BadInput(f"{path}:{name} needs arguments ({', '.join(missing)}); name a function that needs none")


def _parts(path: str, name: str, made: Any) -> tuple[nn.Module, Any]:
    if isinstance(made, nn.Module):
        example = getattr(made, "example_input_array", None)  # Lightning's name for it
        if example is None:
            raise BadInput(f"{path}:{name} returned a module without an example; {_WANTED}")
        return made, example
    if isinstance(made, tuple | list) and len(made) == 2 and isinstance(made[0], nn.Module):
        return made[0], made[1]
    raise BadInput(f"{path}:{name} returned {type(made).__name__}; {_WANTED}")


def _arguments(path: str, name: str, example: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    if isinstance(example, Tensor):
        return (example,), {}
    if isinstance(example, dict) and all(isinstance(key, str) for key in example):
        return (), example
    if isinstance(example, tuple | list):
        return tuple(example), {}
    raise BadInput(f"{path}:{name}: the example is a {type(example).__name__}; {_WANTED}")
