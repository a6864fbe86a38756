"""Fit power to published readings and to jobs under a limit, with errors on what a fit had not seen, and score by the fits."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import date

import msgspec
import numpy as np

from ridgepoint.errors import RidgeError
from ridgepoint.hardware import Fit, Transfer
from ridgepoint.prediction.physics.device import Device
from ridgepoint.prediction.physics.found import Found, Stack, find_fit
from ridgepoint.prediction.physics.optime import PhysicalTime
from ridgepoint.prediction.physics.parameters import parameters_of, read_parameters
from ridgepoint.prediction.physics.power import POWER, LimitParameters, find_power, idle_power, limited_job
from ridgepoint.prediction.physics.spread import Z80, spread_sigma
from ridgepoint.prediction.sheet.linear import alike
from ridgepoint.study.fitting.classes import FittedCell
from ridgepoint.study.fitting.held_out import fold_of
from ridgepoint.study.fitting.robust import fit_parameters
from ridgepoint.study.fitting.widths import fit_spreads, robust_sigma
from ridgepoint.study.published.cells import Cell, cells
from ridgepoint.study.published.kind import Kind
from ridgepoint.study.published.power import (
    JobRows,
    PowerCase,
    ReadingParameters,
    job_rows,
    power_case,
    power_reading,
    power_rows,
)
from ridgepoint.study.published.registry import kind_of
from ridgepoint.study.published.seen import fitted_on
from ridgepoint.study.published.spelling import our_dtypes
from ridgepoint.study.published.table import Floats, Table
from ridgepoint.study.scoring import Scored, datasheet_device

__all__ = [
    "JOBS", "FittedPower", "fit_jobs", "fit_power", "jobs_fits", "jobs_out_of_sample", "power_fits",
    "power_transfers", "score_jobs", "score_power",
]  # fmt: skip

JOBS = "power_limit"
"""Jobs under a power limit, as an operator in architecture files."""
_ANY = ""
"""Dtype and variant of what all kernels of a class share."""
_LOOPS = (2000.0, 12000.0)
"""Executions in a loop from which fits start."""
_LOWEST, _HIGHEST = 0.02, 0.95
"""Quantiles of readings: of kernels so short that nothing but rest is seen, and of those that the limit holds."""
_PULL = 2.0
"""How many rows the parameters that all cells share count for, in the fit of one of them."""
_OF_DEVICE = ("idle_share", "limit_share")
"""Parameters that no kernel or framework changes."""
_FOLDS, _EVALUATIONS = 4, 50
_FEW = 8
"""Rows below which a cell takes what all share."""
_UNSEEN = (("gpu", 0.15), ("class", 0.35))
"""Added log errors of steps that no table here shows, as only one machine has readings: assumed, not measured."""


@dataclass(frozen=True)
class FittedPower:
    """Readings of one cell, what it was fitted to draw, and predictions of its rows by fits without their shapes."""

    kind: Kind
    cell: Cell
    device: Device
    table: Table
    case: PowerCase = field(repr=False)
    parameters: ReadingParameters
    unseen_w: Floats = field(repr=False)

    @property
    def variant(self) -> str:
        """As in architecture files: the operator, then its kernel."""
        return _variant(self.kind, self.cell)

    @property
    def log_errors(self) -> Floats:
        """log(measured / predicted), each row's shape unseen."""
        return np.log(self.table.number("power_w") / self.unseen_w)


def _variant(kind: Kind, cell: Cell) -> str:
    return "/".join(filter(None, (kind.name, cell[4])))


@dataclass(frozen=True)
class _Readings:
    kind: Kind
    cell: Cell
    device: Device
    table: Table
    case: PowerCase
    unseen: PowerCase
    """The same with each row's own time by parameters that had not seen its shape."""


