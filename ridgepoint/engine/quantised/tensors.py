"""The tensors of one linear layer in a checkpoint, each checked against what its layout says before it is used."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ridgepoint.errors import BadInput

if TYPE_CHECKING:
    from ridgepoint.engine.checkpoint import Checkpoint  # random weights need no safetensors

__all__ = ["LayerTensors"]

FLOATS = (torch.float16, torch.bfloat16, torch.float32)


class LayerTensors:
    """Tensors whose names begin with `path`; `read` is the names of those that were taken."""

    def __init__(self, checkpoint: "Checkpoint", path: str):
        self._checkpoint, self.path = checkpoint, path
        self._found = checkpoint.tensors(n for n in checkpoint.file_of if n.rpartition(".")[0] == path)
        self.read: set[str] = set()

    def has(self, leaf: str) -> bool:
        """Whether there is such a tensor."""
        return f"{self.path}.{leaf}" in self._found

    def take(self, leaf: str, dtypes: Sequence[torch.dtype], *shapes: tuple[int, ...]) -> Tensor:
        """The tensor, which must be there, of one of the dtypes and of one of the shapes; floats must be finite."""
        name = f"{self.path}.{leaf}"
        if name not in self._found:
            raise BadInput(
                f"{self._checkpoint.directory}: no tensor {name!r} in its safetensors files; the layout that config.json "
                "names has one"
            )
        self.read.add(name)
        _, tensor = self._found[name]
        if tensor.dtype not in dtypes:
            raise self.wrong(leaf, f"is {_plain(tensor.dtype)}; this layout has {' or '.join(map(_plain, dtypes))}")
        if tuple(tensor.shape) not in shapes:
            asked = " or ".join(str(list(shape)) for shape in shapes)
            raise self.wrong(leaf, f"is {list(tensor.shape)}; config.json asks for {asked}")
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor.float()).all()):
            raise self.wrong(leaf, "holds values that are not finite")
        return tensor

    def scales(self, leaf: str, *shapes: tuple[int, ...]) -> Tensor:
        """Scales, which must be floats, finite and not negative."""
        scale = self.take(leaf, FLOATS, *shapes)
        if bool((scale < 0).any()):
            raise self.wrong(leaf, "holds a negative scale")
        return scale

    def bias(self, n: int, wanted: bool) -> Tensor | None:
        """bias[n] where the model has one; a bias that it has not must be zeros, as some writers store them."""
        if not wanted and not self.has("bias"):
            return None
        bias = self.take("bias", FLOATS, (n,))
        if wanted:
            return bias
        if bool(bias.any()):
            raise self.wrong("bias", "is not zero, and the model of config.json has no bias there")
        return None

    def within(self, leaf: str, values: Tensor, low: int, high: int, what: str) -> None:
        """Refuse integers out of their range."""
        smallest, largest = int(values.min()), int(values.max())
        if smallest < low or largest > high:
            worst = smallest if smallest < low else largest
            raise self.wrong(leaf, f"holds the {what} {worst}; possible is {low} to {high}")

    def wrong(self, leaf: str, what: str) -> BadInput:
        """The error that names file and tensor."""
        name = f"{self.path}.{leaf}"
        path: Path = self._found[name][0] if name in self._found else self._checkpoint.directory
        return BadInput(f"{path}: {name} {what}")


def _plain(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
