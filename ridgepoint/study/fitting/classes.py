"""Fit a class of machines: parameters of every cell of its published tables, widths of intervals, errors of transfers."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from itertools import islice

import msgspec
import numpy as np

from ridgepoint.hardware import Fit, Transfer
from ridgepoint.prediction.physics.device import Device
from ridgepoint.prediction.physics.found import class_chain, operation_of
from ridgepoint.prediction.physics.optime import PhysicalTime
from ridgepoint.prediction.physics.parameters import Parameters
from ridgepoint.prediction.sheet.linear import alike
from ridgepoint.study.fitting.held_out import FOLDS, fit_rows, fold_of, out_of_sample
from ridgepoint.study.fitting.widths import fit_spreads, robust_sigma
from ridgepoint.study.published.cells import Cell, cells, measured_seconds
from ridgepoint.study.published.kind import Kind
from ridgepoint.study.published.spelling import our_dtypes
from ridgepoint.study.published.table import Floats, Table

__all__ = ["FittedCell", "Group", "fit_group", "fit_kind", "fits_of", "groups_of", "transfers_of"]

Group = tuple[str, str, str]
"""gpu, dtype, and the variant where variants are operators of their own."""
_PULL = 4.0
"""How many rows the parameters that all stacks share count for, in the fit of one of them."""
_FEWEST_ROWS = 60
"""Of a cell, for its parameters to say anything of how parameters carry."""
_POOLED_ROWS = 800
_EVALUATIONS = 40


@dataclass(frozen=True)
class FittedCell:
    """One cell with its rows, its parameters, and predictions of its rows by parameters that had not seen their shapes."""

    kind: Kind
    cell: Cell
    device: Device
    table: Table
    parameters: Parameters
    unseen_s: Floats = field(repr=False)

    @property
    def log_errors(self) -> Floats:
        """log(measured / predicted), each row's shape unseen."""
        return np.log(measured_seconds(self.table) / self.unseen_s)


def fit_kind(
    kind: Kind, table: Table, device_named: Callable[[str], Device], progress: Callable[[str], None] = lambda _: None
) -> list[FittedCell]:
    """All cells of one table; `device_named` gives the device behind a name of its gpu column."""
    out = []
    for key in groups_of(kind, table):
        progress(" ".join((kind.name, *filter(None, key))))
        out += fit_group(kind, table, key, device_named)
    return out


def groups_of(kind: Kind, table: Table) -> list[Group]:
    """Cells that tell of each other: of one machine and dtype, and of one variant where variants are operators."""
    return list(_by_machine(cells(kind, table, our_dtypes), kind.pools))


def fit_group(kind: Kind, table: Table, key: Group, device_named: Callable[[str], Device]) -> list[FittedCell]:
    """The cells of one group, each drawn to what all of them share, and, of several frameworks, what they share."""
    gpu, dtype, variant = key
    group = _by_machine(cells(kind, table, our_dtypes), kind.pools)[key]
    device = device_named(gpu)
    everything = _joined(list(group.values()))
    fold = fold_of(kind.shape(everything), FOLDS)
    shared = _shared(kind, device, dtype, everything)
    priors = [
        _shared(kind, device, dtype, everything.take(fold != turn), shared) if (fold != turn).any() else shared
        for turn in range(FOLDS)
    ]
    out, start = [], 0
    for cell, rows in group.items():
        p = fit_rows(kind, device, dtype, rows, shared, _PULL, _EVALUATIONS)
        mine = fold[start : start + len(rows)]
        start += len(rows)
        unseen = out_of_sample(kind, device, dtype, rows, FOLDS, priors, _PULL, _EVALUATIONS, mine)
        out.append(FittedCell(kind, cell, device, rows, p, unseen))
    if len({cell[2] for cell in group}) > 1:
        out.append(_pooled_cell(kind, device, (gpu, dtype, "", "", variant), group, shared))
    return out


def _by_machine(found: Mapping[Cell, Table], pools: bool) -> dict[Group, dict[Cell, Table]]:
    out: dict[Group, dict[Cell, Table]] = {}
    for cell, rows in found.items():
        out.setdefault((cell[0], cell[1], "" if pools else cell[4]), {})[cell] = rows
    return out


def _shared(kind: Kind, device: Device, dtype: str, rows: Table, start: Parameters | None = None) -> Parameters:
    """What all stacks of a machine share; `start` is where the search begins, and draws nothing."""
    return fit_rows(kind, device, dtype, _sample(rows), start, 0.0, _EVALUATIONS)


