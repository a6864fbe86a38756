"""Published power: what the sampler of a benchmark read while its loop ran, and jobs under a power limit."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Annotated

import numpy as np

from ridgepoint.errors import BadInput
from ridgepoint.prediction.physics.device import Device
from ridgepoint.prediction.physics.optime import PhysicalTime
from ridgepoint.prediction.physics.parameters import Parameters, within
from ridgepoint.prediction.physics.power import PowerParameters, idle_power, kernel_power
from ridgepoint.study.published.kind import Kind
from ridgepoint.study.published.table import Floats, Mask, Table, Texts

__all__ = [
    "JOB_COLUMNS", "SWEEPS", "JobRows", "PowerCase", "ReadingParameters", "Sweep", "job_rows", "power_case",
    "power_reading", "power_rows",
]  # fmt: skip


class ReadingParameters(PowerParameters, frozen=True, kw_only=True):
    """What a device draws, and the loop in which a benchmark of one framework had it sampled."""

    runs: Annotated[float, within(300, 4e4, "executions in a loop, which ends after a second")] = 3000
    gap_s: Annotated[float, within(1e-4, 2.0, "s at rest between the loops of two cases")] = 0.03
    stall_s: Annotated[float, within(1e-4, 2.0, "s at rest before a case that follows a slow one")] = 0.3


_WINDOW_S = 1.0
"""Over which a device averages the power it reports. Read off the tables: a loop of d seconds after a rest reads d / 2 of
its power above idle, and the count of samples (one each 0.1 s, told by the decimals of their mean) gives d."""
_LONGEST_S = 1.0
"""That a loop takes at most, by the same count."""
_SAMPLES = (1.0 / 6.0, 0.5, 5.0 / 6.0)
"""Points of a loop that stand for all its samples."""
_BEFORE = 16
"""Cases before the one in question that are followed back: they fill the window in all but the shortest loops."""


@dataclass(frozen=True, slots=True)
class Sweep:
    """The order in which a benchmark takes its cases: which case ran in the second before one.

    `column` is the innermost variable; "" where none is known to be, and a case is taken to follow its like.
    """

    column: str = ""
    falling: bool = False
    wraps: bool = False
    """Before the first value comes the last one of the group before, which is about as large."""
    fresh_from: float = np.inf
    """Values from which each case starts on a device at rest."""
    stalls: tuple[str, int] = ("", 0)
    """A column and a divisor: multiples of it follow a case that left the device waiting for its host."""


SWEEPS: Mapping[tuple[str, str], Sweep] = {
    ("trtllm", "gemm"): Sweep("m", falling=True, fresh_from=4096.0),
    ("vllm", "gemm"): Sweep("k", falling=True, wraps=True, stalls=("m", 4)),
    ("trtllm", "moe"): Sweep("tokens"),
    ("vllm", "moe"): Sweep("tokens", wraps=True),
    ("trtllm", "attention_prefill"): Sweep("batch", falling=True, wraps=True),
    ("vllm", "attention_prefill"): Sweep("batch", falling=True, wraps=True),
    ("trtllm", "attention_encoder"): Sweep("q_len", wraps=True),
    ("vllm", "attention_encoder"): Sweep("q_len", wraps=True),
}
"""By framework and kind, of one collection of tables. Read off the rows: the neighbour along one of the columns, in one of
the two directions, explains readings of short kernels that their own work does not. Inferred: vLLM's multiples of 4 follow
the block-scaled format, which exists for them alone and keeps the device waiting for its host."""


@dataclass(frozen=True)
class PowerCase:
    """Rows as a sampler met them: their own times, and the times of the cases before them, the latest first."""

    own: PhysicalTime
    before: tuple[tuple[Mask, PhysicalTime], ...]
    """Where there was such a case at all, and its time."""
    stalled: Mask


def power_rows(kind: Kind, table: Table) -> Table:
    """The usable rows with a measured power."""
    watts = table.number("power_w")
    return table.take(kind.usable(table) & np.isfinite(watts) & (watts > 0.0))


def power_case(
    kind: Kind, device: Device, p: Parameters, dtype: str, framework: str, table: Table, whole: Table | None = None
) -> PowerCase:
    """Times of the rows and of what ran before them; values of the swept column are those of `whole` (or of the rows)."""
    sweep = SWEEPS.get((framework, kind.name), Sweep())
    own = kind.seconds(device, p, dtype, table)
    column, divisor = sweep.stalls
    stalled = table.number(column) % divisor == 0 if column else np.zeros(len(table), dtype=np.bool_)
    if not sweep.column:
        return PowerCase(own, ((np.ones(len(table), dtype=np.bool_), own),) * _BEFORE, stalled)
    mine = table.number(sweep.column)
    values = np.unique((whole or table).number(sweep.column))
    values = values[values < sweep.fresh_from]
    before = []
    for step in range(1, _BEFORE + 1):
        index = np.searchsorted(values, mine) + (step if sweep.falling else -step)
        there = (mine < sweep.fresh_from) & (sweep.wraps | ((index >= 0) & (index < len(values))))
        if not len(values) or not there.any():
            break
        rows = _with(table, sweep.column, np.where(there, values[index % len(values)], mine))
        before.append((there, kind.seconds(device, p, dtype, rows)))
    return PowerCase(own, tuple(before), stalled)


def _with(table: Table, column: str, values: Floats) -> Table:
    text = np.array([f"{value:.10g}" for value in values], dtype=np.str_)
    return replace(table, columns={**table.columns, column: text})


def power_reading(device: Device, p: ReadingParameters, case: PowerCase) -> Floats:
    """Mean of what the device reported while each row's loop ran: averages of the second before each sample.

    A loop shorter than the window reads less of its own power than of what ran before, which is why a kernel of
    microseconds can be published with the power of its neighbour.
    """
    idle = idle_power(device, p)
    watts, length = kernel_power(device, p, case.own), _loop_s(p, case.own)
    gap = np.where(case.stalled, p.stall_s, p.gap_s)
    parts, start = [], np.zeros_like(watts)
    for there, time in case.before:
        lasted = np.where(there, _loop_s(p, time), 0.0)
        parts.append((start + gap, lasted, kernel_power(device, p, time) - idle))
        start = start + gap + lasted
    total = np.zeros_like(watts)
    for point in _SAMPLES:
        inside = np.minimum(point * length, _WINDOW_S)
        left = _WINDOW_S - inside
        earlier = sum((np.clip(left - begun, 0.0, lasted) * above for begun, lasted, above in parts), start=0.0 * left)
        total = total + (inside * (watts - idle) + earlier) / _WINDOW_S
    return np.asarray(idle + total / len(_SAMPLES))


def _loop_s(p: ReadingParameters, time: PhysicalTime) -> Floats:
    seconds = np.asarray(time.seconds, dtype=np.float64)
    return np.asarray(np.maximum(np.minimum(p.runs * seconds, _LONGEST_S), seconds))


JOB_COLUMNS = ("model", "gpu", "batch", "metric", "value", "notes")
"""Of a table of jobs under power limits."""
_LIMIT = re.compile(r"\bpower_limit=([0-9.]+)W\b")
_POWER, _TIME = "average_power", "time_per_epoch"


@dataclass(frozen=True)
class JobRows:
    """Jobs of one GPU under each limit but the highest, where each was measured too: that row is what is known of it."""

    gpu: str
    models: Texts
    limit_w: Floats
    watts: Floats
    seconds: Floats
    known_limit_w: Floats
    known_w: Floats
    known_s: Floats
    lines: Floats


def job_rows(table: Table) -> Iterator[JobRows]:
    """Jobs by GPU, from rows that say `power_limit=100W` in their notes; raises BadInput where none does.

    A job is a model, task, batch and the rest of its notes; left out are jobs measured under one limit only, and limits
    with no row of both metrics.
    """
    if not table.has(*JOB_COLUMNS):
        raise BadInput(f"{table.path.name}: a table of jobs under power limits needs {', '.join(JOB_COLUMNS)}")
    found: dict[tuple[str, ...], dict[float, dict[str, tuple[float, float]]]] = {}
    values, columns = table.number("value"), [table.text(x) for x in ("gpu", "model", "task", "batch")]
    for i, (note, metric) in enumerate(zip(table.text("notes"), table.text("metric"), strict=True)):
        limit = _LIMIT.search(str(note))
        if limit and values[i] > 0.0:
            job = (*(str(column[i]) for column in columns), _LIMIT.sub("", str(note)))
            found.setdefault(job, {}).setdefault(float(limit[1]), {})[str(metric)] = (values[i], float(table.lines[i]))
    if not found:
        raise BadInput(f"{table.path.name}: no row whose notes name a limit, as power_limit=100W")
    for gpu in dict.fromkeys(job[0] for job in found):
        rows = [row for job, limits in found.items() if job[0] == gpu for row in _of_job(job[1], limits)]
        if rows:
            models, *numbers = zip(*rows, strict=True)
            yield JobRows(gpu, np.array(models, dtype=np.str_), *(np.array(x, dtype=np.float64) for x in numbers))


def _of_job(model: str, limits: Mapping[float, Mapping[str, tuple[float, float]]]) -> Iterator[tuple[str | float, ...]]:
    whole = {limit: row for limit, row in limits.items() if _POWER in row and _TIME in row}
    top = max(whole, default=0.0)
    for limit, row in whole.items():
        if limit < top:
            known = whole[top]
            yield (
                model, limit, row[_POWER][0], row[_TIME][0], top, known[_POWER][0], known[_TIME][0], row[_POWER][1],
            )  # fmt: skip
