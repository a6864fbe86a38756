"""Predictions of whole systems beside what published tables or benchmark files measured, each with its interval."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from ridgepoint.errors import RidgeError
from ridgepoint.prediction.physics.spread import Z80
from ridgepoint.prediction.serving import Protocol, closed_loop
from ridgepoint.prediction.serving_steps import step_error
from ridgepoint.study.published.seen import fitted_on
from ridgepoint.study.published.systems import system_kind
from ridgepoint.study.published.systems_bench import bench_runs
from ridgepoint.study.published.systems_serving import ServingRun, serving_runs
from ridgepoint.study.published.systems_settled import Configuration, configurations
from ridgepoint.study.published.table import Floats, Table
from ridgepoint.study.scoring import Scored
from ridgepoint.study.scoring_systems_requests import score_requests
from ridgepoint.study.scoring_systems_static import score_static
from ridgepoint.study.scoring_systems_training import score_megatron, score_training
from ridgepoint.study.serving_fits import interval_sigmas, serving_fit
from ridgepoint.study.step_roofline import roofline_s
from ridgepoint.workload import decode, prefill

__all__ = ["score_bench", "score_systems"]


def score_systems(table: Table) -> Iterator["Scored | RidgeError"]:
    """Every group of the table's rows, or the refusal that stands in its place."""
    kind = system_kind(table)
    yield from _SCORERS[kind](table)


def score_bench(path: Path) -> Iterator["Scored | RidgeError"]:
    """The same of a result file of vLLM's bench or of GuideLLM."""
    yield from _score_runs(path, list(bench_runs(path)), Protocol())


def _score_serving(table: Table) -> Iterator["Scored | RidgeError"]:
    yield from _score_runs(table.path, list(serving_runs(table)), Protocol())


_SCORERS: Mapping[str, Callable[[Table], Iterator["Scored | RidgeError"]]] = {
    "serving": _score_serving, "serving_requests": score_requests, "inference": score_static,
    "training": score_training, "training_megatron": score_megatron,
}  # fmt: skip


def _score_runs(
    path: Path, found: Sequence["ServingRun | RidgeError"], protocol: Protocol
) -> Iterator["Scored | RidgeError"]:
    yield from (x for x in found if isinstance(x, RidgeError))
    for one in configurations([x for x in found if isinstance(x, ServingRun)]):
        if isinstance(one, RidgeError):
            yield one
            continue
        try:
            yield from _scored(path, one, protocol)
        except RidgeError as error:
            yield error


def _scored(path: Path, one: Configuration, protocol: Protocol) -> Iterator[Scored]:
    first = one.runs[0]
    p, found = serving_fit(one.target, first.framework, first.version)
    served = closed_loop(one.steps, one.load, one.engine, p, protocol)
    sigmas = interval_sigmas(p, served, step_error(replace(one.plan, step=_typical(one)), one.target), found.sigma)
    values = {
        "tpot": served.tpot_s,
        "ttft": served.ttft_s,
        "latency": served.latency_s,
        "tokens_per_s": served.tokens_per_s,
    }
    flat = _roofline(one)
    for metric, predicted in values.items():
        measured = np.array([run.measured.get(metric, np.nan) for run in one.runs])
        rows = np.isfinite(measured)
        if not rows.any():
            continue
        half = np.exp(Z80 * np.broadcast_to(np.asarray(sigmas[metric], float), measured.shape))
        value = np.asarray(predicted, float)
        yield Scored(
            file=path.name, kind="serving", metric=metric, gpu=one.gpu, dtype=first.weight or one.plan.dtype,
            framework=first.framework, version=first.version, regimes=_regimes(one)[rows],
            models=np.full(int(rows.sum()), first.model), lines=np.array([float(run.line) for run in one.runs])[rows],
            measured=measured[rows], predicted=value[rows], low=(value / half)[rows], high=(value * half)[rows],
            roofline=flat[metric][rows], basis=found.label, steps=found.steps,
            in_sample=fitted_on(found, path, one.target.name),
        )  # fmt: skip


def _typical(one: Configuration):  # type: ignore[no-untyped-def]
    return decode(float(np.median(one.load.users)), float(np.median(one.load.isl)))


def _regimes(one: Configuration) -> np.ndarray:  # type: ignore[type-arg]
    users = np.asarray(one.load.users)
    return np.where(users <= 16, "users<=16", np.where(users <= 64, "users 17-64", "users>64")).astype(np.str_)


def _roofline(one: Configuration) -> dict[str, Floats]:
    """The same metrics as analysts' tools have them: a decode step of all users and a prompt, by FLOPs or bytes alone."""
    load = one.load
    users, isl, osl = (np.asarray(x, float) for x in (load.users, load.isl, load.osl))
    tpot = roofline_s(replace(one.plan, step=decode(users / one.plan.parallel.pp, isl + osl / 2)), one.target)
    ttft = roofline_s(replace(one.plan, step=prefill(1.0, isl)), one.target)
    latency = ttft + (osl - 1) * tpot
    return {"tpot": tpot, "ttft": ttft, "latency": latency, "tokens_per_s": users * osl / latency}
