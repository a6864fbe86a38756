"""A loaded server on machines that are known from their datasheets: what users see, what it costs, what an SLO leaves."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime

import numpy as np

from ridgepoint.choice import resolve
from ridgepoint.errors import BadInput, NotSupported
from ridgepoint.hardware import Target, load_target
from ridgepoint.prediction.latency import step_time
from ridgepoint.prediction.physics.spread import Z80
from ridgepoint.prediction.serving import PROTOCOL, Engine, Load, Protocol, Served, Steps, closed_loop
from ridgepoint.prediction.serving_engine import engine_of, stack_defaults
from ridgepoint.prediction.serving_parameters import ServingParameters
from ridgepoint.prediction.serving_power import mean_watts
from ridgepoint.prediction.serving_steps import room_sequences, served_model, step_error, steps_of
from ridgepoint.prediction.sheet.context import DEFAULT_STACK
from ridgepoint.result import Value
from ridgepoint.study.prices import Price, price_of
from ridgepoint.study.question import check_step
from ridgepoint.study.serving_fits import interval_sigmas, serving_fit
from ridgepoint.workload import ALONE, Parallel, Plan, decode, load_model, prefill, stored_of

__all__ = ["SLO_METRICS", "LoadAnswer", "LoadRow", "OnTarget", "PowerModel", "loaded_server", "parse_slo"]

SLO_METRICS = ("ttft", "tpot", "latency")
"""What a service-level objective can bound: means over requests."""
_EXAMPLES = {"tpot": "40ms", "ttft": "0.5s", "latency": "2s"}
_UNITS = {"s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6}
_SLO = re.compile(r"(\w+)=([0-9.]+)\s*(s|ms|us|µs)")
_SEARCHED = np.unique(np.round(np.geomspace(1, 4096, 160)))
_METHOD = "closed form over predicted steps; model"

PowerModel = Callable[[Plan, Target, float], Value]
"""Mean watts of one device whose steps are like the plan's for this share of the time; NotSupported where unknown."""


@dataclass(frozen=True, slots=True)
class LoadRow:
    """One number of users."""

    users: int
    running: float
    values: Mapping[str, Value]
    """ttft, tpot, latency (s), tokens_per_s."""
    tokens_per_s_per_device: float
    bound: str
    shares: Mapping[str, float]
    """Of the time of a token: the step's operators, the host, prompts of others, waiting for the front end."""
    within_slo: bool
    joules_per_million_tokens: Value | None = None
    price_per_million_tokens: float | None = None


