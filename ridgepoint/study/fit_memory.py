"""What fits into a device's memory: the account of serving or training a model on each target, and what to change."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from ridgepoint.errors import BadInput, NotSupported, UnknownName
from ridgepoint.hardware import Target, load_target
from ridgepoint.prediction.capacity import MOST_USERS
from ridgepoint.prediction.capacity_kv import KV_DTYPES
from ridgepoint.prediction.capacity_runtime import ASSUMPTIONS
from ridgepoint.prediction.capacity_split import Split
from ridgepoint.prediction.capacity_training import MOST_MICRO_BATCH, OPTIMIZERS, Recipe
from ridgepoint.study.fit_changes import Change, serving_changes, training_changes
from ridgepoint.study.fit_request import (
    Assumed,
    Outcome,
    ServingRequest,
    TrainingRequest,
    check_with,
    memory_of,
    spelled,
    without_cache,
)
from ridgepoint.workload import DTYPES, Decoder, load_model

__all__ = ["Fit", "OnTarget", "document", "fit_serving", "fit_training", "recipe_named"]

_METHOD = re.compile(r"full|(q?lora)(?::r=(\d{1,6}))?")
_DEFAULT_RANK = 16
_DEFAULT_SEQ = 2048


@dataclass(frozen=True)
class OnTarget:
    """The answer for one target: its memory, the account, and what to change where it does not fit."""

    target: str
    memory_bytes: float
    outcome: Outcome
    changes: tuple[Change, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Fit:
    """What was asked, in words, and the answer for each target. `assumed`: name, value and source of each assumption."""

    kind: str
    model: str
    asked: dict[str, str]
    split: Split
    on: tuple[OnTarget, ...]
    assumed: tuple[tuple[str, float, str], ...]
    not_modelled: tuple[str, ...]

    @property
    def fits(self) -> bool:
        """Whether it fits on every target."""
        return all(on.outcome.fits for on in self.on)


def fit_serving(
    model: str,
    on: str,
    *,
    context: int | None = None,
    users: int = 1,
    with_: str = "",
    kv_dtype: str = "",
    chunk: int | None = None,
    split: Split | None = None,
    assumed: Assumed | None = None,
) -> Fit:
    """Does `model` fit with `users` sequences of `context` tokens at once (None: as many as the model takes)?

    `on`: names of targets, separated by commas; `kv_dtype` "": the base dtype. No weights are needed and no torch.
    Raises UnknownName, BadInput or NotSupported for what cannot be.
    """
    decoder, targets = _decoder(model), _targets(on)
    with_, kv_dtype = without_cache(with_, kv_dtype)
    check_with(with_, ("dtype", "weights"), "what is stored to serve a model")
    if kv_dtype and kv_dtype not in KV_DTYPES:
        raise UnknownName("KV cache dtype", kv_dtype, KV_DTYPES)
    length = decoder.max_position_embeddings if context is None else context
    _check_count("ctx", length, decoder.max_position_embeddings, f"what {model} has positions for")
    _check_count("users", users, MOST_USERS)
    step = int(ASSUMPTIONS["chunk"].value) if chunk is None else chunk
    _check_count("chunk", step, 2**20)
    given = assumed or Assumed()
    given.check()
    request = ServingRequest(decoder, length, users, with_, kv_dtype, step, split or Split(), given)
    answers = tuple(_serving_on(request, target) for target in targets)
    plan = request.plan(targets[0])
    asked = {
        "users": str(users), "ctx": str(length), "with": spelled(with_, plan), "kv_dtype": kv_dtype or plan.dtype,
        "chunk": str(step),
    }  # fmt: skip
    used = ("chunk", "reserve", "context_gib", "collectives_gib", "graphs_gib")
    values = {"chunk": float(step)}
    return Fit("serving", model, asked, request.split, answers, _assumed(given, used, values, request.split, targets),
               decoder.not_modelled)  # fmt: skip


def fit_training(
    model: str,
    on: str,
    *,
    seq: int | None = None,
    micro_batch: int = 1,
    recipe: Recipe | None = None,
    with_: str = "",
    split: Split | None = None,
    assumed: Assumed | None = None,
) -> Fit:
    """Does training `model` fit with micro-batches of `micro_batch` sequences of `seq` tokens (None: 2048, or all that the
    model takes)? Errors as `fit_serving`."""
    decoder, targets = _decoder(model), _targets(on)
    check_with(with_, ("dtype",), "what training stores (qlora quantises its base itself)")
    length = min(_DEFAULT_SEQ, decoder.max_position_embeddings) if seq is None else seq
    _check_count("seq", length, decoder.max_position_embeddings, f"what {model} has positions for")
    _check_count("micro-batch", micro_batch, MOST_MICRO_BATCH)
    given = assumed or Assumed()
    given.check()
    request = TrainingRequest(decoder, length, micro_batch, recipe or Recipe(), with_, split or Split(), given)
    answers = tuple(_training_on(request, target) for target in targets)
    chosen = request.recipe
    method = f"{'qlora' if chosen.quantised else 'lora'}:r={chosen.rank}" if chosen.rank else "full"
    asked = {
        "train": method, "seq": str(length), "micro_batch": str(micro_batch),
        "with": request.plan(targets[0]).dtype, "param_dtype": chosen.param_dtype, "optimizer": chosen.optimizer,
        "zero": str(chosen.zero), "recompute": chosen.keeping.recompute,
    }  # fmt: skip
    used = ("reserve", "context_gib", "collectives_gib")
    return Fit("training", model, asked, request.split, answers, _assumed(given, used, {}, request.split, targets),
               decoder.not_modelled)  # fmt: skip


def recipe_named(method: str, optimizer: str, param_dtype: str, grad_dtype: str) -> dict[str, Any]:
    """Fields of a recipe from the words that a user writes: `full`, `lora:r=16`, `qlora:r=16`; refuses unknown ones."""
    found = _METHOD.fullmatch(method)
    if found is None:
        raise BadInput(f"--train is full, lora:r=16 or qlora:r=16, not {method[:40]!r}")
    for what, word, known in (
        ("optimizer", optimizer, OPTIMIZERS),
        ("dtype", param_dtype or "bf16", DTYPES), ("dtype", grad_dtype, DTYPES),
    ):  # fmt: skip
        if word not in known:
            raise UnknownName(what, word, known)
    rank = int(found[2] or _DEFAULT_RANK) if found[1] else 0
    if found[1] and not rank:
        raise BadInput("a LoRA rank of 0 trains nothing; possible is 1 and more")
    # adapters are kept in fp32 (peft: autocast_adapter_dtype); all parameters in the dtype of the computation
    return {
        "rank": rank, "quantised": found[1] == "qlora", "optimizer": optimizer, "grad_dtype": grad_dtype,
        "param_dtype": param_dtype or ("fp32" if rank else "bf16"),
    }  # fmt: skip


def _decoder(model: str) -> Decoder:
    workload = load_model(model)
    if not isinstance(workload, Decoder):
        raise NotSupported(f"{model} is no decoder-only language model; `ridge fit` knows the memory of those alone")
    return workload


def _targets(on: str) -> tuple[Target, ...]:
    names = [name.strip() for name in on.split(",")]
    if not all(names) or len(names) > 12:
        raise BadInput(f"--on takes up to 12 names of targets separated by commas; got {on[:60]!r}")
    if len(set(names)) < len(names):
        raise BadInput(f"--on {on[:60]!r} names a target twice; once is enough")
    return tuple(load_target(name) for name in names)


def _check_count(name: str, value: int, most: int, why: str = "") -> None:
    if not 1 <= value <= most:
        raise BadInput(f"--{name} is {value}; possible is 1 to {most}{', ' + why if why else ''}")


def _serving_on(request: ServingRequest, target: Target) -> OnTarget:
    outcome = request.outcome(target)
    changes = () if outcome.fits else serving_changes(request, target, outcome)
    return OnTarget(target.name, memory_of(target), outcome, changes, tuple(_notes(request.with_, target)))


def _training_on(request: TrainingRequest, target: Target) -> OnTarget:
    outcome = request.outcome(target)
    changes = () if outcome.fits else training_changes(request, target, outcome)
    return OnTarget(target.name, memory_of(target), outcome, changes, ())


def _notes(with_: str, target: Target) -> Iterator[str]:
    """Units that the target's peaks do not list: the weights are held in the format all the same, and converted."""
    listed = {peak.dtype for peak in target.peaks}
    if listed and "fp8" in with_ and "fp8" not in listed:
        yield f"{target.name} lists no fp8 rate: weights held in fp8 are converted for each product"


