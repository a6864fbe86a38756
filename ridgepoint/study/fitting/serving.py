"""Fit what serving costs beside its operators to measured servers, and how far off unseen configurations are."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path

import msgspec
import numpy as np

from ridgepoint.errors import BadInput, RidgeError
from ridgepoint.hardware import Fit, Transfer, load_arch, save_arch
from ridgepoint.prediction.physics.spread import Z80
from ridgepoint.prediction.serving import Served, Steps, closed_loop
from ridgepoint.prediction.serving_parameters import ServingParameters
from ridgepoint.quantity import Array
from ridgepoint.study.fitting.robust import fit_parameters
from ridgepoint.study.fitting.widths import robust_sigma
from ridgepoint.study.published.systems_serving import serving_runs
from ridgepoint.study.published.table import Floats, Table
from ridgepoint.study.scoring_systems import Configuration, configurations

__all__ = ["FittedServing", "add_serving", "fit_serving", "remembered"]

_TTFT_WEIGHT = 0.25
"""Of a TTFT beside a TPOT: it is the mean of few first tokens, and the protocol decides it as much as the server."""
_PULL = 3.0
"""Rows that the start of each parameter counts for: one model's layers and steps are not told apart by its own rows."""
_SIGMAS = ("tpot_sigma", "ttft_sigma", "ttft_busy_sigma")
_BUSY = 0.5


@dataclass(frozen=True)
class FittedServing:
    """One machine and stack: parameters, and errors of configurations by parameters that had not seen them."""

    members: tuple[Configuration, ...]
    parameters: ServingParameters
    file: str
    unseen: Mapping[str, Floats] = field(repr=False)
    """Log errors by metric of every row and turn; `front_end` beside them."""

    @property
    def rows(self) -> int:
        """Measured configurations."""
        return sum(len(one.runs) for one in self.members)

    def fit(self, today: date) -> Fit:
        """As it stands in a class's file."""
        first = self.members[0].runs[0]
        values = {name: float(f"{value:.4g}") for name, value in msgspec.structs.asdict(self.parameters).items()}
        return Fit(
            operator="serving", dtype="bf16", framework=first.framework, version=first.version, values=values, spread=(),
            files=(self.file,), gpus=(self.members[0].target.name,), rows=self.rows, date=today.isoformat(),
        )  # fmt: skip


StepsFor = Callable[[Configuration], Steps]


def fit_serving(table: Table, steps_for: StepsFor = lambda one: one.steps) -> list[FittedServing]:
    """Every machine and stack of the table. The first refusal is raised: a fit needs all of its rows."""
    groups: dict[tuple[str, str, str], list[Configuration]] = {}
    for one in configurations([_run(x) for x in serving_runs(table)]):
        if isinstance(one, RidgeError):
            raise one
        groups.setdefault((one.target.name, one.runs[0].framework, one.runs[0].version), []).append(one)
    return [_fitted(tuple(members), table.path.name, steps_for) for members in groups.values()]


def _run(found):  # type: ignore[no-untyped-def]
    if isinstance(found, RidgeError):
        raise found
    return found


def remembered(steps: Steps) -> Steps:
    """The same steps, each evaluated once for the same arguments: a fit asks for the same steps again and again."""
    seen: dict[tuple[object, ...], Array] = {}

    def kept(function: Callable[..., Array]) -> Callable[..., Array]:
        def ask(*args: Array) -> Array:
            key = (function, *(np.asarray(x, float).tobytes() for x in args))
            if key not in seen:
                seen[key] = function(*args)
            return seen[key]

        return ask

    return Steps(kept(steps.decode_s), kept(steps.prompt_s), steps.layers, steps.stages)


@dataclass(frozen=True)
class _Rows:
    """Some rows of every configuration, with their steps and what was measured."""

    members: Sequence[tuple[Configuration, Steps]]

    def predicted(self, p: ServingParameters) -> list[Served]:
        return [closed_loop(steps, one.load, one.engine, p) for one, steps in self.members]

    def measured(self, metric: str) -> Floats:
        return np.array([run.measured.get(metric, np.nan) for one, _ in self.members for run in one.runs])

    def fit(self) -> ServingParameters:
        """Parameters from the start of each, drawn to it a little."""
        tpot, ttft = self.measured("tpot"), self.measured("ttft")
        rows = [np.isfinite(tpot), np.isfinite(ttft)]

        def both(p: ServingParameters) -> Floats:
            return np.concatenate([x[r] for x, r in zip(_columns(self.predicted(p)), rows, strict=True)])

        weights = np.concatenate([np.ones(rows[0].sum()), np.full(rows[1].sum(), _TTFT_WEIGHT)])
        measured = np.concatenate([tpot[rows[0]], ttft[rows[1]]])
        start = ServingParameters()
        fixed = {name: getattr(start, name) for name in _SIGMAS}
        return fit_parameters(ServingParameters, both, measured, fixed=fixed, weights=weights, prior=start, pull=_PULL)


