"""Which layers need how many bits: each layer alone in each format, and the cheapest mixture that keeps a tolerance."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol

import numpy as np

from ridgepoint.choice import Choice, Side
from ridgepoint.choice.scope import EVERYWHERE, Scope, spelled_layers
from ridgepoint.errors import BadInput
from ridgepoint.measurement.request import MixedRequest, SideRequest, TextRequest
from ridgepoint.measurement.session import Session
from ridgepoint.measurement.text import PROTOCOLS
from ridgepoint.prediction import step_time
from ridgepoint.store import Provenance, Store, new_record
from ridgepoint.study.accuracy import Text, paired_difference, path_of
from ridgepoint.study.mixed_search import Assignment, Found, cheapest
from ridgepoint.study.question import Question, calibration_request, plan_for, step_for
from ridgepoint.workload import Decoder

__all__ = ["Mixing", "Watcher", "check_mix", "mix", "side_of_assignment"]

Aim = Literal["time", "memory"]


class Watcher(Protocol):
    """What the command line shows meanwhile."""

    def stage(self, text: str, done: int, total: int) -> None: ...


@dataclass(frozen=True)
class Mixing:
    """How to search: what is to be least, at which batch, on how many windows of which text."""

    text: Text
    aim: Aim = "time"
    most_tried: int = 40


def check_mix(question: Question) -> None:
    """Refuse what cannot be mixed layer by layer, before anything runs."""
    if not isinstance(question.workload, Decoder) or not question.directory or question.device != "cpu":
        raise BadInput(
            f"mixing formats needs a language model with its weights, on the CPU; {question.model} is not that"
        )
    for text, side in zip((question.a_text, *question.b_texts), (question.a, *question.b), strict=True):
        if side.choices[0] != question.a.choices[0]:
            raise BadInput(
                f"{text} computes in {side.choices[0].spelled}, {question.a_text} in {question.a.choices[0].spelled}: "
                "layers of one model share a dtype; name one with --dtype"
            )
    for text, side in zip(question.b_texts, question.b, strict=True):
        if _format_of(side) is None:
            raise BadInput(f"{text} is no weight format for whole layers; int8, int4, int4:gptq and nf4 are")


def _format_of(side: Side) -> Choice | None:
    """The one choice that stores weights otherwise, if it is for all layers."""
    found = [c for c in side.choices if hasattr(c, "scope")]
    return found[0] if len(found) == 1 and found[0].scope == EVERYWHERE else None


def _for_layers(side: Side, layers: frozenset[int]) -> Choice:
    format_ = _format_of(side)
    assert format_ is not None, "checked before"
    return replace(format_, scope=Scope(layers=spelled_layers(layers)))  # type: ignore[type-var, call-arg]


def side_of_assignment(question: Question, assignment: Assignment) -> Side:
    """The side that gives each layer the format of its number (0: that of A), as it can be written in a bet."""
    common = tuple(c for c in question.a.choices if not hasattr(c, "scope"))
    groups = [
        _for_layers(side, frozenset(i for i, f in enumerate(assignment) if f == number))
        for number, side in enumerate(question.b, 1)
        if number in assignment
    ]
    return Side((common[0], *groups, *common[1:]), question.a.device)


def mix(question: Question, mixing: Mixing, store: Store, provenance: Provenance, watcher: Watcher) -> dict[str, Any]:
    """The document of `ridge mix`; stored as a record."""
    assert isinstance(question.workload, Decoder)
    layers, names = question.workload.layers, (question.a_text, *question.b_texts)
    singles = [(layer, f) for layer in range(layers) for f in range(1, len(names))]
    base = tuple(0 for _ in range(layers))
    with Session() as session:
        ask = _Asker(question, mixing, session, watcher, 1 + len(singles))
        zero = ask(base)
        alone = {(layer, f): ask((*base[:layer], f, *base[layer + 1 :])) for layer, f in singles}
        rows = [_row(layer, names[f], f, alone[layer, f], zero, mixing) for layer, f in singles]
        costs = _costs(question, layers, mixing.aim)
        losses = [[0.0, *(r["kl_added"] for r in rows if r["layer"] == layer)] for layer in range(layers)]
        seen: dict[Assignment, dict[str, float]] = {}

        def measure(assignment: Assignment) -> float:
            seen[assignment] = _difference(ask(assignment), zero, mixing)
            return seen[assignment]["high"]

        found = cheapest(costs, losses, mixing.text.tolerance, measure, mixing.most_tried)
    body = _document(question, mixing, rows, costs, losses, found, seen)
    record = new_record("mix", body, provenance)
    store.append(record)
    return {**body, "record": record.id}


class _Asker:
    """Windows' figures of an assignment, each asked of the child once."""

    def __init__(self, question: Question, mixing: Mixing, session: Session, watcher: Watcher, expected: int):
        text = mixing.text
        self._request = MixedRequest(
            decoder=question.workload, directory=question.directory,  # type: ignore[arg-type]
            sides=tuple(SideRequest(spec=s.spec, device=question.device) for s in (question.a, *question.b)),
            text=TextRequest(
                path=str(path_of(question, text)), protocol=text.protocol, windows=text.windows, seed=text.seed
            ),
            calibration=calibration_request(question), assignments=(),
        )  # fmt: skip
        self._session, self._watcher, self._expected, self._done = session, watcher, expected, 0
        self._known: dict[Assignment, list[dict[str, float]]] = {}

    def __call__(self, assignment: Assignment) -> list[dict[str, float]]:
        if assignment not in self._known:
            searching = self._done >= self._expected
            text = "trying mixtures" if searching else "each layer alone"
            self._watcher.stage(text, self._done, max(self._expected, self._done + 1))
            messages = list(self._session.ask(_with(self._request, assignment)))
            self._known[assignment] = next(m["windows"] for m in messages if m["kind"] == "assignment")
            self._done += 1
        return self._known[assignment]