def fit_power(
    fitted: Sequence[FittedCell], progress: Callable[[str], None] = lambda _: None
) -> tuple[list[FittedPower], ReadingParameters | None]:
    """All cells with readings, by the time models that `fitted` found, and what they share; ([], None) without any.

    Each cell is fitted alone first; what all share is the median of each parameter, and draws the final fits towards it.
    Idle power and the limit are the device's whatever it runs, so all cells have the same: the limit is read off the
    highest readings, and idle power is not above the lowest.
    """
    readings = [r for cell in fitted if cell.cell[2] for r in _readings(cell)]
    if not readings:
        return [], None
    ends, alone = _ends(readings), dict[int, ReadingParameters]()
    for i, r in enumerate(readings):
        progress(" ".join((POWER, r.kind.name, *filter(None, r.cell))))
        if len(r.table) >= _FEW:
            alone[i] = _alone(r, ends)
    shared, out = _median([(len(readings[i].table), p) for i, p in alone.items()], ends) if alone else ends, []
    for i, r in enumerate(readings):
        progress(" ".join((POWER, r.kind.name, *filter(None, r.cell))))
        p = _fit(r, shared, alone[i]) if i in alone else shared
        unseen = _out_of_sample(r, shared, p) if i in alone else power_reading(r.device, shared, r.unseen)
        out.append(FittedPower(r.kind, r.cell, r.device, r.table, r.case, p, unseen))
    return out, shared


def _ends(readings: Sequence[_Readings]) -> ReadingParameters:
    """Where a fit starts: idle power and limit read off the ends of all readings together, each in its share of TDP."""
    idle = np.concatenate([r.table.number("power_w") / _idle_unit(r.device) for r in readings])
    limit = np.concatenate([r.table.number("power_w") / r.device.tdp_w for r in readings])
    bounds = {p.name: p for p in parameters_of(ReadingParameters)}
    low, high = bounds["idle_share"], bounds["limit_share"]
    return ReadingParameters(
        idle_share=float(np.clip(np.quantile(idle, _LOWEST), low.low, low.high)),
        limit_share=float(np.clip(np.quantile(limit, _HIGHEST), high.low, high.high)),
    )


def _idle_unit(device: Device) -> float:
    return idle_power(device, ReadingParameters(idle_share=0.1)) / 0.1


def _weighted(pairs: Sequence[tuple[int, float]]) -> float:
    """The median of values that count as often as they say."""
    rows, values = np.array([n for n, _ in pairs]), np.array([value for _, value in pairs])
    order = np.argsort(values)
    return float(values[order][np.searchsorted(np.cumsum(rows[order]), 0.5 * rows.sum())])


def _median(alone: Sequence[tuple[int, ReadingParameters]], ends: ReadingParameters) -> ReadingParameters:
    """The median of each parameter, every fit counting as often as it has rows; idle power at most that of `ends`."""
    names = [p.name for p in parameters_of(ReadingParameters)]
    values = {name: _weighted([(n, float(getattr(p, name))) for n, p in alone]) for name in names}
    return ReadingParameters(**{**values, "idle_share": min(values["idle_share"], ends.idle_share)})


def _readings(cell: FittedCell) -> Iterator[_Readings]:
    """The rows of a fitted cell that have a reading, where there are any."""
    watts = cell.table.number("power_w")
    rows = np.isfinite(watts) & (watts > 0.0) & np.isfinite(cell.unseen_s)
    if rows.any():
        table = cell.table.take(rows)
        case = power_case(cell.kind, cell.device, cell.parameters, cell.cell[1], cell.cell[2], table)
        own = PhysicalTime(cell.unseen_s[rows], case.own.compute_s, case.own.memory_s, case.own.fixed_s)
        yield _Readings(cell.kind, cell.cell, cell.device, table, case, replace(case, own=own))


def _some(r: _Readings, rows: np.ndarray) -> _Readings:
    def case(whole: PowerCase) -> PowerCase:
        before = tuple((there[rows], _time_of(time, rows)) for there, time in whole.before)
        return PowerCase(_time_of(whole.own, rows), before, whole.stalled[rows])

    return replace(r, table=r.table.take(rows), case=case(r.case), unseen=case(r.unseen))


