"""Accuracy of mixed formats: every layer is converted once to every format, and any assignment is put together from them."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ridgepoint.choice import Metal
from ridgepoint.measurement.accuracy import block_figures, log_probabilities, windows_tensor
from ridgepoint.measurement.request import MixedRequest, TextRequest
from ridgepoint.measurement.text import windows_of
from ridgepoint.workload import Plan, forward

if TYPE_CHECKING:
    from torch import Tensor, nn

__all__ = ["Layers", "build_layers", "mixed_losses"]


@dataclass
class Layers:
    """A model whose layers can be exchanged: `kinds[f][l]` is layer l in format f; the reference's log p by block."""

    model: "nn.Module"
    kinds: list[list["nn.Module"]]
    blocks: list["Tensor"]
    reference: list["Tensor"]


def build_layers(request: MixedRequest) -> Layers:
    """The layers in every format, each quantised on its own, with the inputs that the unquantised model gives it."""
    from ridgepoint.engine.build import load_safetensors

    decoder, first = request.decoder, request.sides[0]
    blocks = windows_tensor(decoder, request.directory, request.text)
    length = blocks[0].shape[1]
    step = forward(1, length)
    plans = [side.side().plan(decoder, step) for side in request.sides]
    kinds: list[list[nn.Module]] = [[] for _ in request.sides]
    walk = _walk(request.calibration, decoder, request.directory)

    def convert(module: "nn.Module", layer: int | None) -> "nn.Module":
        def keep(part: "nn.Module", inputs: Any) -> "nn.Module":
            import copy

            if layer is not None:
                for kind, side, plan in zip(kinds, request.sides, plans, strict=True):
                    own = copy.deepcopy(inputs)  # an algorithm may take factors out of them
                    kind.append(side.side().on_metal(copy.deepcopy(part), plan, Metal(side.kernels, layer, own)))
            return part

        return walk(module, keep) if walk else keep(module, {})

    model = load_safetensors(decoder, Path(request.directory), plans[0].dtype, convert=convert)
    model = first.side().on_metal(model, plans[0], Metal(first.kernels))
    reference = load_safetensors(decoder, Path(request.directory), "fp32")
    plain = Plan(decoder, step, "fp32")
    return Layers(model, kinds, blocks, [log_probabilities(reference, b, plain) for b in blocks])


def _walk(calibration: TextRequest | None, decoder: Any, directory: str) -> Any:
    if calibration is None:
        return None
    import torch

    from ridgepoint.engine.quantise.inputs import Walk

    return Walk(torch.tensor(windows_of(decoder, directory, calibration)))


def mixed_losses(layers: Layers, request: MixedRequest) -> Iterator[dict[str, Any]]:
    """An `assignment` message for each: loss, KL and top-1 agreement of every window, against the fp32 reference."""
    from torch import nn

    plan = request.sides[0].side().plan(request.decoder, forward(1, 1))
    for assignment in request.assignments:
        layers.model.layers = nn.ModuleList(layers.kinds[f][i] for i, f in enumerate(assignment))
        rows = [
            figures
            for block, reference in zip(layers.blocks, layers.reference, strict=True)
            for figures in block_figures(log_probabilities(layers.model, block, plan), reference, block)
        ]
        yield {"kind": "assignment", "assignment": list(assignment), "windows": rows}
    yield {"kind": "done"}