@dataclass(frozen=True, slots=True)
class OnTarget:
    """One target: its rows, the most users within the SLO as a row of its own, and what the prediction rests on."""

    target: str
    devices: int
    slots: int
    """Sequences of users that can run at once."""
    limited_by: str
    rows: tuple[LoadRow, ...]
    best: LoadRow | None
    price: Price | None
    basis: str
    steps: tuple[str, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class LoadAnswer:
    """What was asked, in words, and the answer for each target."""

    model: str
    asked: Mapping[str, str]
    slo: Mapping[str, float]
    protocol: str
    on: tuple[OnTarget, ...]
    not_modelled: tuple[str, ...]
    today: date


def parse_slo(text: str, metrics: Sequence[str] = SLO_METRICS, where: str = "") -> dict[str, float]:
    """`parse_slo("tpot=40ms,ttft=0.5s") == {"tpot": 0.04, "ttft": 0.5}`; BadInput saying which `metrics` are possible."""
    found: dict[str, float] = {}
    for part in filter(None, (word.strip() for word in text.split(","))):
        match = _SLO.fullmatch(part)
        if not match or match[1] not in metrics or match[1] in found or not float(_number(match[2])) > 0:
            example = ",".join(f"{metric}={value}" for metric, value in _EXAMPLES.items() if metric in metrics)
            raise BadInput(f"--slo is {part[:40]!r}; possible{where} is {', '.join(metrics)}, each once, as {example}")
        found[match[1]] = _number(match[2]) * _UNITS[match[3]]
    return found


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return 0.0


@dataclass(frozen=True)
class _Server:
    """A settled server: everything that a number of users meets."""

    plan: Plan
    target: Target
    steps: Steps
    engine: Engine
    p: ServingParameters
    protocol: Protocol
    elsewhere: float
    found_sigma: float
    isl: int
    osl: int

    def served(self, users: Sequence[float] | np.ndarray) -> Served:  # type: ignore[type-arg]
        """At all these numbers of users."""
        return closed_loop(
            self.steps, Load(np.asarray(users, float), self.isl, self.osl), self.engine, self.p, self.protocol
        )


def loaded_server(
    model: str, on: Sequence[str], *, users: Sequence[int], isl: int, osl: int, with_: str = "", stack: str = "",
    parallel: Parallel = ALONE, slo: Mapping[str, float] | None = None, most_running: int | None = None,
    chunk: int | None = None, rounds: float = np.inf, kv_dtype: str = "", power: PowerModel = mean_watts,
) -> LoadAnswer:  # fmt: skip
    """TTFT, TPOT, latency and throughput of `users` in a closed loop on each target, and the most users within an SLO.

    `rounds`: requests of each user, of which the first all come at once; infinite for a server that has run for long.
    `most_running`, `chunk`: the server's largest batch and tokens of a step; None: the stack's own.
    Raises UnknownName, BadInput, NotSupported, DoesNotFit before anything is shown.
    """
    if not users or any(not 1 <= n <= 2**16 for n in users):
        raise BadInput(f"--users takes whole numbers from 1 to {2**16}, separated by commas, as 1,8,64")
    if osl < 2:
        raise BadInput(f"--osl is {osl}; a time per token needs answers of at least 2 tokens")
    workload = load_model(model)
    check_step(model, workload, "decode", isl + osl)
    limits, today = dict(slo or {}), datetime.now(UTC).date()
    framework = (stack or DEFAULT_STACK).partition(":")[0]
    answers, plan = [], None
    for name in on:
        target = load_target(name, "cuda")
        if not target.is_datasheet:
            raise NotSupported(
                f"{target.name} was calibrated itself; loaded servers are predicted for datasheet targets"
            )
        settled = resolve(with_, workload.dtype, "cpu" if target.kind == "cpu" else "cuda", "", 1, stored_of(workload))
        plan = replace(
            settled.plan(workload, decode(1, isl)), stack=stack or DEFAULT_STACK, parallel=parallel, launch="graph"
        )
        served_model(plan)
        answers.append(
            _on(plan, target, framework, users, isl, osl, limits, most_running, chunk, rounds, kv_dtype, power)
        )
    assert plan is not None, "an empty list of targets is refused where it is read"
    asked = {
        "isl": str(isl), "osl": str(osl), "with": with_ or plan.dtype, "stack": stack or DEFAULT_STACK,
        "devices": f"{parallel.devices} ({parallel})" if parallel != ALONE else "1",
        "rounds": "many" if np.isinf(rounds) else f"{rounds:g}", "kv_dtype": kv_dtype or plan.dtype,
    }  # fmt: skip
    return LoadAnswer(model, asked, limits, PROTOCOL, tuple(answers), served_model(plan).not_modelled, today)


def _on(
    plan: Plan, target: Target, framework: str, users: Sequence[int], isl: int, osl: int, slo: Mapping[str, float],
    most_running: int | None, chunk: int | None, rounds: float, kv_dtype: str, power: PowerModel,
) -> OnTarget:  # fmt: skip
    defaults = stack_defaults(framework)
    version = plan.stack.partition(":")[2]
    p, found = serving_fit(target, framework, version)
    room = float(room_sequences(plan, target, isl + osl / 2, kv_dtype, reserve=defaults.reserve))
    most = float(most_running or defaults.most_running * plan.parallel.attention_dp)
    engine = engine_of(framework, target.name, target.memory_bytes or 0.0, most, room, plan.parallel.attention_dp)
    engine = replace(engine, chunk=float(chunk)) if chunk else engine
    server = _Server(
        plan,
        target,
        steps_of(plan, target),
        engine,
        p,
        Protocol(rounds),
        step_error(plan, target),
        found.sigma,
        isl,
        osl,
    )
    price = price_of(target.name)
    rows = tuple(_rows(server, [float(n) for n in users], slo, price, power))
    best = _best(server, slo, price, power) if slo else None
    notes = []
    absent = [*(["price (prices.toml in the data folder has none)"] if price is None else [])]
    absent += ["energy (no power model)"] if any(row.joules_per_million_tokens is None for row in rows) else []
    if absent:
        notes.append(f"absent: {', '.join(absent)}")
    limited = "KV cache" if room < most else "largest batch"
    return OnTarget(
        target.name, plan.parallel.devices, int(np.min(engine.slots)), limited, rows, best, price, found.label, found.steps,
        tuple(notes),
    )  # fmt: skip


def _best(server: _Server, slo: Mapping[str, float], price: Price | None, power: PowerModel) -> LoadRow | None:
    """The most users whose means are all within the SLO, to within one step of the search (4 %)."""
    served = server.served(_SEARCHED)
    values = {"ttft": served.ttft_s, "tpot": served.tpot_s, "latency": served.latency_s}
    fine = np.all([np.asarray(values[metric]) <= bound for metric, bound in slo.items()], axis=0)
    if not fine.any():
        return None
    return _rows(server, [float(_SEARCHED[fine].max())], slo, price, power)[0]


def _rows(
    server: _Server, users: Sequence[float], slo: Mapping[str, float], price: Price | None, power: PowerModel
) -> list[LoadRow]:
    served = server.served(users)
    sigmas = interval_sigmas(server.p, served, server.elsewhere, server.found_sigma)
    columns = {
        "ttft": served.ttft_s,
        "tpot": served.tpot_s,
        "latency": served.latency_s,
        "tokens_per_s": served.tokens_per_s,
    }
    out = []
    for i, n in enumerate(users):
        values = {}
        for metric, column in columns.items():
            value = float(np.asarray(column)[i])
            spread = float(np.exp(Z80 * np.broadcast_to(np.asarray(sigmas[metric], float), len(users))[i]))
            values[metric] = Value(value, value / spread, value * spread, _METHOD)
        out.append(_row(server, served, i, int(n), values, slo, price, power))
    return out


def _row(
    server: _Server, served: Served, i: int, users: int, values: Mapping[str, Value], slo: Mapping[str, float],
    price: Price | None, power: PowerModel,
) -> LoadRow:  # fmt: skip
    def at(column: object) -> float:
        return float(np.asarray(column, float)[i])

    devices, rate = server.plan.parallel.devices, values["tokens_per_s"].value
    tpot, running, step = at(served.tpot_s), at(served.running), at(served.step_s)
    prompts = (running - 1) * at(served.prompt_s) / (server.osl - 1)
    parts = {
        "operators": step - at(served.host_s), "host": at(served.host_s), "prompts of others": prompts,
        "front end": max(tpot - step - prompts, 0.0),
    }  # fmt: skip
    total = sum(parts.values())
    return LoadRow(
        users=users, running=running, values=values, tokens_per_s_per_device=rate / devices,
        bound=_bound(server, parts, running, at(served.front_end), at(served.slot_wait_s) / at(served.latency_s)),
        shares={name: part / total for name, part in parts.items()},
        within_slo=all(values[metric].value <= bound for metric, bound in slo.items()),
        joules_per_million_tokens=_energy(server, power, running, parts, values["tokens_per_s"]),
        price_per_million_tokens=None if price is None else price.per_hour * devices / 3600 / rate * 1e6,
    )  # fmt: skip


def _energy(
    server: _Server, power: PowerModel, running: float, parts: Mapping[str, float], rate: Value
) -> Value | None:
    """Joules of all devices for a million tokens of answers: power of decode steps and of prompts by their shares of the
    time, idle in between and while a pipeline's stage has no sequences."""
    stages, total = server.steps.stages, sum(parts.values())
    filled = min(1.0, running / stages)
    tokens = decode(max(running / stages, 1.0), server.isl + server.osl / 2)
    works = [(tokens, parts["operators"] / total), (prefill(1.0, server.isl), parts["prompts of others"] / total)]
    try:
        idle = power(replace(server.plan, step=tokens), server.target, 0.0)
        each = [(power(replace(server.plan, step=step), server.target, 1.0), filled * share) for step, share in works]
    except NotSupported:
        return None
    watts = idle.value + sum(share * (at_work.value - idle.value) for at_work, share in each)
    joules = watts * server.plan.parallel.devices / rate.value * 1e6
    half = float(np.exp(np.hypot(*(np.log(x.high / x.low) / 2 for x in (each[0][0], rate)))))
    return Value(joules, joules / half, joules * half, idle.method)


def _bound(server: _Server, parts: Mapping[str, float], running: float, front_end: float, waiting: float) -> str:
    """What more of would help most."""
    if front_end > 0.99:
        return "front end"
    if waiting > 0.3:
        return "slots"
    largest = max(parts, key=lambda name: parts[name])
    if largest != "operators":
        return {"host": "host", "prompts of others": "prompts"}.get(largest, largest)
    plan = replace(server.plan, step=decode(running / server.steps.stages, server.isl + server.osl / 2))
    seconds: dict[str, float] = {}
    for time in step_time(plan, server.target).ops:
        bound = time.physical.bound() if time.physical else ""
        bound = "network" if time.op.kind == "collective" else bound
        seconds[bound] = seconds.get(bound, 0.0) + float(time.seconds)
    return max(seconds, key=lambda name: seconds[name])