def _time_of(time: PhysicalTime, rows: np.ndarray) -> PhysicalTime:
    whole = np.asarray(time.seconds)
    parts = (time.seconds, time.compute_s, time.memory_s, time.fixed_s)
    return PhysicalTime(*(np.broadcast_to(np.asarray(x), whole.shape)[rows] for x in parts))


def _alone(r: _Readings, ends: ReadingParameters) -> ReadingParameters:
    """The better of fits that start from short and from long loops: which they were is what decides the rest."""
    fits = [_fit(r, ends, msgspec.structs.replace(ends, runs=runs), pull=0.0, kept=("limit_share",)) for runs in _LOOPS]
    return min(fits, key=lambda p: _miss(r, p))


def _miss(r: _Readings, p: ReadingParameters) -> float:
    return float(np.abs(np.log(r.table.number("power_w") / power_reading(r.device, p, r.case))).mean())


def _fit(
    r: _Readings, towards: ReadingParameters, start: ReadingParameters, pull: float = _PULL,
    kept: tuple[str, ...] = _OF_DEVICE,
) -> ReadingParameters:  # fmt: skip
    """Parameters fitted to these rows, some kept as they are in `towards`; a stall is fitted only where rows stall."""
    kept = kept if r.case.stalled.any() else (*kept, "stall_s")
    return fit_parameters(
        ReadingParameters, lambda p: power_reading(r.device, p, r.case), r.table.number("power_w"), start=start,
        prior=towards, pull=pull, evaluations=_EVALUATIONS, fixed={name: float(getattr(towards, name)) for name in kept},
    )  # fmt: skip


def _out_of_sample(r: _Readings, shared: ReadingParameters, start: ReadingParameters) -> Floats:
    fold = fold_of(r.kind.shape(r.table), _FOLDS)
    out = np.full(len(r.table), np.nan)
    for turn in range(_FOLDS):
        seen, unseen = np.flatnonzero(fold != turn), np.flatnonzero(fold == turn)
        if len(unseen) and len(seen):
            p = _fit(_some(r, seen), shared, start)
            out[unseen] = power_reading(r.device, p, _some(r, unseen).unseen)
    return out


def power_fits(fitted: Sequence[FittedPower], shared: ReadingParameters, today: date) -> Iterator[Fit]:
    """Rows of a class's file: one for each cell, and one for what nobody measured, by what all share."""
    for one in fitted:
        _, dtype, framework, version, _ = one.cell
        yield _row(POWER, dtype, framework, version, one.variant, one.parameters, [one], today)
    yield _row(POWER, _ANY, "", "", _ANY, shared, fitted, today)


def _row(
    operator: str, dtype: str, framework: str, version: str, variant: str, p: ReadingParameters,
    of: Sequence[FittedPower], today: date,
) -> Fit:  # fmt: skip
    errors = [one.log_errors for one in of] if dtype else [_by(one, p) for one in of]
    times = [one.case.own for one in of]
    joined = PhysicalTime(*(
        np.concatenate([np.broadcast_to(np.asarray(getattr(t, x), float), np.shape(t.seconds)) for t in times])
        for x in ("seconds", "compute_s", "memory_s", "fixed_s")
    ))  # fmt: skip
    spread = fit_spreads([joined], [np.concatenate(errors)])[0]
    return Fit(
        operator=operator, dtype=dtype, framework=framework, version=version, variant=variant,
        values={name: float(f"{value:.4g}") for name, value in msgspec.structs.asdict(p).items()},
        spread=tuple(round(c, 3) for c in spread), files=tuple(dict.fromkeys(one.table.path.name for one in of)),
        gpus=tuple(dict.fromkeys(one.device.name for one in of)), rows=sum(len(one.table) for one in of),
        date=today.isoformat(),
    )  # fmt: skip