def _assumed(
    given: Assumed, used: tuple[str, ...], values: dict[str, float], split: Split, targets: tuple[Target, ...]
) -> tuple[tuple[str, float, str], ...]:
    """Assumptions that entered the account, with the flag that sets each."""
    gpus = any(target.kind == "gpu" for target in targets)
    rows = []
    for name in used:
        if (name == "collectives_gib" and split.devices == 1) or (name in ("context_gib", "graphs_gib") and not gpus):
            continue
        value = values[name] if name in values else given.value(name)
        own = name not in values and getattr(given, name) is not None
        default = value == ASSUMPTIONS[name].value
        rows.append((ASSUMPTIONS[name].flag, value, ASSUMPTIONS[name].source if default and not own else "as given"))
    return tuple(rows)


def document(fit: Fit) -> dict[str, Any]:
    """The whole answer in plain types, for `--json`; bytes are of one device, the fullest."""
    return {
        "kind": fit.kind, "model": fit.model, "asked": fit.asked,
        "split": {"tp": fit.split.tp, "pp": fit.split.pp, "ep": fit.split.ep, "dp": fit.split.dp,
                  "devices": fit.split.devices},
        "fits": fit.fits,
        "targets": [
            {
                "target": on.target, "memory_bytes": on.memory_bytes, "stage": on.outcome.need.stage,
                "items": [
                    {"group": i.group, "name": i.name, "about": i.about, "bytes": float(i.bytes)}
                    for i in on.outcome.need.items
                ],
                **_outcome(on.outcome),
                "changes": [{"change": c.words, "flags": c.flags, **_outcome(c.outcome)} for c in on.changes],
                "notes": list(on.notes),
            }
            for on in fit.on
        ],
        "assumptions": [{"flag": flag, "value": value, "source": source} for flag, value, source in fit.assumed],
        "not_modelled": list(fit.not_modelled),
    }  # fmt: skip


def _outcome(outcome: Outcome) -> dict[str, Any]:
    return {
        "fits": outcome.fits, "usable_bytes": outcome.usable_bytes, "total_bytes": float(outcome.need.total_bytes),
        "spare_bytes": outcome.spare_bytes, "most": outcome.limits,
    }  # fmt: skip
