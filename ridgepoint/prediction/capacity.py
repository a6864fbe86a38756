"""What serving a model needs of each device's memory, itemised, and the most context and users that fit."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ridgepoint.prediction.capacity_activations import (
    StageActivations,
    activation_bytes,
    logit_bytes,
    stage_activations,
)
from ridgepoint.prediction.capacity_kv import KvLayers, kv_bytes, kv_layers, kv_page_bytes
from ridgepoint.prediction.capacity_runtime import Runtime
from ridgepoint.prediction.capacity_split import Split, check_split, stages_of
from ridgepoint.prediction.capacity_weights import Stored, stage_weights
from ridgepoint.quantity import Array
from ridgepoint.workload import Decoder, Plan

__all__ = [
    "MOST_USERS",
    "Item",
    "Need",
    "Serving",
    "most",
    "most_context",
    "most_users",
    "need_bytes",
    "serving",
    "stage_needs",
    "usable_bytes",
]

MOST_USERS = 2**20


@dataclass(frozen=True, slots=True)
class Item:
    """One row of the account: its group, what it is, how it is stored or counted, and its bytes on one device."""

    group: str
    name: str
    about: str
    bytes: Array


@dataclass(frozen=True, slots=True)
class Need:
    """All rows of one device of a pipeline stage."""

    stage: int
    items: tuple[Item, ...]

    @property
    def total_bytes(self) -> Array:
        """The sum of all rows."""
        return sum((item.bytes for item in self.items), start=0.0)

    def group_bytes(self, group: str) -> Array:
        """The sum of one group's rows."""
        return sum((item.bytes for item in self.items if item.group == group), start=0.0)


@dataclass(frozen=True, slots=True)
class ServingStage:
    """What one device of a stage holds: constants that every context and number of users shares."""

    weights: tuple[Stored, ...]
    cache: tuple[KvLayers, ...]
    activations: StageActivations


@dataclass(frozen=True, slots=True)
class Serving:
    """A model laid out for inference: by stage, with the tokens of a step and the runtime's needs."""

    model: Decoder
    split: Split
    kv_dtype: str
    chunk: int
    runtime: Runtime
    stages: tuple[ServingStage, ...]


def serving(model: Decoder, plan: Plan, split: Split, kv_dtype: str, chunk: int, runtime: Runtime) -> Serving:
    """Lay out `plan`'s formats over `split`; NotSupported where the split does not divide the model."""
    check_split(model, split)
    layers = stages_of(model, split.pp)
    stages = []
    for number, stage in enumerate(layers):
        first, last = number == 0, number == split.pp - 1
        stages.append(
            ServingStage(
                stage_weights(model, stage, plan, split, first, last),
                kv_layers(stage, kv_dtype, split.tp),
                stage_activations(model, stage, plan.dtype, split, last),
            )
        )
    return Serving(model, split, kv_dtype, chunk, runtime, tuple(stages))


def stage_needs(x: Serving, context: Array, users: Array) -> tuple[Need, ...]:
    """Rows of every stage for `users` sequences of `context` tokens, prompt and answer together.

    Both may be arrays that broadcast. Users are spread evenly over the dp replicas. Ignored: the tokens' own integers,
    workspaces of libraries, an uneven load of experts.
    """
    own = np.ceil(np.asarray(users, float) / x.split.dp)
    length = np.asarray(context, float)
    return tuple(Need(number, _rows(x, stage, length, own)) for number, stage in enumerate(x.stages))


def need_bytes(x: Serving, context: Array, users: Array) -> Array:
    """The fullest stage's total, on one device."""
    totals = [need.total_bytes for need in stage_needs(x, context, users)]
    fullest = totals[0]
    for total in totals[1:]:
        fullest = np.maximum(fullest, total)
    return fullest


def _rows(x: Serving, stage: ServingStage, context: Array, users: Array) -> tuple[Item, ...]:
    weights = tuple(Item("weights", stored.part, stored.form, stored.bytes) for stored in stage.weights)
    cache = stage.cache
    exact = tuple(
        Item("KV cache", _layer_words(layers), x.kv_dtype, kv_bytes((layers,), context, users))
        for layers in _alike(cache)
    )
    return (
        *weights,
        *exact,
        Item("KV cache", "pages not full", "paging", kv_page_bytes(cache, context, users, float(x.chunk))),
        Item(
            "activations", "layers", f"step of {x.chunk}",
            activation_bytes(stage.activations, context, users, float(x.chunk)),
        ),
        Item(
            "activations", "logits", "fp32, beyond them", logit_bytes(stage.activations, context, users, float(x.chunk))
        ),
        *runtime_items(x.runtime),
    )  # fmt: skip


def runtime_items(runtime: Runtime) -> tuple[Item, ...]:
    """The runtime's rows, without those that are zero."""
    rows = (
        Item("runtime", "context and kernels", "assumed", runtime.context_bytes),
        Item("runtime", "collectives", "assumed", runtime.collectives_bytes),
        Item("runtime", "graphs", "assumed", runtime.graphs_bytes),
    )
    return tuple(row for row in rows if np.any(row.bytes))


def _alike(cache: tuple[KvLayers, ...]) -> tuple[KvLayers, ...]:
    """Layers with the same cache as one entry."""
    counts: dict[tuple[float, int], int] = {}
    for layers in cache:
        key = (layers.bytes_per_token, layers.window)
        counts[key] = counts.get(key, 0) + layers.count
    return tuple(KvLayers(count, size, window) for (size, window), count in counts.items())


def _layer_words(layers: KvLayers) -> str:
    window = f", window {layers.window}" if layers.window else ""
    return f"{layers.count} layer{'s' if layers.count > 1 else ''}{window}"


def usable_bytes(memory_bytes: float, runtime: Runtime) -> float:
    """What may be filled of a device's memory."""
    return memory_bytes * (1 - runtime.reserve)


def most_context(x: Serving, users: int, usable: float) -> int:
    """The longest context that fits for all users, up to the model's own limit; 0 where not even one token does."""
    return most(lambda context: float(need_bytes(x, context, users)) <= usable, x.model.max_position_embeddings)


def most_users(x: Serving, context: int, usable: float) -> int:
    """The most sequences of this context that fit at once, up to `MOST_USERS`; 0 where not even one does."""
    return most(lambda users: float(need_bytes(x, context, users)) <= usable, MOST_USERS)


def most(fits: Callable[[int], bool], limit: int) -> int:
    """The largest whole number up to `limit` that fits, where all smaller ones do; 0 if none."""
    low, high = 0, limit
    while low < high:
        middle = (low + high + 1) // 2
        if fits(middle):
            low = middle
        else:
            high = middle - 1
    return low