def _by(one: FittedPower, p: ReadingParameters) -> Floats:
    return np.log(one.table.number("power_w") / power_reading(one.device, p, one.case))


def power_transfers(fitted: Sequence[FittedPower]) -> list[Transfer]:
    """How far off one cell's parameters are on another's rows, beyond its own error; steps never seen have no pairs."""
    seen: dict[str, list[float]] = {}
    for source in fitted:
        for other in fitted:
            step = _step(source, other)
            if step:
                added = robust_sigma(_by(other, source.parameters)) ** 2 - robust_sigma(other.log_errors) ** 2
                seen.setdefault(step, []).append(float(np.sqrt(max(added, 0.0))))
    out = [
        Transfer(operator=POWER, step=step, sigma=round(float(np.median(sigmas)), 4), pairs=len(sigmas))
        for step, sigmas in sorted(seen.items())
    ]
    steps = {t.step for t in out}
    assumed = [
        Transfer(operator=POWER, step=step, sigma=sigma, pairs=0) for step, sigma in _UNSEEN if step not in steps
    ]
    return [*out, *assumed]


def _step(a: FittedPower, b: FittedPower) -> str:
    if a is b or a.cell[1] != b.cell[1] or a.device.arch != b.device.arch:
        return ""
    if a.device.name != b.device.name:
        return "gpu" if a.cell[2:4] == b.cell[2:4] and a.variant == b.variant else ""
    if a.cell[2] != b.cell[2]:
        return "framework" if a.kind is b.kind else ""
    if a.cell[3] != b.cell[3]:
        return "version" if a.variant == b.variant else ""
    return "variant" if a.variant != b.variant else ""


def score_power(table: Table) -> Iterator["Scored | RidgeError"]:
    """Readings of every cell of a table against the fits, or the refusal in its place; nothing where none has a reading."""
    if not table.has("power_w"):
        return
    kind = kind_of(table)
    for cell, whole in cells(kind, table, our_dtypes).items():
        rows = power_rows(kind, whole)
        if len(rows):
            try:
                yield _scored(kind, cell, datasheet_device(cell[0]), rows, whole)
            except RidgeError as error:
                yield error


def _scored(kind: Kind, cell: Cell, device: Device, rows: Table, whole: Table) -> Scored:
    gpu, dtype, framework, version, variant = cell
    timed = find_fit(device, kind.name, alike(dtype), Stack(framework, version, variant))
    times = read_parameters(kind.model, timed.fit.values, f"architecture class {timed.arch}")
    found = find_power(device, kind.name, alike(dtype), Stack(framework, version, variant))
    p = read_parameters(ReadingParameters, found.fit.values, f"architecture class {found.arch}")
    case = power_case(kind, device, times, dtype, framework, rows, whole)
    watts = power_reading(device, p, case)
    half = np.exp(Z80 * np.hypot(spread_sigma(case.own, found.fit.spread), found.sigma))
    highest = np.maximum(watts, device.tdp_w * 1.02)
    return Scored(
        file=rows.path.name, kind=kind.name, metric="power", gpu=gpu, dtype=dtype, framework=framework, version=version,
        regimes=kind.regime(rows), models=np.full(len(rows), ""), lines=rows.lines.astype(float),
        measured=rows.number("power_w"), predicted=watts,
        low=np.minimum(watts, np.maximum(watts / half, 0.9 * idle_power(device, p) / np.exp(Z80 * found.sigma))),
        high=np.minimum(watts * half, highest), roofline=np.full(len(rows), device.tdp_w),
        basis=f"{found.label} (a model)", steps=found.steps, in_sample=fitted_on(found, rows.path, device.name),
    )  # fmt: skip


