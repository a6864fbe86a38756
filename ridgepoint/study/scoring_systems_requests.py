"""Predictions of every request of a measured run in which requests came when they came."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from ridgepoint.errors import RidgeError
from ridgepoint.prediction.physics.spread import Z80
from ridgepoint.prediction.serving_open import open_loop
from ridgepoint.prediction.serving_steps import step_error, steps_of
from ridgepoint.study.published.systems_requests import RequestRun, request_runs
from ridgepoint.study.published.table import Floats, Table
from ridgepoint.study.scoring import Scored
from ridgepoint.study.serving_fits import serving_fit
from ridgepoint.study.step_roofline import roofline_s
from ridgepoint.workload import decode, prefill

__all__ = ["score_requests"]


def score_requests(table: Table) -> Iterator["Scored | RidgeError"]:
    """Each run of the table: every request's TTFT, TPOT and latency, beside what it measured."""
    for run in request_runs(table):
        if isinstance(run, RidgeError):
            yield run
            continue
        try:
            yield from _scored(run)
        except RidgeError as error:
            yield error


def _scored(run: RequestRun) -> Iterator[Scored]:
    p, found = serving_fit(run.target, run.framework, run.version)
    served = open_loop(steps_of(run.plan, run.target), run.requests, run.engine, p)
    shift = np.hypot(step_error(run.plan, run.target), found.sigma)
    flat = _roofline(run)
    tpot = np.hypot(p.tpot_sigma, shift)
    sigma = {"ttft": np.hypot(p.ttft_busy_sigma, shift), "tpot": tpot, "latency": tpot}
    predicted = {"ttft": served.ttft_s, "tpot": served.tpot_s, "latency": served.latency_s}
    for metric, column in (("ttft", "ttft_ms"), ("tpot", "tpot_ms"), ("latency", "e2e_ms")):
        measured = run.table.number(column) * 1e-3
        kept = np.isfinite(measured) & (measured > 0) & (run.requests.osl > 1)
        half, value = float(np.exp(Z80 * sigma[metric])), predicted[metric][kept]
        yield Scored(
            file=run.table.path.name, kind="serving_requests", metric=metric, gpu=run.gpu, dtype=run.weight or run.plan.dtype,
            framework=run.framework, version=run.version, regimes=np.full(len(value), ""),
            models=np.full(len(value), run.plan.workload.name), lines=run.table.lines.astype(float)[kept],
            measured=measured[kept], predicted=value, low=value / half, high=value * half, roofline=flat[metric][kept],
            basis=found.label, steps=found.steps,
        )  # fmt: skip


def _roofline(run: RequestRun) -> dict[str, Floats]:
    """A prompt alone and a decode step alone, without a queue."""
    isl, osl = run.requests.isl, run.requests.osl
    ttft = roofline_s(replace(run.plan, step=prefill(1.0, isl)), run.target)
    tpot = roofline_s(replace(run.plan, step=decode(1.0, isl + osl / 2)), run.target)
    return {"ttft": ttft, "tpot": tpot, "latency": ttft + osl * tpot}
