"""Short fine-tuning runs: the loss of every step and of text kept apart, for each side and seed, on the same batches.

Shapes: B sequences, T tokens of a sequence.
"""

import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ridgepoint.errors import BadInput
from ridgepoint.measurement.request import CurveRequest
from ridgepoint.measurement.runnable import build_weights
from ridgepoint.measurement.text import text_tokens
from ridgepoint.workload import Plan, train

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["CURVE_DEFINITION", "RATES", "curve_losses"]

RATES = {"full": 1e-4, "adapter": 1e-3}
"""Learning rates, constant: adapters take about ten times that of all weights (Biderman et al. 2024, arXiv 2405.09673)."""
CURVE_DEFINITION = (
    "loss.finetune.v1: AdamW, constant rate 1e-4 for all weights and 1e-3 for adapters, no warm-up; batches drawn by the seed "
    "from the first four fifths of the text, the same for every side; before and after: mean loss of up to 16 windows of the "
    "last fifth"
)
_TRAINED_SHARE = 0.8
_MOST_WINDOWS = 16


def curve_losses(request: CurveRequest) -> Iterator[dict[str, Any]]:
    """A `curve` message per side and seed: loss of each step in nats per token, and that of the text kept apart; then `done`.

    A side and a seed give the same numbers again on one machine: the seed draws the batches and the adapters' first values.
    BadInput for a text too short for one window on each side of the cut.
    """
    import torch

    from ridgepoint.engine.training import make_trainer, train_step

    tokens, window = _tokens(request), request.length + 1
    cut = int(_TRAINED_SHARE * len(tokens))
    learned, kept = tokens[:cut], tokens[cut:]
    if min(len(learned), len(kept)) < window:
        raise BadInput(f"{request.path}: {len(tokens)} tokens are too few for windows of {window}; give a longer text")
    apart = _windows(kept, range(0, len(kept) - window + 1, window), window)[:_MOST_WINDOWS]
    step = train(request.batch, request.length)
    for number, asked in enumerate(request.sides):
        side = asked.side()
        plan = side.plan(request.decoder, step)
        for seed in request.seeds:
            torch.manual_seed(seed)
            model = build_weights(request.decoder, side, step, asked.kernels, request.directory).model
            trainer = make_trainer(model, plan.recompute, _rate(plan))
            before, draw = _apart(trainer, apart), random.Random(seed)
            losses = []
            for _ in range(request.steps):
                starts = [draw.randrange(len(learned) - window + 1) for _ in range(request.batch)]
                block = _windows(learned, starts, window)
                losses.append(float(train_step(trainer, block[:, :-1], block[:, 1:])))
            yield {
                "kind": "curve", "side": number, "seed": seed, "losses": losses, "before": before,
                "after": _apart(trainer, apart),
            }  # fmt: skip
    yield {"kind": "done"}


def _tokens(request: CurveRequest) -> Sequence[int]:
    return text_tokens(Path(request.path), Path(request.directory), request.decoder.vocab_size)


def _windows(tokens: Sequence[int], starts: Sequence[int], window: int) -> "Tensor":
    import torch

    return torch.tensor([list(tokens[start : start + window]) for start in starts])


def _rate(plan: Plan) -> float:
    ranked = any(getattr(op, "rank", 0) for op in plan.layer_inputs)
    return RATES["adapter" if ranked else "full"]


def _apart(trainer: Any, windows_BT: "Tensor") -> float:
    import torch

    from ridgepoint.engine.training import loss_of

    with torch.no_grad():
        return float(loss_of(trainer, windows_BT[:, :-1], windows_BT[:, 1:]))
