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
from ridgepoint.prediction.serving_open import open_loop
from ridgepoint.prediction.serving_parameters import ServingParameters
from ridgepoint.prediction.serving_steps import steps_of
from ridgepoint.quantity import Array
from ridgepoint.study.fitting.robust import fit_parameters
from ridgepoint.study.fitting.widths import robust_sigma
from ridgepoint.study.published.systems_requests import RequestRun, request_runs
from ridgepoint.study.published.systems_serving import serving_runs
from ridgepoint.study.published.systems_settled import Configuration, configurations
from ridgepoint.study.published.table import Floats, Table, fingerprint
from ridgepoint.study.serving_fits import serving_fit

__all__ = ["FittedServing", "add_serving", "fit_serving", "held_out_lines", "remembered", "transfers_of_requests"]

_TTFT_WEIGHT = 0.25
"""Of a TTFT beside a TPOT: it is the mean of few first tokens, and the protocol decides it as much as the server."""
_PULL = 3.0
"""Rows that the start of each parameter counts for: one model's layers and steps are not told apart by its own rows."""
_SIGMAS = ("tpot_sigma", "ttft_sigma", "ttft_busy_sigma")


@dataclass(frozen=True)
class FittedServing:
    """One machine and stack: parameters, and errors of configurations by parameters that had not seen them."""

    members: tuple[Configuration, ...]
    parameters: ServingParameters
    file: str
    unseen: Mapping[str, Floats] = field(repr=False)
    """Log errors by metric of every row and turn; `front_end` beside them."""
    turns: tuple[str, ...] = ()
    """What each of these errors' turn had left out."""

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

        def fitted(more: Mapping[str, float]) -> ServingParameters:
            return fit_parameters(
                ServingParameters, both, measured, fixed={**fixed, **more}, weights=weights, prior=start, pull=_PULL
            )

        found, slowest = fitted({}), self.slowest_token_s()
        return found if found.token_s <= slowest else fitted({"token_s": slowest})

    def slowest_token_s(self) -> float:
        """What the front end takes for a token at most: it handed out as many a second as the fastest server made."""
        loads = [(run.users * run.osl, run.osl) for one, _ in self.members for run in one.runs]
        tokens, osl = (np.array(x) for x in zip(*loads, strict=True))
        return float(np.nanmin((self.measured("ttft") + (osl - 1) * self.measured("tpot")) / tokens))


def _columns(served: Sequence[Served]) -> tuple[Floats, Floats]:
    return (
        np.concatenate([np.asarray(x.tpot_s, float) for x in served]),
        np.concatenate([np.asarray(x.ttft_s, float) for x in served]),
    )


def _fitted(members: tuple[Configuration, ...], file: str, steps_for: StepsFor) -> FittedServing:
    every = _Rows([(one, remembered(steps_for(one))) for one in members])
    unseen: dict[str, list[Floats]] = {"tpot": [], "ttft": [], "front_end": []}
    names: list[str] = []
    for name, seen, left_out in _turns(every):
        served = left_out.predicted(seen.fit())
        names += [name] * sum(len(one.runs) for one, _ in left_out.members)
        for metric, predicted in zip(("tpot", "ttft"), _columns(served), strict=True):
            unseen[metric].append(np.log(left_out.measured(metric) / predicted))
        unseen["front_end"].append(np.concatenate([np.asarray(x.front_end, float) for x in served]))
    errors = {name: np.concatenate(parts) for name, parts in unseen.items()}
    parameters = msgspec.structs.replace(every.fit(), **_sigmas(errors))
    return FittedServing(members, parameters, file, errors, tuple(names))


def _turns(every: _Rows) -> Iterator[tuple[str, _Rows, _Rows]]:
    """Each split of devices is left out once, then each pair of prompt and answer lengths."""
    if len(every.members) > 1:
        for number, (one, _) in enumerate(every.members):
            rest = [x for i, x in enumerate(every.members) if i != number]
            yield str(one.plan.parallel) or "1 device", _Rows(rest), _Rows([every.members[number]])
    lengths = sorted({(run.isl, run.osl) for one, _ in every.members for run in one.runs})
    for isl, osl in lengths if len(lengths) > 1 else ():
        apart = [
            _taken(every, lambda run, pair=(isl, osl), out=out: ((run.isl, run.osl) == pair) == out)
            for out in (False, True)
        ]
        yield f"{isl:g} in, {osl:g} out", apart[0], apart[1]


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
    """Widths that hold 80 % of the errors; of TTFT one for an idle and one for a busy front end, mixed by the square of its
    load, since delays of a queue grow late and fast."""
    busy, size = np.square(errors["front_end"]), np.abs(errors["ttft"]) / Z80
    loaded, idle, widest = busy >= _BUSY, 0.0, 0.0
    for _ in range(8):  # each width given the other
        idle = max(_covering((size - widest * busy)[~loaded] / (1 - busy[~loaded])), 0.01)
        widest = min(max(_covering((size - idle * (1 - busy))[loaded] / busy[loaded]), idle), 1.5)
    found = {"tpot_sigma": robust_sigma(errors["tpot"]), "ttft_sigma": idle, "ttft_busy_sigma": max(widest, idle)}
    return {name: float(np.clip(value, 0.01, 1.5)) for name, value in found.items()}


