"""The steps of a server on a machine: a plan's decode and prompt steps as functions, and how many sequences have room."""

from dataclasses import replace
from typing import Any

import numpy as np

from ridgepoint.errors import DoesNotFit, NotSupported
from ridgepoint.hardware import Target
from ridgepoint.prediction.capacity import need_bytes, serving, usable_bytes
from ridgepoint.prediction.capacity_runtime import ASSUMPTIONS, runtime_for
from ridgepoint.prediction.capacity_split import Split
from ridgepoint.prediction.latency import StepTime, step_time
from ridgepoint.prediction.serving import Steps
from ridgepoint.quantity import Array, show_bytes
from ridgepoint.workload import Decoder, Group, Parallel, Plan, Step, decode

__all__ = ["room_sequences", "served_model", "split_of", "step_error", "steps_of"]


def served_model(plan: Plan) -> Decoder:
    """The plan's model, which must be a decoder."""
    if not isinstance(plan.workload, Decoder):
        raise NotSupported(
            f"{plan.workload.name} answers no prompts; a loaded server needs a decoder-only language model"
        )
    return plan.workload


def steps_of(plan: Plan, target: Target) -> Steps:
    """Steps of the plan's model in its formats, stack and split; the plan's own step does not matter."""
    graph = replace(plan, launch="graph")

    def seconds(*groups: Group) -> Any:
        return step_time(replace(graph, step=Step("mixed", groups)), target).seconds

    def decode_s(sequences: Array, context: Array) -> Array:
        return step_time(replace(graph, step=decode(sequences, context)), target).seconds

    def prompt_s(sequences: Array, context: Array, new: Array, cached: Array) -> Array:
        if not np.any(np.asarray(sequences)):
            return step_time(replace(graph, step=Step("prefill", (Group(1.0, new, cached),))), target).seconds
        both = seconds(Group(sequences, 1.0, context), Group(1.0, new, cached))
        return np.maximum(both - decode_s(sequences, context), 0.0)

    return Steps(decode_s, prompt_s, served_model(plan).layers, plan.parallel.pp)


def step_error(plan: Plan, target: Target) -> float:
    """Standard deviation of the log error that a step of the plan has because its parameters come from elsewhere: another
    machine, stack or class. Shared by all steps, so that adding them up does not shrink it."""
    time: StepTime = step_time(replace(plan, launch="graph"), target)
    elsewhere = [share * sigma for (_, _, name), (share, sigma) in time.shares().items() if not name]
    return float(np.sqrt(sum(float(np.max(np.asarray(x))) ** 2 for x in elsewhere)))


def split_of(parallel: Parallel) -> Split:
    """The same devices as the account of memory names them: attention by groups is data parallel there."""
    return Split(parallel.attention_tp, parallel.pp, parallel.ep, parallel.attention_dp)


def room_sequences(
    plan: Plan, target: Target, held_tokens: Array, kv_dtype: str = "", chunk: float = 8192.0, reserve: float = 0.1
) -> Array:
    """How many sequences of `held_tokens` have room in the devices' memory beside weights, activations and the runtime.

    `reserve`: share of the memory left free. Raises DoesNotFit where not even one has.
    """
    model, split = served_model(plan), split_of(plan.parallel)
    if target.memory_bytes is None:
        raise NotSupported(f"{target.name} has no memory_bytes among its figures, so nothing can be said to fit")
    value = {name: x.value for name, x in ASSUMPTIONS.items()}
    runtime = runtime_for(
        target.kind, split.devices, False, reserve, value["context_gib"], value["collectives_gib"], value["graphs_gib"]
    )
    laid = serving(model, plan, split, kv_dtype or plan.dtype, int(chunk), runtime)
    usable = usable_bytes(target.memory_bytes, runtime)
    tokens = np.asarray(held_tokens, float)
    one, many = (np.asarray(need_bytes(laid, tokens, users * split.dp), float) for users in (1.0, 1.0 + _MANY))
    if np.any(one > usable):
        raise DoesNotFit(
            f"{model.name} on {split} of {target.name}: one sequence of {np.max(tokens):g} tokens needs "
            f"{show_bytes(float(np.max(one)))} of {show_bytes(usable)}; give more devices (--tp), or another format (--with)"
        )
    each = (many - one) / _MANY
    return (split.dp * np.floor(1.0 + (usable - one) / each))[()]


_MANY = 64.0
"""Sequences over which the bytes of one more are taken: the cache grows evenly, activations hardly."""
