"""Measured runs in which requests came when they came, each settled as one that can be predicted."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from ridgepoint.errors import RidgeError
from ridgepoint.hardware import Target, load_target
from ridgepoint.prediction.serving import Engine
from ridgepoint.prediction.serving_engine import engine_of, stack_defaults
from ridgepoint.prediction.serving_open import Requests
from ridgepoint.prediction.serving_steps import room_sequences
from ridgepoint.study.published.systems_models import format_in_name, in_format, load_published
from ridgepoint.study.published.table import Table
from ridgepoint.workload import Parallel, Plan, decode

__all__ = ["RequestRun", "request_runs"]

_FRAMEWORK = "vllm"
"""Whose version the column of the same name has; these tables name no other stack."""
_RUN = ("gpu", "model", "tp", _FRAMEWORK, "dataset", "max_num_seqs")


@dataclass(frozen=True)
class RequestRun:
    """One run: its rows in the order of arrival, and the server that they met."""

    table: Table
    gpu: str
    target: Target
    plan: Plan
    weight: str
    framework: str
    version: str
    requests: Requests
    engine: Engine


def request_runs(table: Table) -> Iterator["RequestRun | RidgeError"]:
    """Each run of the table, or the refusal that stands in its place."""
    names = [name for name in _RUN if table.has(name)]
    keys = list(zip(*(table.text(name).tolist() for name in names), strict=True))
    for key in dict.fromkeys(keys):
        try:
            yield _settled(table.take([i for i, k in enumerate(keys) if k == key]))
        except RidgeError as error:
            yield error


def _settled(table: Table) -> RequestRun:
    table = table.take(np.argsort(table.number("arr_s"), kind="stable").tolist())
    gpu, name = str(table.text("gpu")[0]), str(table.text("model")[0])
    version = str(table.text(_FRAMEWORK)[0]) if table.has(_FRAMEWORK) else ""
    target, model, weight = load_target(gpu), load_published(name), format_in_name(name)
    plan = Plan(
        model, decode(1, 1), model.dtype, device="cuda", parallel=Parallel(int(_first(table, "tp", 1))),
        stack=f"{_FRAMEWORK}:{version}".rstrip(":"), launch="graph",
    )  # fmt: skip
    plan = in_format(plan, weight)
    requests = Requests(table.number("arr_s"), table.number("input_toks"), table.number("output_toks"))
    most = _first(table, "max_num_seqs", stack_defaults(_FRAMEWORK).most_running)
    kv_tokens, held = _first(table, "kv_tokens", 0.0), requests.held_tokens
    room = kv_tokens / held if kv_tokens else float(room_sequences(plan, target, held))
    engine = engine_of(_FRAMEWORK, target.name, target.memory_bytes or 0.0, most, max(room, 1.0))
    engine = Engine(engine.slots, engine.scheduler, _first(table, "max_num_batched_tokens", float(engine.chunk)))
    return RequestRun(table, gpu, target, plan, weight, _FRAMEWORK, version, requests, engine)


def _first(table: Table, name: str, absent: float) -> float:
    value = float(table.number(name)[0]) if table.has(name) else np.nan
    return value if np.isfinite(value) and value > 0 else absent