def _covering(widths: Floats) -> float:
    """The width that 80 % of those needed do not exceed; 0 where there are none."""
    good = widths[np.isfinite(widths)]
    return float(np.quantile(good, 0.8)) if len(good) else 0.0


_BUSY = 0.25
"""Square of the load from which a front end counts as busy."""


def held_out_lines(one: FittedServing) -> list[dict[str, object]]:
    """Errors of what a fit had not seen, for each group left out and all together, by metric."""
    turns, out = np.array(one.turns), []
    for metric in ("tpot", "ttft"):
        ratio = np.exp(-one.unseen[metric])
        for name in ("all", *dict.fromkeys(one.turns)):
            rows = np.isfinite(ratio) & ((turns == name) | (name == "all"))
            ape = np.abs(ratio[rows] - 1)
            figures = {
                "median_ape": np.median(ape), "mape": ape.mean(), "p90_ape": np.quantile(ape, 0.9),
                "bias": np.median(ratio[rows]),
            }  # fmt: skip
            first = one.members[0].runs[0]
            out.append(
                {"file": one.file, "metric": metric, "gpu": first.gpu, "framework": first.framework, "version": first.version,
                 "left_out": name, "n": int(rows.sum()), **{k: round(float(v), 4) for k, v in figures.items()}}
            )  # fmt: skip
    return out


def transfers_of_requests(fitted: FittedServing, requests: Table | None = None) -> list[Transfer]:
    """How far off the parameters are one step away from where they were fitted.

    Class and stack are seen in runs of requests: the median error of TPOT of each run, as what half of such errors exceed;
    both share its variance, since no run takes one alone. No step is taken to add less than the error that configurations
    have which the fit had not seen, nor less than `_LEAST`, which is assumed: one run is too few to say otherwise.
    """
    runs = [] if requests is None else [run for run in request_runs(requests) if isinstance(run, RequestRun)]
    seen = ("class", "framework")
    errors = [error for run in runs for steps, error in [_error_of(run)] if set(seen) <= set(steps)]
    sigma = float(np.median(errors)) / _HALF_OF_A_NORMAL / float(np.sqrt(len(seen))) if errors else 0.0
    least = fitted.parameters.tpot_sigma
    return [
        Transfer(
            operator="serving", step=step, sigma=round(max(sigma if step in seen else 0.0, least, _LEAST[step]), 4),
            pairs=len(errors) if step in seen else 0,
        )
        for step in ("gpu", "version", "framework", "class")
    ]  # fmt: skip


_LEAST = {"gpu": 0.1, "version": 0.1, "framework": 0.2, "class": 0.2}
"""Standard deviations that a step adds at least."""


def _error_of(run: RequestRun) -> tuple[tuple[str, ...], float]:
    """What lies between the fit and the run, and the size of the median log error of its TPOT."""
    p, found = serving_fit(run.target, run.framework, run.version)
    served = open_loop(steps_of(run.plan, run.target), run.requests, run.engine, p)
    measured = run.table.number("tpot_ms") * 1e-3
    good = np.isfinite(measured) & (measured > 0)
    return found.steps, abs(float(np.median(np.log(measured[good] / served.tpot_s[good]))))


_HALF_OF_A_NORMAL = 0.6745
"""Standard deviations that half of a normal distribution exceeds."""


def add_serving(
    table: Table, folder: Path, today: date, requests: Table | None = None, steps_for: StepsFor = lambda one: one.steps
) -> list[FittedServing]:
    """Fit the table's servers and write them into the files of their classes in `folder`, beside the fits that are there;
    BadInput where a machine has no class. Run it after the operators' fits: servers are predicted with them.

    `requests`: measured runs on other machines and stacks, which say how far the parameters carry.
    """
    fitted = fit_serving(table, steps_for)
    for name in dict.fromkeys(one.members[0].target.arch for one in fitted):
        if not name:
            raise BadInput(
                f"{table.path.name}: its machines were calibrated themselves; a server's fit needs datasheet targets"
            )
        own = [one for one in fitted if one.members[0].target.arch == name]
        source = f"published measurements, normalised; {fingerprint(table.path)}; {len(table)} rows"
        _written(name, folder, [one.fit(today) for one in own], [], {table.path.name: source})
        _written(name, folder, [one.fit(today) for one in own], transfers_of_requests(own[0], requests), {})
    return fitted


def _written(
    name: str, folder: Path, fits: Sequence[Fit], transfers: Sequence[Transfer], sources: Mapping[str, str]
) -> None:
    arch = load_arch(name)
    kept = tuple(fit for fit in arch.fits if fit.operator != "serving")
    known = tuple(x for x in arch.transfers if x.operator != "serving")
    save_arch(
        msgspec.structs.replace(
            arch, fits=(*kept, *fits), transfers=(*known, *transfers), sources={**arch.sources, **sources}
        ),
        folder,
    )
