"""Accuracy on metal: losses of the same text under several sides of one model, window by window, beside a reference.

Shapes: B windows at once, T tokens of a window, V vocabulary.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from ridgepoint.measurement.request import AccuracyRequest, TextRequest
from ridgepoint.measurement.runnable import build_weights
from ridgepoint.measurement.text import windows_of
from ridgepoint.workload import Decoder, Plan, forward

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["block_figures", "log_probabilities", "window_losses", "windows_tensor"]

_ROWS = 4096
"""Tokens in one forward pass."""


def window_losses(request: AccuracyRequest) -> Iterator[dict[str, Any]]:
    """A `window` message per window: mean loss in nats per token of the reference and of each side, and per side the mean
    KL divergence from the reference and the share of tokens whose most likely successor is the reference's.

    The reference is the first side of the request. Each token but the first is predicted from those before it in its window.
    """
    decoder = request.decoder
    blocks = windows_tensor(decoder, request.directory, request.text)
    length = blocks[0].shape[1]
    step = forward(1, length)
    models = [
        build_weights(
            decoder, side.side(), step, side.kernels, request.directory, calibration=request.calibration
        ).model
        for side in request.sides
    ]
    number = 0
    for block_BT in blocks:
        reference = None
        columns: list[list[dict[str, float]]] = []
        for model, side in zip(models, request.sides, strict=True):
            log_BTV = log_probabilities(model, block_BT, side.side().plan(decoder, step))
            reference = log_BTV if reference is None else reference
            columns.append(block_figures(log_BTV, reference, block_BT))
        for row in zip(*columns, strict=True):
            yield {"kind": "window", "number": number, "sides": list(row)}
            number += 1
    yield {"kind": "done", "windows": number, "tokens": int(number * (length - 1))}


def windows_tensor(decoder: Decoder, directory: str, text: TextRequest) -> "list[Tensor]":
    """The windows of a text as token blocks [B, T], as many windows in each as one pass takes."""
    import torch

    tokens_WT = torch.tensor(windows_of(decoder, directory, text))
    return list(tokens_WT.split(max(1, _ROWS // tokens_WT.shape[1])))


def log_probabilities(model: Any, block_BT: "Tensor", plan: Plan) -> "Tensor":
    """log p[B, T - 1, V] of the successors of all tokens but the last, in fp32."""
    from ridgepoint.engine.cache import KvCache

    batch, length = block_BT.shape
    assert isinstance(plan.workload, Decoder), "asked of language models only"
    cache = KvCache(plan.workload, batch, length, plan.dtype, format=plan.cache)
    logits = model(block_BT, cache, 0, "all")
    return logits[:, :-1].float().log_softmax(-1)


def block_figures(log_BTV: "Tensor", reference_BTV: "Tensor", block_BT: "Tensor") -> list[dict[str, float]]:
    """Mean loss, KL(reference || this) and top-1 agreement of each window."""
    loss = -log_BTV.gather(-1, block_BT[:, 1:, None])[..., 0].mean(-1)
    kl = (reference_BTV.exp() * (reference_BTV - log_BTV)).sum(-1).mean(-1)
    same = (log_BTV.argmax(-1) == reference_BTV.argmax(-1)).float().mean(-1)
    return [
        {"loss": float(x), "kl": float(y), "top1": float(z)}
        for x, y, z in zip(loss.double(), kl.double(), same.double(), strict=True)
    ]
