"""What to change where a model does not fit, cheapest first, each with what it would give."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from ridgepoint.choice import parse_choices
from ridgepoint.errors import RidgeError
from ridgepoint.hardware import Target
from ridgepoint.prediction.capacity_kv import KV_DTYPES
from ridgepoint.prediction.capacity_split import Split
from ridgepoint.study.fit_request import Outcome, ServingRequest, TrainingRequest

__all__ = ["Change", "serving_changes", "training_changes"]

_MOST_SHOWN = 6
_MOST_DEVICES = 64


@dataclass(frozen=True)
class Change:
    """A change as words and as flags, and the outcome with it."""

    words: str
    flags: str
    outcome: Outcome


def serving_changes(request: ServingRequest, target: Target, now: Outcome) -> tuple[Change, ...]:
    """For serving: a smaller cache, smaller weights, both where one is not enough, less asked, more devices.

    Those that fit, in this order; where none does, the two that come nearest.
    """
    smaller = _tried([*_cache(request, target), *_weights(request, target)], target)
    if not any(change.outcome.fits for change in smaller):
        smaller += _tried(_both(request, target), target)
    return _chosen([*smaller, *_tried(_less(request, now), target), *_tried(_devices(request, target), target)])


def training_changes(request: TrainingRequest, target: Target, now: Outcome) -> tuple[Change, ...]:
    """For training: what costs only time first, then smaller batches, smaller states, adapters, more devices."""
    software = [*_recomputing(request), *_smaller(request, now), *_states(request)]
    others = [*_adapters(request), *_shorter(request, now), *_replicas(request, target)]
    return _chosen(_tried([*software, *others], target))


_Serve = tuple[str, str, ServingRequest]
_Train = tuple[str, str, TrainingRequest]


def _tried(candidates: "Iterable[_Serve] | Iterable[_Train]", target: Target) -> list[Change]:
    found = []
    for words, flags, request in candidates:
        try:
            found.append(Change(words, flags, request.outcome(target)))
        except RidgeError:  # this model or device cannot do it; the next candidate may
            continue
    return found


def _chosen(found: list[Change]) -> tuple[Change, ...]:
    fitting = [change for change in found if change.outcome.fits]
    nearest = sorted(found, key=lambda change: -change.outcome.spare_bytes)[:2]
    return tuple(fitting[:_MOST_SHOWN] or nearest)


def _both(request: ServingRequest, target: Target) -> Iterator[_Serve]:
    for a_words, a_flags, cache in _cache(request, target):
        for b_words, b_flags, weights in _weights(request, target):
            both = replace(weights, kv_dtype=cache.kv_dtype)
            yield f"{a_words} and {b_words}", f"{a_flags} {b_flags}", both


def _cache(request: ServingRequest, target: Target) -> Iterator[_Serve]:
    now = request.kv_dtype or request.plan(target).dtype
    for dtype, words in (("fp8", "KV cache in fp8"), ("int4", "KV cache in int4")):
        if KV_DTYPES.index(dtype) > KV_DTYPES.index(now):
            yield words, f"--kv-dtype {dtype}", replace(request, kv_dtype=dtype)


def _weights(request: ServingRequest, target: Target) -> Iterator[_Serve]:
    """An 8-bit and a 4-bit format, where the weights are wider than that; fp8 where the target has units for it."""
    if any(choice.AXIS == "weights" for choice in parse_choices(request.with_)):
        formats = [] if "4" in request.with_ else [("int4", "int4:g128")]
    else:
        has_fp8 = any(peak.dtype == "fp8" for peak in target.peaks)
        formats = [("fp8", "fp8") if has_fp8 else ("int8", "int8"), ("int4", "int4:g128")]
    for name, spec in formats:
        yield f"weights in {name}", f"--with {spec}", replace(request, with_=spec)


def _less(request: ServingRequest, now: Outcome) -> Iterator[_Serve]:
    users, context = now.limits["users"], now.limits["context"]
    if 0 < users < request.users:
        yield f"{users} users", f"--users {users}", replace(request, users=users)
    if 0 < context < request.context:
        yield f"context {context}", f"--ctx {context}", replace(request, context=context)


def _devices(request: ServingRequest, target: Target) -> Iterator[_Serve]:
    """The smallest tensor-parallel group that fits, and the smallest with int4 weights and an fp8 cache."""
    small = replace(request, with_="int4:g128", kv_dtype="fp8")
    for start, words, flags in (
        (request, "", ""),
        (small, " and int4 weights, fp8 KV", " --with int4:g128 --kv-dtype fp8"),
    ):
        tp = 2 * request.split.tp
        while tp * request.split.pp * request.split.dp <= _MOST_DEVICES:
            wider = replace(start, split=replace(request.split, tp=tp))
            if _fits(wider, target):
                yield f"tp={tp}{words}", f"--tp {tp}{flags}", wider
                break
            tp *= 2


def _fits(request: ServingRequest | TrainingRequest, target: Target) -> bool:
    try:
        return request.outcome(target).fits
    except RidgeError:
        return False


def _recomputing(request: TrainingRequest) -> Iterator[_Train]:
    keeping = request.recipe.keeping
    if request.split.tp > 1 and not keeping.sequence_parallel:
        split = replace(keeping, sequence_parallel=True)
        yield "sequence parallelism", "--sequence-parallel", request.with_recipe({"keeping": split})
    if request.recipe.loss == "eager":
        yield "fused cross-entropy", "--loss fused", request.with_recipe({"loss": "fused"})
    for name in ("selective-op", "full"):
        if keeping.recompute not in (name, "full"):
            changed = replace(keeping, recompute=name)
            yield f"recompute {name}", f"--recompute {name}", request.with_recipe({"keeping": changed})
    if request.recipe.loss == "eager" and keeping.recompute != "full":
        changed = replace(keeping, recompute="full")
        both = request.with_recipe({"keeping": changed, "loss": "fused"})
        yield "recompute full, fused cross-entropy", "--recompute full --loss fused", both


def _smaller(request: TrainingRequest, now: Outcome) -> Iterator[_Train]:
    batch = now.limits["micro_batch"]
    if 0 < batch < request.micro_batch:
        yield f"micro-batch {batch}", f"--micro-batch {batch}", replace(request, micro_batch=batch)


def _states(request: TrainingRequest) -> Iterator[_Train]:
    if request.split.dp > 1:
        for zero in range(request.recipe.zero + 1, 4):
            yield f"ZeRO {zero}", f"--zero {zero}", request.with_recipe({"zero": zero})
    if request.recipe.optimizer == "adamw":
        yield "8-bit AdamW", "--optimizer adamw8bit", request.with_recipe({"optimizer": "adamw8bit"})


def _adapters(request: TrainingRequest) -> Iterator[_Train]:
    """LoRA in place of all parameters, QLoRA in place of either; as they are mostly run, with full recomputation."""
    rank = request.recipe.rank or 16
    slim = replace(request.recipe.keeping, recompute="full")
    adapter = {"rank": rank, "param_dtype": "fp32"}
    lean = {**adapter, "keeping": slim, "loss": "fused"}
    methods = [] if request.recipe.rank else [("LoRA", "lora", False)]
    methods += [] if request.recipe.quantised else [("QLoRA", "qlora", True)]
    for words, name, quantised in methods:
        flags, own = f"--train {name}:r={rank}", {"quantised": quantised}
        yield f"{words}, rank {rank}", flags, request.with_recipe({**adapter, **own})
        yield (
            f"{words}, rank {rank}, recompute full, fused cross-entropy", f"{flags} --recompute full --loss fused",
            request.with_recipe({**lean, **own}),
        )  # fmt: skip


def _shorter(request: TrainingRequest, now: Outcome) -> Iterator[_Train]:
    seq = now.limits["seq"]
    if 0 < seq < request.seq:
        yield f"sequences of {seq}", f"--seq {seq}", replace(request, seq=seq)


def _replicas(request: TrainingRequest, target: Target) -> Iterator[_Train]:
    """More data-parallel devices with everything split (ZeRO 3), then with full recomputation and a fused loss as well."""
    lean = {"zero": 3, "keeping": replace(request.recipe.keeping, recompute="full"), "loss": "fused"}
    for recipe, words, flags in (
        ({"zero": 3}, "", ""),
        (lean, ", recompute full, fused cross-entropy", " --recompute full --loss fused"),
    ):
        for dp in _doubled(request.split):
            wider = replace(request, split=replace(request.split, dp=dp)).with_recipe(recipe)
            if _fits(wider, target):
                yield f"dp={dp}, ZeRO 3{words}", f"--dp {dp} --zero 3{flags}", wider
                break


def _doubled(split: Split) -> Iterator[int]:
    dp = 2 * split.dp
    while dp * split.tp * split.pp <= _MOST_DEVICES:
        yield dp
        dp *= 2
