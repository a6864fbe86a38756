"""Predictions of batches that start and end together: single streams, first tokens, throughput of static batches."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from ridgepoint.errors import NotSupported, RidgeError
from ridgepoint.hardware import Target
from ridgepoint.prediction.latency import step_time
from ridgepoint.prediction.physics.found import Found
from ridgepoint.prediction.physics.spread import Z80
from ridgepoint.prediction.serving_parameters import ServingParameters
from ridgepoint.prediction.serving_steps import step_error, steps_of
from ridgepoint.study.published.systems_models import in_format, load_published, weight_format
from ridgepoint.study.published.systems_names import parallel_named, published_target, stack_named
from ridgepoint.study.published.table import Floats, Table
from ridgepoint.study.scoring import Scored
from ridgepoint.study.serving_fits import serving_fit
from ridgepoint.study.step_roofline import roofline_s
from ridgepoint.workload import Plan, decode, prefill

__all__ = ["score_static"]

_METRICS = {"output_throughput_per_gpu": "tokens_per_s", "decode_throughput": "tokens_per_s", "ttft": "ttft"}
_SCALES = {"ttft": 1e-3, "output_throughput_per_gpu": 1.0, "decode_throughput": 1.0}
_GROUP = ("gpu", "n_gpus", "model", "precision", "framework", "parallel", "metric")


@dataclass(frozen=True)
class _Batches:
    """Rows of one machine, model, format, stack, split and metric."""

    table: Table
    target: Target
    plan: Plan
    p: ServingParameters
    found: Found
    metric: str

    def column(self, name: str) -> Floats:
        return self.table.number(name)


def score_static(table: Table) -> Iterator["Scored | RidgeError"]:
    """Each group of the table's rows, or the refusal that stands in its place."""
    keys = list(zip(*(table.text(name).tolist() for name in _GROUP), strict=True))
    for key in dict.fromkeys(keys):
        rows = table.take([i for i, k in enumerate(keys) if k == key])
        try:
            yield _scored(_settled(rows))
        except RidgeError as error:
            yield error


def _settled(rows: Table) -> _Batches:
    first = {name: str(column[0]) for name, column in rows.columns.items()}
    if first["metric"] not in _METRICS:
        raise NotSupported(f"metric {first['metric']} is not predicted of a batch; possible: {', '.join(_METRICS)}")
    target, model = published_target(first["gpu"]), load_published(first["model"])
    framework, version = stack_named(first["framework"])
    weight = weight_format(first["precision"], first["model"])
    dtype = weight if weight in ("bf16", "fp16") else "bf16" if "pytorch" in framework else model.dtype
    stack = "" if framework == "pytorch" else ":".join(x for x in (framework, version) if x)
    plan = Plan(
        model,
        decode(1, 1),
        dtype,
        device="cuda",
        parallel=parallel_named(first["parallel"]),
        stack=stack,
        launch="graph",
    )
    p, found = serving_fit(target, framework, version)
    return _Batches(rows, target, in_format(plan, weight), p, found, first["metric"])


def _scored(b: _Batches) -> Scored:
    batch, isl, osl = (b.column(name) for name in ("batch", "isl", "osl"))
    devices = b.column("n_gpus")
    measured = b.column("value") * _SCALES[b.metric]
    looped = "pytorch" in str(b.table.text("framework")[0]).lower() and "compile" in str(b.table.text("framework")[0])
    server = 0.0 if looped else 1.0  # a loop over a compiled step has no scheduler and no front end
    host = server * (b.p.step_s + b.p.layer_s * _layers(b.plan))
    steps = steps_of(b.plan, b.target)
    graph = replace(b.plan, launch="graph")
    first = np.asarray(step_time(replace(graph, step=prefill(batch, isl)), b.target).seconds, float)
    token = np.asarray(steps.decode_s(batch, isl + osl / 2), float) + host + server * b.p.sequence_s * batch
    flat = np.broadcast_to(roofline_s(replace(graph, step=decode(batch, isl + osl / 2)), b.target), measured.shape)
    flat_first = np.broadcast_to(roofline_s(replace(graph, step=prefill(batch, isl)), b.target), measured.shape)
    if b.metric == "ttft":
        predicted, roofline = first + host, flat_first
    elif b.metric == "decode_throughput":
        predicted, roofline = batch / token, batch / flat
    else:
        predicted = batch * osl / (first + host + (osl - 1) * token) / devices
        roofline = batch * osl / (flat_first + (osl - 1) * flat) / devices
    typical = decode(float(np.median(batch)), float(np.median(isl + osl / 2)))
    sigma = float(
        np.sqrt(step_error(replace(graph, step=typical), b.target) ** 2 + b.found.sigma**2 + b.p.tpot_sigma**2)
    )
    half = np.exp(Z80 * sigma)
    text = {name: str(column[0]) for name, column in b.table.columns.items()}
    framework, version = stack_named(text["framework"])
    return Scored(
        file=b.table.path.name, kind="inference", metric=_METRICS[b.metric], gpu=text["gpu"], dtype=text["precision"],
        framework=framework, version=version,
        regimes=np.where(batch <= 1, "one stream", "static batch").astype(np.str_), models=b.table.text("model"),
        lines=b.table.lines.astype(float), measured=measured, predicted=predicted, low=predicted / half, high=predicted * half,
        roofline=roofline, basis=b.found.label, steps=b.found.steps,
    )  # fmt: skip


def _layers(plan: Plan) -> int:
    return int(getattr(plan.workload, "layers", 0))
