"""What a training step needs of each device's memory: weights, gradients, optimizer, activations, loss (ZeRO, LoRA, QLoRA)."""

from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from ridgepoint.errors import BadInput
from ridgepoint.prediction.capacity import Item, Need, most, runtime_items
from ridgepoint.prediction.capacity_runtime import Runtime
from ridgepoint.prediction.capacity_split import Split, check_split, stages_of
from ridgepoint.prediction.capacity_training_activations import Keeping, LayerKept, kept_bytes, layer_kept, loss_bytes
from ridgepoint.prediction.capacity_weights import Stored, largest_layer, stage_weights
from ridgepoint.quantity import Array
from ridgepoint.workload import DTYPE_BYTES, Decoder, Plan

__all__ = [
    "MOST_MICRO_BATCH", "OPTIMIZERS", "Optimizer", "Recipe", "Training", "check_recipe", "most_micro_batch", "most_seq",
    "training", "training_bytes", "training_needs",
]  # fmt: skip

MOST_MICRO_BATCH = 2**16

Optimizer = Literal["adamw", "sgd", "adamw8bit"]
OPTIMIZERS: dict[str, float] = {"adamw": 8.0, "sgd": 0.0, "adamw8bit": 2.0 + 2 * 4.0 / 256}
"""Bytes of state per parameter: two moments in fp32; none (no momentum); two in 8 bits with an fp32 scale for each block
of 256 (bitsandbytes' optimizer.py; arXiv 2110.02861)."""
_NF4_BYTES = 0.5 + 1 / 64 + 4 / (64 * 256)
"""Per weight, with double quantisation: an 8-bit scale for each block of 64, an fp32 one for each 256 of these (QLoRA,
arXiv 2305.14314, section 3)."""
_GATHERED_LAYERS = 2
"""Layers whose parameters ZeRO 3 holds whole at a time: the one at work and the next, which is being fetched."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """How a model is trained. `rank` 0: all parameters; else LoRA adapters of that rank beside every linear layer.

    `param_dtype`: of what is trained; in 16 bits it has an fp32 master copy beside it, unless `master` is False.
    `grad_dtype`: of the accumulated gradients. `interleave`: stages that each device has of a pipeline.
    """

    rank: int = 0
    quantised: bool = False
    optimizer: Optimizer = "adamw"
    zero: int = 0
    param_dtype: str = "bf16"
    grad_dtype: str = "fp32"
    master: bool = True
    interleave: int = 1
    loss: Literal["eager", "fused"] = "eager"
    keeping: Keeping = field(default_factory=Keeping)


def check_recipe(recipe: Recipe, split: Split) -> None:
    """Refuse what cannot be: stages of ZeRO, interleaving without a pipeline, a sequence split without slices."""
    if not 0 <= recipe.zero <= 3:
        raise BadInput(f"zero is {recipe.zero}; possible is 0 (nothing split) to 3 (parameters too)")
    if not 0 <= recipe.rank <= 2**14:
        raise BadInput(f"a LoRA rank of {recipe.rank}; possible is 1 to {2**14}")
    if recipe.zero and split.dp == 1:
        raise BadInput(f"zero {recipe.zero} splits over data-parallel devices and there is one; give dp 2 or more")
    if recipe.interleave < 1 or (recipe.interleave > 1 and split.pp == 1):
        raise BadInput(f"interleave is {recipe.interleave}; possible is 1, and more with pp 2 or more")
    if recipe.keeping.sequence_parallel and split.tp == 1:
        raise BadInput("sequence parallelism splits over tensor-parallel devices and there is one; give tp 2 or more")


@dataclass(frozen=True, slots=True)
class TrainingStage:
    """What every length and micro-batch of one pipeline stage shares. `flight`: micro-batches kept at once; `unsplit`:
    bytes that the layer at work needs whatever its tokens."""

    items: tuple[Item, ...]
    kept: tuple[tuple[LayerKept, int], ...]
    flight: float
    unsplit: float


@dataclass(frozen=True, slots=True)
class Training:
    """A model laid out for training, by stage."""

    model: Decoder
    dtype: str
    split: Split
    recipe: Recipe
    runtime: Runtime
    stages: tuple[TrainingStage, ...]


def training(model: Decoder, plan: Plan, split: Split, recipe: Recipe, runtime: Runtime) -> Training:
    """Lay `model` out; `plan` gives the dtype of the computation, and of a frozen base its format.

    NotSupported or BadInput where split or recipe cannot be.
    """
    check_split(model, split)
    check_recipe(recipe, split)
    stages = []
    for number, stage in enumerate(stages_of(model, split.pp)):
        stored = stage_weights(model, stage, plan, split, number == 0, number == split.pp - 1)
        largest = largest_layer(model, stage, plan, split)
        stages.append(
            TrainingStage(
                (*_states(plan, split, recipe, stored), *_gathered(plan, recipe, stored, largest)),
                tuple((layer_kept(model, b, plan.dtype, split, recipe.keeping), count) for b, count in stage),
                _in_flight(split.pp, recipe.interleave, number),
                _unsplit(plan, recipe, stored, largest),
            )
        )
    return Training(model, plan.dtype, split, recipe, runtime, tuple(stages))


def training_needs(x: Training, seq: Array, micro_batch: Array) -> tuple[Need, ...]:
    """Rows of every pipeline stage for micro-batches of `micro_batch` sequences of `seq` tokens; both may be arrays.

    Ignored: buckets of gradient communication, temporary copies of the optimizer's update, an uneven load of experts. At
    least pp micro-batches a step are assumed.
    """
    length, batch = np.asarray(seq, float), np.asarray(micro_batch, float)
    return tuple(Need(number, _rows(x, number, stage, length, batch)) for number, stage in enumerate(x.stages))


def training_bytes(x: Training, seq: Array, micro_batch: Array) -> Array:
    """The fullest stage's total, on one device."""
    totals = [need.total_bytes for need in training_needs(x, seq, micro_batch)]
    fullest = totals[0]
    for total in totals[1:]:
        fullest = np.maximum(fullest, total)
    return fullest