def _with(request: MixedRequest, assignment: Assignment) -> MixedRequest:
    import msgspec

    return msgspec.structs.replace(request, assignments=(assignment,))


def _difference(windows: list[dict[str, float]], zero: list[dict[str, float]], mixing: Mixing) -> dict[str, float]:
    found = paired_difference([w["loss"] for w in zero], [w["loss"] for w in windows], mixing.text.tolerance)
    return {"loss": found.mean, "low": found.low, "high": found.high}


def _row(
    layer: int, name: str, number: int, windows: list[dict[str, float]], zero: list[dict[str, float]], mixing: Mixing
) -> dict[str, Any]:
    kl, before = (float(np.mean([w["kl"] for w in x])) for x in (windows, zero))
    return {
        "layer": layer, "format": name, "number": number, "kl": kl, "kl_added": max(kl - before, 0.0),
        **_difference(windows, zero, mixing),
    }  # fmt: skip


def _costs(question: Question, layers: int, aim: Aim) -> list[list[float]]:
    """What each layer adds in each format, over A: predicted seconds of a step at the first batch, or bytes of weights."""
    base = _cost(question, question.a, aim)
    out = []
    for layer in range(layers):
        row = [0.0]
        for number in range(1, len(question.b) + 1):
            single = tuple(number if i == layer else 0 for i in range(layers))
            row.append(_cost(question, side_of_assignment(question, single), aim) - base)
        out.append(row)
    return out


def _cost(question: Question, side: Side, aim: Aim) -> float:
    plan = plan_for(question, side, question.grid[0])
    return float(plan.weight_bytes) if aim == "memory" else float(step_time(plan, question.target).seconds)


def _document(
    question: Question, mixing: Mixing, rows: Sequence[Mapping[str, Any]], costs: list[list[float]],
    losses: list[list[float]], found: Found, seen: Mapping[Assignment, dict[str, float]],
) -> dict[str, Any]:  # fmt: skip
    text = mixing.text
    body: dict[str, Any] = {
        "model": question.model, "a": question.a_text, "formats": list(question.b_texts), "aim": mixing.aim,
        "batch": question.grid[0], "step": str(step_for(question, question.grid[0])), "tolerance": text.tolerance,
        "definition": PROTOCOLS[text.protocol].definition, "text": path_of(question, text).name, "seed": text.seed,
        "calibration": question.calibration and str(question.calibration).rsplit("/", 1)[-1],
        "sensitivity": [dict(r) for r in rows], "costs": costs, "losses": losses,
        "tried": [{"assignment": list(a), **d} for a, d in seen.items()],
        "complete": found.complete, "assignment": None, "side": None,
        "uniform": [dict(u) for u in _uniform(question, mixing.aim)],
    }  # fmt: skip
    if found.assignment is None:
        return body
    side = side_of_assignment(question, found.assignment)
    return {
        **body, "assignment": list(found.assignment), "side": side.spec, **seen[found.assignment],
        "cost": _cost(question, side, mixing.aim),
    }  # fmt: skip


def _uniform(question: Question, aim: Aim) -> Iterator[dict[str, Any]]:
    """What every layer in one format costs: the yardsticks."""
    for text, side in zip((question.a_text, *question.b_texts), (question.a, *question.b), strict=True):
        yield {"side": text, "cost": _cost(question, side, aim)}
