"""Predictions of every request of a measured run in which requests came when they came."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from ridgepoint.errors import RidgeError
from ridgepoint.hardware import Target, load_target
from ridgepoint.prediction.physics.spread import Z80
from ridgepoint.prediction.serving import Engine
from ridgepoint.prediction.serving_engine import engine_of, stack_defaults
from ridgepoint.prediction.serving_open import Requests, open_loop
from ridgepoint.prediction.serving_steps import room_sequences, step_error, steps_of
from ridgepoint.study.published.systems_models import format_in_name, in_format, load_published
from ridgepoint.study.published.table import Floats, Table
from ridgepoint.study.scoring import Scored
from ridgepoint.study.serving_fits import serving_fit
from ridgepoint.study.step_roofline import roofline_s
from ridgepoint.workload import Parallel, Plan, decode, prefill

__all__ = ["score_requests"]

_FRAMEWORK = "vllm"
"""Whose version the column of the same name has; these tables name no other stack."""


def score_requests(table: Table) -> Iterator["Scored | RidgeError"]:
    """Each run of the table: every request's TTFT, TPOT and latency, beside what it measured."""
    for rows in _runs(table):
        try:
            yield from _scored(rows)
        except RidgeError as error:
            yield error


def _runs(table: Table) -> Iterator[Table]:
    names = [name for name in ("gpu", "model", "tp", _FRAMEWORK, "dataset", "max_num_seqs") if table.has(name)]
    keys = list(zip(*(table.text(name).tolist() for name in names), strict=True))
    for key in dict.fromkeys(keys):
        yield table.take([i for i, k in enumerate(keys) if k == key])


def _first(table: Table, name: str, absent: float) -> float:
    value = float(table.number(name)[0]) if table.has(name) else np.nan
    return value if np.isfinite(value) and value > 0 else absent


def _scored(table: Table) -> Iterator[Scored]:
    table = table.take(np.argsort(table.number("arr_s"), kind="stable").tolist())
    gpu, name = str(table.text("gpu")[0]), str(table.text("model")[0])
    version = str(table.text(_FRAMEWORK)[0]) if table.has(_FRAMEWORK) else ""
    target, model = load_target(gpu), load_published(name)
    parallel = Parallel(int(_first(table, "tp", 1)))
    plan = Plan(
        model, decode(1, 1), model.dtype, device="cuda", parallel=parallel, stack=f"{_FRAMEWORK}:{version}".rstrip(":"),
        launch="graph",
    )  # fmt: skip
    plan = in_format(plan, format_in_name(name))
    requests = Requests(table.number("arr_s"), table.number("input_toks"), table.number("output_toks"))
    most = _first(table, "max_num_seqs", stack_defaults(_FRAMEWORK).most_running)
    kv_tokens = _first(table, "kv_tokens", 0.0)
    held = requests.held_tokens
    room = kv_tokens / held if kv_tokens else float(room_sequences(plan, target, held))
    engine = engine_of(_FRAMEWORK, target.name, target.memory_bytes or 0.0, most, max(room, 1.0))
    engine = Engine(engine.slots, engine.scheduler, _first(table, "max_num_batched_tokens", float(engine.chunk)))
    p, found = serving_fit(target, _FRAMEWORK, version)
    served = open_loop(steps_of(plan, target), requests, engine, p)
    shift = np.hypot(step_error(plan, target), found.sigma)
    flat = _roofline(plan, target, requests)
    predicted = {"ttft": served.ttft_s, "tpot": served.tpot_s, "latency": served.latency_s}
    sigma = {"ttft": np.hypot(p.ttft_busy_sigma, shift), "tpot": np.hypot(p.tpot_sigma, shift)}
    sigma["latency"] = sigma["tpot"]
    for metric, column in (("ttft", "ttft_ms"), ("tpot", "tpot_ms"), ("latency", "e2e_ms")):
        measured = table.number(column) * 1e-3
        kept = np.isfinite(measured) & (measured > 0) & (requests.osl > 1)
        half = float(np.exp(Z80 * sigma[metric]))
        value = predicted[metric]
        yield Scored(
            file=table.path.name, kind="serving_requests", metric=metric, gpu=gpu, dtype=format_in_name(name) or plan.dtype,
            framework=_FRAMEWORK, version=version, regimes=np.full(int(kept.sum()), ""),
            models=np.full(int(kept.sum()), model.name),
            lines=table.lines.astype(float)[kept], measured=measured[kept], predicted=value[kept], low=value[kept] / half,
            high=value[kept] * half, roofline=flat[metric][kept], basis=found.label, steps=found.steps,
        )  # fmt: skip


def _roofline(plan: Plan, target: Target, requests: Requests) -> dict[str, Floats]:
    """A prompt alone and a decode step alone, without a queue."""
    ttft = roofline_s(replace(plan, step=prefill(1.0, requests.isl)), target)
    tpot = roofline_s(replace(plan, step=decode(1.0, requests.isl + requests.osl / 2)), target)
    return {"ttft": ttft, "tpot": tpot, "latency": ttft + requests.osl * tpot}
