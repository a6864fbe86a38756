"""Peak memory of a training step of the engine: what each moment of it holds, itemised, and which moment holds most."""

from dataclasses import dataclass

import numpy as np

from ridgepoint.prediction.capacity_split import Split
from ridgepoint.prediction.capacity_training_activations import Keeping, kept_bytes, layer_kept
from ridgepoint.quantity import Array
from ridgepoint.workload import DTYPE_BYTES, Block, Decoder, Linear, Plan, Pointwise, prefill, trained_parameters

__all__ = ["TrainingNeed", "training_need"]

_MOMENTS = 2
"""Of AdamW, in the dtype of the weights (torch's AdamW on parameters of any dtype)."""
_LOSS_BYTES = 8.0
"""Per logit in the backward pass of cross entropy beside the log-probabilities that are kept: two gradients in fp32."""


@dataclass(frozen=True, slots=True)
class TrainingNeed:
    """Bytes. `gradients` and `activations` are those of the peak, so that the first four add up to `total`.

    `moment` says when that is (of a sweep, at its last point). `kept`: what autograd keeps when the forward pass is over;
    `all_gradients`: when all are there; `adapters`: the part of the weights that is trained beside a frozen base.
    """

    weights: Array
    optimizer: Array
    gradients: Array
    activations: Array
    moment: str
    kept: Array
    all_gradients: Array
    adapters: Array

    @property
    def total(self) -> Array:
        """Of the peak."""
        return self.weights + self.optimizer + self.gradients + self.activations


@dataclass(frozen=True, slots=True)
class _Moment:
    name: str
    gradients: Array
    activations: Array


def training_need(plan: Plan) -> TrainingNeed:
    """Forward in eager mode with torch's own operators: RMS norms are composed of pointwise ones and keep fp32 tensors,
    attention in tiles keeps no scores, cross entropy keeps log-probabilities in fp32; AdamW updates in place.

    What layers keep is that of `capacity_training_activations` (Korthikanti et al., arXiv 2205.05198), which `ridge fit`
    uses too. Ignored: rotary tables, the allocator's rounding, scratch of libraries.
    """
    model = plan.workload
    assert isinstance(model, Decoder), "training is of language models"
    forward, width, tokens = plan.layer_inputs, DTYPE_BYTES[plan.dtype], plan.step.tokens
    trained = trained_parameters(forward, model.parameters)
    full = trained == float(model.parameters)
    states, every = _MOMENTS * width * trained, width * trained
    table = width * model.vocab_size * model.hidden_size if full else 0.0
    layers = [(_layer_bytes(plan, model, block, tokens), block.count) for block in model.blocks]
    inside = sum((count * kept for kept, count in layers), start=0.0)
    if not full:  # nothing in front of the first adapter has a gradient
        inside = inside - tokens * _norm_bytes(model.hidden_size, 1.0, model.norm, width, full)
    stream = tokens * width * model.hidden_size
    outside = _outside_bytes(model, width, tokens, full)
    held = model.layers * stream if plan.recompute else inside
    logits = tokens * model.vocab_size
    kept = held + outside + 4.0 * logits
    moments = _moments(plan, model, kept, held, 4.0 * logits, every, table, [k for k, _ in layers])
    largest = moments[0]
    for moment in moments[1:]:
        largest = _larger(largest, moment)
    adapters = 0.0 if full else every
    return TrainingNeed(
        plan.weight_bytes, states, largest.gradients, largest.activations, largest.name, kept, every, adapters
    )


def _larger(a: _Moment, b: _Moment) -> _Moment:
    """Of a sweep at each point the larger, under the name of that at the last one."""
    more = np.asarray(b.gradients + b.activations > a.gradients + a.activations)
    gradients = np.where(more, b.gradients, a.gradients)[()]
    activations = np.where(more, b.activations, a.activations)[()]
    return _Moment(b.name if more.flat[-1] else a.name, gradients, activations)


