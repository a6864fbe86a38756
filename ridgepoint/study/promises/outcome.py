"""The document of a case that was run: each batch with the promise, the roofline, the prediction and what was measured."""

from typing import Any, Literal

import msgspec

from ridgepoint.store import Provenance, Record, Store

__all__ = ["CLEAR", "SHORT", "Comparison", "Outcome", "call_of", "last_outcomes", "outcome_from", "stands"]

CLEAR = 0.10
"""Signs are scored where the measured effect exceeds this; nearer to 1 a side is called flat."""
SHORT = 0.20
"""A speed-up falls short of its promise if it misses it by at least this share."""


class Comparison(msgspec.Struct, frozen=True, kw_only=True):
    """One batch: B's speed-up over A as promised, by the roofline, predicted with its 80 % interval, and measured."""

    batch: int
    claim: float
    roofline: float
    predicted: float
    predicted_low: float
    predicted_high: float
    measured: float | None = None
    measured_low: float | None = None
    measured_high: float | None = None
    verdict: str = ""
    """faster, slower, tie or undecided, of the measurement's interval; "not measured" with the reason in the flags."""
    known: str = ""
    """What the threads and the physics say; "" where that is left to the measurement."""
    stands: bool | None = None
    """Whether what was measured (on paper: what was predicted) is what is known; None where nothing is."""


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """A case as it was run. `flips`: batch by "measured", "predicted" and "roofline", null for none; a promise has none."""

    case: str
    kind: Literal["why", "machines", "fit", "mfu"]
    question: str
    asked: str
    """Model, sides, step and machine, in words."""
    threads: tuple[str, ...]
    on_paper: bool
    paper_only: str
    """Why it was not measured, where no machine here can."""
    claim: str
    """What the promise is a ratio of."""
    points: tuple[Comparison, ...] = ()
    flips: dict[str, float | None] = {}
    flip_known: tuple[float, float] | None = None
    said: dict[str, str] = {}
    """Of cases that are no speed-up: "claim", "predicted", "known", in words."""
    stands: bool | None = None
    """The same as of a point, for those."""
    verdict: str = ""
    bet: str = ""
    """Id of the bet's record."""
    target: str = ""
    machine_id: str = ""
    created: str = ""
    seconds: float = 0.0
    complete: bool = True
    flags: tuple[str, ...] = ()

    @property
    def measured(self) -> tuple[Comparison, ...]:
        """Points with a measurement."""
        return tuple(p for p in self.points if p.measured is not None)


def call_of(speedup: float) -> str:
    """`faster`, `slower`, or `flat` within 10 % of A."""
    return "faster" if speedup > 1 + CLEAR else "slower" if speedup < 1 / (1 + CLEAR) else "flat"


def stands(known: str, speedup: float, claim: float) -> bool | None:
    """Whether a speed-up is what is known; None where nothing is known."""
    if not known:
        return None
    if known == "short":
        return speedup <= (1 - SHORT) * claim
    return call_of(speedup) == known


def outcome_from(body: dict[str, Any]) -> Outcome:
    """A stored outcome back as a noun."""
    return msgspec.convert(body, Outcome)


def last_outcomes(store: Store, provenance: Provenance) -> dict[str, Outcome]:
    """The newest outcome of each case: of this machine those that were measured, of any those on paper."""
    machine = provenance.machine.get("machine_id", "")
    found: dict[str, Outcome] = {}
    for record in store.records(kind="promise"):
        outcome = _dated(record)
        if outcome.on_paper or outcome.machine_id == machine:
            found[outcome.case] = outcome
    return found


def _dated(record: Record) -> Outcome:
    return msgspec.structs.replace(outcome_from(record.body["outcome"]), created=record.created)