def _sample(table: Table) -> Table:
    step = max(1, len(table) // _POOLED_ROWS)
    return table.take(list(range(0, len(table), step)))


def _joined(tables: Sequence[Table]) -> Table:
    first = tables[0]
    columns = {name: np.concatenate([t.columns[name] for t in tables]) for name in first.columns}
    return Table(first.path, columns, np.concatenate([t.lines for t in tables]))


def _pooled_cell(kind: Kind, device: Device, cell: Cell, group: Mapping[Cell, Table], shared: Parameters) -> FittedCell:
    """What all stacks share, for a stack that nobody measured: each row predicted without its own framework's rows."""
    frameworks = sorted({c[2] for c in group})
    tables, unseen = [], []
    for left_out in frameworks:
        seen = _sample(_joined([rows for c, rows in group.items() if c[2] != left_out]))
        rows = _joined([rows for c, rows in group.items() if c[2] == left_out])
        p = fit_rows(kind, device, cell[1], seen, shared, 0.0, _EVALUATIONS)
        tables.append(rows)
        unseen.append(np.asarray(kind.seconds(device, p, cell[1], rows).seconds))
    return FittedCell(kind, cell, device, _joined(tables), shared, np.concatenate(unseen))


def fits_of(fitted: Sequence[FittedCell], today: date) -> list[Fit]:
    """The rows of classes' files, one for each cell; cells of one operator share the slopes of their intervals, which those
    of single stacks tell."""
    spreads: dict[int, tuple[float, ...]] = {}
    for name in {one.kind.name for one in fitted}:
        mine = [i for i, one in enumerate(fitted) if one.kind.name == name]
        times = [_time(fitted[i]) for i in mine]
        errors, alone = [fitted[i].log_errors for i in mine], [bool(fitted[i].cell[2]) for i in mine]
        spreads |= dict(zip(mine, fit_spreads(times, errors, alone), strict=True))
    return [_fit(one, spreads[i], today) for i, one in enumerate(fitted)]


def _time(one: FittedCell) -> PhysicalTime:
    return one.kind.seconds(one.device, one.parameters, one.cell[1], one.table)


def _fit(one: FittedCell, spread: Sequence[float], today: date) -> Fit:
    _, dtype, framework, version, variant = one.cell
    return Fit(
        operator=one.kind.name, dtype=dtype, framework=framework, version=version, variant=variant,
        values={name: float(f"{value:.4g}") for name, value in msgspec.structs.asdict(one.parameters).items()},
        spread=tuple(round(c, 3) for c in spread), files=(one.table.path.name,), gpus=(one.device.name,),
        rows=len(one.table), date=today.isoformat(),
    )  # fmt: skip


def transfers_of(fitted: Sequence[FittedCell]) -> list[Transfer]:
    """How far off one cell's parameters are on another's rows, beyond that cell's own error: by what differs.

    Of classes only such pairs count as a question would make: the other class would ask this one first, had it no fits.
    """
    seen: dict[tuple[str, str], list[float]] = {}
    for source in fitted:
        for other in fitted:
            step = _step(source, other)
            if step and len(source.table) >= _FEWEST_ROWS:
                seen.setdefault((source.kind.name, step), []).append(_added(source, other))
    return [
        Transfer(operator=operator, step=step, sigma=round(float(np.nanmedian(sigmas)), 4), pairs=len(sigmas))
        for (operator, step), sigmas in sorted(seen.items())
        if np.isfinite(sigmas).any()
    ]


def _step(a: FittedCell, b: FittedCell) -> str:
    """The one thing in which two cells differ; "" where it is none or more than one."""
    if a.kind is not b.kind or a is b or a.cell[1] != b.cell[1] or not (a.cell[2] and b.cell[2]):
        return ""
    if not a.kind.pools and a.cell[4] != b.cell[4]:
        return ""
    (_, _, framework, version, variant), (_, _, framework_b, version_b, variant_b) = a.cell, b.cell
    if a.device.arch != b.device.arch:
        return "class" if framework == framework_b and _asks_first(b, a) else ""
    if a.device.name != b.device.name:
        return "gpu" if framework == framework_b else ""
    if framework != framework_b:
        return "framework"
    if version != version_b:
        return "version"
    return "variant" if variant != variant_b else ""


def _asks_first(cell: FittedCell, source: FittedCell) -> bool:
    """Whether `source` is of the class that answers for this cell's, where that has no fits itself."""
    for arch in islice(class_chain(cell.device.arch), 1, None):
        fits = [fit for fit in arch.of(cell.kind.name) if fit.dtype in alike(cell.cell[1])]
        if any(cell.kind.pools or operation_of(fit.variant) == operation_of(cell.cell[4]) for fit in fits):
            return arch.name == source.device.arch
    return False


def _added(source: FittedCell, other: FittedCell) -> float:
    predicted = other.kind.seconds(other.device, source.parameters, other.cell[1], other.table).seconds
    error = robust_sigma(np.log(measured_seconds(other.table) / np.asarray(predicted)))
    return float(np.sqrt(max(error**2 - robust_sigma(other.log_errors) ** 2, 0.0)))