def most_micro_batch(x: Training, seq: int, usable: float) -> int:
    """The most sequences of a micro-batch that fit; 0 where not even one does."""
    return most(lambda batch: float(training_bytes(x, seq, batch)) <= usable, MOST_MICRO_BATCH)


def most_seq(x: Training, micro_batch: int, usable: float) -> int:
    """The longest sequences that fit in micro-batches of this size, up to the model's limit; 0 where none does."""
    limit = x.model.max_position_embeddings
    return most(lambda seq: float(training_bytes(x, seq, micro_batch)) <= usable, limit)


def _rows(x: Training, number: int, stage: TrainingStage, seq: Array, batch: Array) -> tuple[Item, ...]:
    tokens, recipe, tp = seq * batch, x.recipe, x.split.tp
    last = number == x.split.pp - 1
    loss = loss_bytes(x.model, x.dtype, tokens, tp, recipe.loss) if last else np.zeros_like(tokens)
    layers = sum(count for _, count in stage.kept)
    return (
        *stage.items,
        Item("activations", f"{layers} layers", _flight_words(recipe, stage.flight), _kept(x, stage, seq, batch)),
        Item("activations", "around the layers", "norm, head, dropout", _outside(x, number, tokens)),
        Item("activations", "logits and loss", recipe.loss, loss),
        Item(
            "activations", "layer at work", "beyond the loss",
            np.maximum(0.0, _recomputed(x, stage, seq, batch) + stage.unsplit - loss),
        ),
        *runtime_items(x.runtime),
    )  # fmt: skip


def _states(plan: Plan, split: Split, recipe: Recipe, stored: tuple[Stored, ...]) -> tuple[Item, ...]:
    """Weights, gradients, optimizer states, each split over the replicas from its stage of ZeRO on (arXiv 1910.02054)."""
    trained = _trained(recipe, stored)
    param, grad = DTYPE_BYTES[recipe.param_dtype], DTYPE_BYTES[recipe.grad_dtype]
    master = 4.0 if recipe.master and param < 4 else 0.0
    moments = OPTIMIZERS[recipe.optimizer]
    rows = []
    if recipe.rank:
        rows.append(
            Item("weights", "frozen base", _base_words(plan, recipe), _over(_base(recipe, stored), split, recipe, 3))
        )
    name = f"adapters, rank {recipe.rank}" if recipe.rank else "parameters"
    rows.append(Item("weights", name, recipe.param_dtype, param * _over(trained, split, recipe, 3)))
    rows.append(Item("gradients", "accumulated", recipe.grad_dtype, grad * _over(trained, split, recipe, 2)))
    shared = _over(trained, split, recipe, 1)
    if master:
        rows.append(Item("optimizer", "master weights", "fp32", master * shared))
    rows.append(Item("optimizer", "states", recipe.optimizer, moments * shared))
    return tuple(rows)


def _base_words(plan: Plan, recipe: Recipe) -> str:
    return f"nf4 and {plan.dtype}" if recipe.quantised else plan.dtype


