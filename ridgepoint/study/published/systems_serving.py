"""Measured loaded servers: tables of TTFT and TPOT by concurrency, each row settled as a run that can be predicted."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from ridgepoint.errors import BadInput, NotSupported, RidgeError
from ridgepoint.study.published.systems_models import catalogue_model, weight_format
from ridgepoint.study.published.table import Table
from ridgepoint.workload import Parallel

__all__ = ["ServingRun", "deduplicated", "serving_runs"]


@dataclass(frozen=True, slots=True)
class ServingRun:
    """A closed loop of `users` on one server, and what it measured, in base units by metric."""

    line: int
    gpu: str
    model: str
    weight: str
    """Format of the weights; "" is the checkpoint's."""
    framework: str
    version: str
    parallel: Parallel
    users: float
    isl: float
    osl: float
    most_running: float
    """The server's largest batch, all groups of attention together."""
    measured: Mapping[str, float]
    """ttft, tpot (s), tokens_per_s, latency (s)."""


_CONCURRENCY = re.compile(r"(?:silicon_)?concurrency=(\d+)")
_OWN = ("id", "silicon_data_source")
"""Columns in which two rows of one measurement differ."""


def deduplicated(table: Table) -> Table:
    """The table without rows that repeat another in everything but `_OWN`; concurrency stays, wherever it is written."""
    seen: set[tuple[str, ...]] = set()
    kept = []
    names = [name for name in table.columns if name not in _OWN]
    found = _concurrency(table)
    for i in range(len(table)):
        key = (str(found[i]), *(str(table.columns[name][i]).strip() for name in names))
        if key not in seen:
            seen.add(key)
            kept.append(i)
    return table.take(kept)


def serving_runs(table: Table) -> Iterator["ServingRun | RidgeError"]:
    """Each row that is a server of one kind of worker as a run, or the refusal that stands in its place.

    A table that says only a concurrency larger than the server's batch times its groups of attention means replicas, each
    with its share. Where no concurrency is written it is the batch.
    """
    table = deduplicated(table)
    users = _concurrency(table)
    number = {name: table.number(name) for name in _NUMBERS}
    for i in range(len(table)):
        row = {name: str(column[i]).strip() for name, column in table.columns.items()}
        try:
            yield _run(table, i, row, {name: float(column[i]) for name, column in number.items()}, users[i])
        except RidgeError as error:
            yield error


_NUMBERS = (
    "isl", "osl", "batch_size", "tp_size", "pp_size", "attention_dp_size", "moe_tp_size", "moe_ep_size", "silicon_ttft_ms",
    "silicon_tpot_ms",
)  # fmt: skip


def _run(table: Table, i: int, row: Mapping[str, str], number: Mapping[str, float], users: int) -> ServingRun:
    if row.get("mode", "agg") not in ("", "agg"):
        raise NotSupported(f"mode {row['mode']}: prompts and answers on workers of their own are not predicted yet")
    line = int(table.lines[i])
    tp, pp, groups, ep = (_count(number[name]) for name in ("tp_size", "pp_size", "attention_dp_size", "moe_ep_size"))
    batch = number["batch_size"] if number["batch_size"] > 0 else float(users)
    if not (batch > 0 and number["isl"] > 0 and number["osl"] > 1):
        raise BadInput(f"{table.path.name}: line {line}: needs isl, osl above 1, and batch_size or silicon_concurrency")
    running = batch * groups
    replicas = max(1, round(users / running)) if users else 1
    measured = {
        metric: number[f"silicon_{metric}_ms"] * 1e-3
        for metric in ("ttft", "tpot")
        if number[f"silicon_{metric}_ms"] > 0
    }
    return ServingRun(
        line=line, gpu=row["system"], model=catalogue_model(row["model_path"]),
        weight=weight_format(row.get("gemm_quant_mode") or row.get("precision", ""), row["model_path"]),
        framework=row.get("backend", ""), version=row.get("backend_version", ""),
        parallel=Parallel(tp * groups, pp, ep, groups), users=users / replicas if users else running, isl=number["isl"],
        osl=number["osl"], most_running=running, measured=measured,
    )  # fmt: skip


def _count(value: float) -> int:
    return int(value) if np.isfinite(value) and value >= 1 else 1


def _concurrency(table: Table) -> list[int]:
    """Of each row, where a column or the source says it; else 0."""
    column = table.number("concurrency", 0.0) if table.has("concurrency") else np.zeros(len(table))
    sources = table.text("silicon_data_source")
    out = []
    for value, source in zip(column, sources, strict=True):
        found = _CONCURRENCY.search(str(source))
        out.append(int(value) if value > 0 else int(found.group(1)) if found else 0)
    return out
