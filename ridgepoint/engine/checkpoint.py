"""Reads tensors of a Hugging Face checkpoint from safetensors files by name; never opens a pickle."""

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from ridgepoint.errors import BadInput

__all__ = ["Checkpoint", "open_checkpoint"]

_SINGLE, _INDEX = "model.safetensors", "model.safetensors.index.json"
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")


class Checkpoint:
    """Which file of `directory` holds each tensor."""

    def __init__(self, directory: Path, file_of: dict[str, Path]):
        self.directory, self.file_of = directory, file_of

    def copy_into(self, targets: dict[str, Tensor]) -> None:
        """Fills each target with the tensor of that name, cast to the target's dtype; shapes must agree."""
        by_file: dict[Path, list[str]] = {}
        for name in targets:
            if name not in self.file_of:
                raise BadInput(f"{self.directory}: no tensor {name!r} in its safetensors files")
            by_file.setdefault(self.file_of[name], []).append(name)
        for path, names in by_file.items():
            with _opened(path) as file:
                for name in names:
                    self._copy(path, file, name, targets[name])

    def tensors(self, names: Iterable[str]) -> dict[str, tuple[Path, Tensor]]:
        """File and tensor by name, as they are stored; the names must be among `file_of`."""
        by_file: dict[Path, list[str]] = {}
        for name in names:
            by_file.setdefault(self.file_of[name], []).append(name)
        found = {}
        for path, inside in by_file.items():
            with _opened(path) as file:
                found |= {name: (path, _tensor(path, file, name)) for name in inside}
        return found

    def _copy(self, path: Path, file: Any, name: str, target: Tensor) -> None:
        tensor = _tensor(path, file, name)
        if tensor.shape != target.shape:
            raise BadInput(f"{path}: {name} is {list(tensor.shape)}; config.json asks for {list(target.shape)}")
        if not tensor.is_floating_point() or tensor.element_size() < 2:
            raise BadInput(f"{path}: {name} is {tensor.dtype}; only fp32, bf16 and fp16 checkpoints are read")
        target.copy_(tensor)

    def refuse_unread(self, read: Iterable[str], ignored: Iterable[str] = ()) -> None:
        """Raises BadInput if a tensor is neither read nor known to be derived, so that nothing is dropped silently."""
        derived = (".rotary_emb.inv_freq",)
        left = sorted(n for n in set(self.file_of) - set(read) - set(ignored) if not n.endswith(derived))
        if left:
            more = f" and {len(left) - 1} more" if len(left) > 1 else ""
            raise BadInput(
                f"{self.file_of[left[0]]}: tensor {left[0]!r}{more} has no place in the model of config.json"
            )


def _tensor(path: Path, file: Any, name: str) -> Tensor:
    try:
        return file.get_tensor(name)
    except SafetensorError:
        raise BadInput(f"{path}: no tensor {name!r} in it, though {_INDEX} says so") from None


def open_checkpoint(directory: Path) -> Checkpoint:
    """The checkpoint in `directory`: `model.safetensors`, or the shards that `model.safetensors.index.json` names."""
    index, single = directory / _INDEX, directory / _SINGLE
    if index.is_file():
        return Checkpoint(directory, _sharded(directory, index))
    if single.is_file():
        with _opened(single) as file:
            return Checkpoint(directory, dict.fromkeys(file.keys(), single))
    if any(found for pattern in _PICKLES if (found := next(directory.glob(pattern), None))):
        raise BadInput(
            f"{directory}: only pickled weights there, and a pickle can run code when opened; "
            "save the model again with save_pretrained(safe_serialization=True)"
        )
    raise BadInput(f"{directory}: no {_SINGLE} and no {_INDEX} there")


def _sharded(directory: Path, index: Path) -> dict[str, Path]:
    try:
        names = json.loads(index.read_bytes())["weight_map"]
        files = {name: Path(file) for name, file in names.items()}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise BadInput(f"{index}: not an index of shards; it needs an object weight_map of file names") from None
    for name, file in files.items():
        if file.name != str(file) or file.suffix != ".safetensors":
            raise BadInput(
                f"{index}: {name!r} is said to be in {str(file)!r}; only *.safetensors beside the index are read"
            )
        if not (directory / file).is_file():
            raise BadInput(f"{directory / file}: missing; {_INDEX} says it holds {name!r}")
    return {name: directory / file for name, file in files.items()}


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    try:
        opened = safe_open(path, framework="pt")
    except (SafetensorError, OSError) as error:
        raise BadInput(f"{path}: not a readable safetensors file: {error}") from None
    with opened as file:
        yield file