def _trained(recipe: Recipe, stored: tuple[Stored, ...]) -> dict[str, float]:
    """Trained elements of one device by where they lie: with the experts or with all else. Head and routers have no adapter."""
    sums = {"experts": 0.0, "rest": 0.0}
    for x in stored:
        adapted = 0.0 if x.part in ("head", "router") else x.adapter
        sums["experts" if x.part == "experts" else "rest"] += recipe.rank * adapted if recipe.rank else x.elements
    return sums


def _base(recipe: Recipe, stored: tuple[Stored, ...]) -> dict[str, float]:
    """Bytes of the frozen weights of one device."""
    sums = {"experts": 0.0, "rest": 0.0}
    for x in stored:
        size = x.elements * _NF4_BYTES if recipe.quantised and x.form == "nf4" else x.bytes
        sums["experts" if x.part == "experts" else "rest"] += size
    return sums


def _over(amounts: dict[str, float], split: Split, recipe: Recipe, stage: int) -> float:
    """The sum, split over the devices that hold the same, if the recipe's stage of ZeRO is `stage` or later."""
    if recipe.zero < stage:
        return sum(amounts.values())
    experts = split.expert_replicas if split.ep > 1 else split.dp
    return amounts["experts"] / experts + amounts["rest"] / split.dp


def _gathered(plan: Plan, recipe: Recipe, stored: tuple[Stored, ...], largest: float) -> tuple[Item, ...]:
    """Copies in the computation's dtype: of layers that ZeRO 3 puts together, or of fp32 parameters under autocast."""
    width = DTYPE_BYTES[plan.dtype]
    if recipe.zero == 3:
        about = f"{_GATHERED_LAYERS} layers and tables"
        return (Item("weights", "gathered for use", about, width * (_tables(stored) + _GATHERED_LAYERS * largest)),)
    if not recipe.rank and width < DTYPE_BYTES[recipe.param_dtype]:
        return (Item("weights", "copies for use", plan.dtype, width * sum(x.elements for x in stored)),)
    return ()


def _tables(stored: tuple[Stored, ...]) -> float:
    return sum(x.elements for x in stored if x.part in ("embedding", "head"))


def _unsplit(plan: Plan, recipe: Recipe, stored: tuple[Stored, ...], largest: float) -> float:
    """Whole gradients that ZeRO has yet to split, and of a quantised base the largest matrix, made whole."""
    width = DTYPE_BYTES[plan.dtype]
    gradients = width * max(_tables(stored), largest) if recipe.zero >= 2 and not recipe.rank else 0.0
    return gradients + (width * max((x.largest for x in stored), default=0.0) if recipe.quantised else 0.0)


def _in_flight(pp: int, interleave: int, number: int) -> float:
    """Micro-batches whose activations stage `number` keeps at once.

    1F1B: the first of p stages keeps p, the last one. Interleaved, with m stages for each device, the first keeps
    1 + (p - 1) / (p m) times as much (Korthikanti et al., section 4.2.3).
    """
    if interleave == 1:
        return float(pp - number)
    return (2.0 * (pp - number - 1) + (interleave - 1) * pp + 1) / interleave


def _kept(x: Training, stage: TrainingStage, seq: Array, batch: Array) -> Array:
    keeping, total = x.recipe.keeping, np.zeros_like(seq * batch)
    for kept, count in stage.kept:
        total = total + count * kept_bytes(kept, seq * batch, seq, x.split.tp, keeping, keeping.recompute)
    return total * stage.flight


def _recomputed(x: Training, stage: TrainingStage, seq: Array, batch: Array) -> Array:
    """What the layer whose backward pass runs has to compute again, and then holds as well."""
    keeping, widest = x.recipe.keeping, np.zeros_like(seq * batch)
    for kept, _ in stage.kept:
        whole = kept_bytes(kept, seq * batch, seq, x.split.tp, keeping, "none")
        held = kept_bytes(kept, seq * batch, seq, x.split.tp, keeping, keeping.recompute)
        widest = np.maximum(widest, whole - held)
    return widest


def _flight_words(recipe: Recipe, flight: float) -> str:
    words = f"recompute {recipe.keeping.recompute}"
    return words if flight == 1 else f"{words}, {flight:.3g} in flight"


def _outside(x: Training, number: int, tokens: Array) -> Array:
    """Inputs of the last norm and of the head, and the embedding's dropout mask for each micro-batch in flight."""
    share = 1.0 / x.split.tp if x.recipe.keeping.sequence_parallel else 1.0
    wide = DTYPE_BYTES[x.dtype] * x.model.hidden_size
    last = (1 + x.model.final_norm) * wide if number == x.split.pp - 1 else 0.0
    mask = x.model.hidden_size * x.split.pp if x.recipe.keeping.dropout and number == 0 else 0.0
    return tokens * (last + mask) * share