def _moments(
    plan: Plan, model: Decoder, kept: Array, held: Array, log_p: Array, every: Array, table: Array, layers: list[Array]
) -> list[_Moment]:
    """The moments of which one can be the peak: loss, head, the last layer, the first one, and the end."""
    width, tokens = DTYPE_BYTES[plan.dtype], plan.step.tokens
    stream, logits = tokens * width * model.hidden_size, tokens * model.vocab_size
    working = _working_bytes(plan, model, tokens)
    # a layer that runs again keeps its own input for an RMS norm, in fp32: of fp32 layers that is the tensor kept already
    held_anew = stream if plan.recompute and (width < 4.0 or model.blocks[0].norm != "rms_norm") else 0.0
    again = layers[-1] - (0.0 if np.any(held_anew) else stream) if plan.recompute else 0.0
    behind = kept - log_p - _outside_bytes(model, width, tokens, bool(table))
    tied = model.tie_word_embeddings and bool(np.any(table))
    own = every - (table if model.tie_word_embeddings else 2.0 * table)  # of the layers, evenly
    before = every - (0.0 if tied else table) - own / model.layers  # an untied embedding's gradient comes last
    first = held_anew + layers[0]
    return [
        _Moment("loss", 0.0, kept + _LOSS_BYTES * logits),
        _Moment("head", table, kept - log_p + width * logits + stream),
        _Moment("last layer", table, behind + again + working),
        _Moment("first layer", before, first + working),
        _Moment("end of the backward pass", every + (2.0 * table if tied else 0.0), 0.0 * stream),
    ]


def _layer_bytes(plan: Plan, model: Decoder, block: Block, tokens: Array) -> Array:
    """What one layer keeps of a forward pass."""
    keeping, split = Keeping(), Split()
    kept = kept_bytes(layer_kept(model, block, plan.dtype, split, keeping), tokens, 1, 1, keeping, "none")
    width, ops = DTYPE_BYTES[plan.dtype], block.ops(prefill(1, 1), model.hidden_size, plan.dtype)
    rewritten = [_rewritten(plan, op) for op in ops]
    full = all(op.trained for op in rewritten if isinstance(op, Linear))
    more: Array = 0.0
    for op in rewritten:
        if isinstance(op, Pointwise) and op.role == "norm":
            more = more + _norm_bytes(op.cols, op.rows, op.kind, width, full) - width * op.rows * op.cols
        elif isinstance(op, Linear) and op.rank:
            more = more + width * op.rank
    return kept + tokens * (more - _unread_bytes(rewritten, width))


def _norm_bytes(cols: Array, rows: Array, kind: str, width: float, trained: bool) -> Array:
    """Per token of an RMS norm, composed: its input in fp32, 1 / rms, and if its weight is trained the normed input in fp32; a
    layer norm keeps its input and two figures a row."""
    if kind == "layer_norm":
        return rows * (width * cols + 2 * width)
    return rows * ((8.0 if trained else 4.0) * cols + 4.0)


def _unread_bytes(ops: list[object], width: float) -> float:
    """Inputs of frozen layers without an adapter, which nobody needs again: unless attention keeps them anyway."""
    groups: dict[str, list[Linear]] = {}
    for op in ops:
        if isinstance(op, Linear) and op.role in ("attention.in", "mlp.in", "mlp.out"):
            groups.setdefault(op.role, []).append(op)
    unread = (group[0] for group in groups.values() if not any(op.trained or op.rank for op in group))
    return sum(width * float(op.k) for op in unread)


def _outside_bytes(model: Decoder, width: float, tokens: Array, full: bool) -> Array:
    """Last norm, input of the head if it is trained, and the targets and tokens of 8 bytes."""
    norm = _norm_bytes(model.hidden_size, 1.0, model.norm, width, full) if model.final_norm else 0.0
    return tokens * (norm + (width * model.hidden_size + 16.0 if full else 8.0))


def _working_bytes(plan: Plan, model: Decoder, tokens: Array) -> Array:
    """What the gradients of one layer hold beside what it keeps: two of the feed-forward layer's inner tensors and two of
    the stream, or three of the stream in fp32 in an RMS norm; of a frozen NF4 base its largest matrix made whole."""
    width, widest = DTYPE_BYTES[plan.dtype], 0.0
    for block in model.blocks:
        inner = width * (2.0 * block.mlp.intermediate_size + 2.0 * model.hidden_size)
        widest = max(widest, inner, 12.0 * model.hidden_size + width * model.hidden_size)
    dense = [float(op.n * op.k) * width for op in plan.layer_inputs if isinstance(op, Linear) and op.weight == "nf4"]
    return tokens * widest + max(dense, default=0.0)


def _rewritten(plan: Plan, op: object) -> object:
    for rewrite in plan.rewrites:
        op = rewrite(op)  # type: ignore[arg-type]
    return op