def fit_jobs(device: Device, jobs: JobRows, rows: np.ndarray | None = None) -> LimitParameters:
    """Parameters of jobs under a limit, fitted to watts and times together; `rows`: those that are seen."""
    seen = np.flatnonzero(np.ones(len(jobs.watts)) if rows is None else rows)
    measured = np.concatenate([jobs.watts[seen], jobs.seconds[seen]])
    return fit_parameters(
        LimitParameters, lambda p: np.concatenate([x[seen] for x in _jobs(device, p, jobs)]), measured,
        evaluations=_EVALUATIONS,
    )  # fmt: skip


def _jobs(device: Device, p: LimitParameters, jobs: JobRows) -> tuple[Floats, Floats]:
    watts, ratio = limited_job(device, p, jobs.known_w, jobs.known_limit_w, jobs.limit_w)
    return watts, ratio * jobs.known_s


def jobs_out_of_sample(device: Device, jobs: JobRows) -> tuple[Floats, Floats]:
    """Watts and seconds of each job by parameters that no job of its model was seen in (leave-model-out)."""
    watts, seconds = np.full(len(jobs.watts), np.nan), np.full(len(jobs.watts), np.nan)
    for model in dict.fromkeys(map(str, jobs.models)):
        out = jobs.models == model
        if not out.all():
            w, s = _jobs(device, fit_jobs(device, jobs, ~out), jobs)
            watts[out], seconds[out] = w[out], s[out]
    return watts, seconds


def jobs_fits(table: Table, today: date) -> Iterator[tuple[Device, Fit]]:
    """A row of a class's file for each GPU of the table; its two coefficients are the spreads of watts and of seconds."""
    for jobs in job_rows(table):
        device = datasheet_device(jobs.gpu)
        p, (watts, seconds) = fit_jobs(device, jobs), jobs_out_of_sample(device, jobs)
        yield device, Fit(
            operator=JOBS, dtype=_ANY,
            values={name: float(f"{value:.4g}") for name, value in msgspec.structs.asdict(p).items()},
            spread=(
                round(robust_sigma(np.log(jobs.watts / watts)), 4), round(robust_sigma(np.log(jobs.seconds / seconds)), 4)
            ),
            files=(table.path.name,), gpus=(device.name,), rows=len(jobs.watts), date=today.isoformat(),
        )  # fmt: skip


def score_jobs(table: Table) -> Iterator["Scored | RidgeError"]:
    """Mean power and time under each limit but the highest, whose measurement is what the prediction starts from."""
    for jobs in job_rows(table):
        try:
            device = datasheet_device(jobs.gpu)
            found = find_fit(device, JOBS, (_ANY,), Stack())
            p = read_parameters(LimitParameters, found.fit.values, f"architecture class {found.arch}")
            watts, seconds = _jobs(device, p, jobs)
            sigmas = np.hypot(found.fit.spread[:2], found.sigma)
            yield _job_scored("power", jobs, table, found, device, (jobs.watts, watts, jobs.limit_w, sigmas[0]))
            yield _job_scored("time", jobs, table, found, device, (jobs.seconds, seconds, jobs.known_s, sigmas[1]))
        except RidgeError as error:
            yield error


def _job_scored(
    metric: str, jobs: JobRows, table: Table, found: Found, device: Device,
    values: tuple[Floats, Floats, Floats, float],
) -> Scored:  # fmt: skip
    """One metric of all jobs; the yardstick is the limit itself for watts, and no slowing down for seconds."""
    measured, predicted, yardstick, sigma = values
    half = float(np.exp(Z80 * sigma))
    count = len(measured)
    return Scored(
        file=table.path.name, kind="jobs", metric=metric, gpu=jobs.gpu, dtype="", framework="", version="",
        regimes=np.array([f"limit {limit:g} W" for limit in jobs.limit_w], dtype=np.str_), models=np.full(count, ""),
        lines=jobs.lines, measured=measured, predicted=predicted, low=predicted / half, high=predicted * half,
        roofline=yardstick, basis=f"{found.label} (a model, from the job's row at its highest limit)", steps=found.steps,
        in_sample=fitted_on(found, table.path, device.name),
    )  # fmt: skip