def _columns(served: Sequence[Served]) -> tuple[Floats, Floats]:
    return (
        np.concatenate([np.asarray(x.tpot_s, float) for x in served]),
        np.concatenate([np.asarray(x.ttft_s, float) for x in served]),
    )


def _fitted(members: tuple[Configuration, ...], file: str, steps_for: StepsFor) -> FittedServing:
    every = _Rows([(one, remembered(steps_for(one))) for one in members])
    unseen: dict[str, list[Floats]] = {"tpot": [], "ttft": [], "front_end": []}
    for seen, left_out in _turns(every):
        served = left_out.predicted(seen.fit())
        for metric, predicted in zip(("tpot", "ttft"), _columns(served), strict=True):
            unseen[metric].append(np.log(left_out.measured(metric) / predicted))
        unseen["front_end"].append(np.concatenate([np.asarray(x.front_end, float) for x in served]))
    errors = {name: np.concatenate(parts) for name, parts in unseen.items()}
    parameters = msgspec.structs.replace(every.fit(), **_sigmas(errors))
    return FittedServing(members, parameters, file, errors)


def _turns(every: _Rows) -> Iterator[tuple[_Rows, _Rows]]:
    """Each split of devices is left out once, then each pair of prompt and answer lengths."""
    if len(every.members) > 1:
        for number in range(len(every.members)):
            yield (
                _Rows([x for i, x in enumerate(every.members) if i != number]),
                _Rows([every.members[number]]),
            )
    lengths = sorted({(run.isl, run.osl) for one, _ in every.members for run in one.runs})
    for pair in lengths if len(lengths) > 1 else ():
        yield (
            _taken(every, lambda run, pair=pair: (run.isl, run.osl) != pair),
            _taken(every, lambda run, pair=pair: (run.isl, run.osl) == pair),
        )


def _taken(every: _Rows, keep: Callable[..., bool]) -> _Rows:
    out = []
    for one, steps in every.members:
        index = [i for i, run in enumerate(one.runs) if keep(run)]
        if index:
            slots = np.broadcast_to(np.asarray(one.engine.slots, float), (len(one.runs),))[index]
            engine = type(one.engine)(slots, one.engine.scheduler, one.engine.chunk)
            out.append((Configuration(one.gpu, one.target, one.plan, tuple(one.runs[i] for i in index), engine), steps))
    return _Rows(out)


def _sigmas(errors: Mapping[str, Floats]) -> dict[str, float]:
    """Widths that hold 80 % of the errors; of TTFT one for an idle and one for a busy front end, mixed by its load."""
    busy = errors["front_end"]
    idle = robust_sigma(errors["ttft"][busy < _BUSY])
    of_busy = busy >= _BUSY
    excess = (np.abs(errors["ttft"][of_busy]) / Z80 - idle * (1 - busy[of_busy])) / busy[of_busy]
    widest = float(np.nanquantile(excess, 0.8)) if of_busy.any() else 2 * idle
    found = {"tpot_sigma": robust_sigma(errors["tpot"]), "ttft_sigma": idle, "ttft_busy_sigma": max(widest, idle)}
    return {name: float(np.clip(value, 0.01, 1.5)) for name, value in found.items()}


def add_serving(
    table: Table,
    folder: Path,
    today: date,
    transfers: Sequence[Transfer] = (),
    steps_for: StepsFor = lambda one: one.steps,
) -> list[FittedServing]:
    """Fit the table's servers and write them into the files of their classes in `folder`, beside the fits that are there;
    BadInput where a machine has no class. Run it after the operators' fits: servers are predicted with them."""
    fitted = fit_serving(table, steps_for)
    for name in dict.fromkeys(one.members[0].target.arch for one in fitted):
        if not name:
            raise BadInput(
                f"{table.path.name}: its machines were calibrated themselves; a server's fit needs datasheet targets"
            )
        arch = load_arch(name)
        own = tuple(one.fit(today) for one in fitted if one.members[0].target.arch == name)
        kept = tuple(fit for fit in arch.fits if fit.operator != "serving")
        known = tuple(x for x in arch.transfers if x.operator != "serving")
        source = f"published measurements, normalised; {len(table)} rows"
        save_arch(
            msgspec.structs.replace(
                arch,
                fits=(*kept, *own),
                transfers=(*known, *transfers),
                sources={**arch.sources, table.path.name: source},
            ),
            folder,
        )
    return fitted
