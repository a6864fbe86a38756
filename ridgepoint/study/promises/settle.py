"""Run cases: every bet is stored before the first measurement, then each is measured, scored and stored in its turn."""

import dataclasses
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from msgspec import to_builtins
from msgspec.structs import replace

from ridgepoint.errors import RidgeError
from ridgepoint.store import Provenance, Record, Store, new_record
from ridgepoint.study.document import Answer, Bet, Point, bet_from
from ridgepoint.study.promises.availability import Availability, available
from ridgepoint.study.promises.case import Case, Why
from ridgepoint.study.promises.outcome import Comparison, Outcome, stands
from ridgepoint.study.promises.paper import bet_outcome, paper_outcome
from ridgepoint.study.why import Effort, stored_bet, why

__all__ = ["Ran", "Refused", "Watcher", "run_cases"]


class Watcher(Protocol):
    """What the command line shows meanwhile; the first three are those of `why`."""

    def bet(self, bet: Bet, record: Record) -> None: ...
    def stage(self, text: str, done: int, total: int) -> None: ...
    def point(self, point: Point) -> None: ...
    def case(self, name: str, done: int, total: int) -> None: ...
    def outcome(self, outcome: Outcome) -> None: ...


@dataclass(frozen=True)
class Refused:
    """A case that was not run, and what it needs."""

    case: str
    words: str


@dataclass(frozen=True)
class Ran:
    """What became of the cases; `complete`: False after Ctrl-C."""

    outcomes: tuple[Outcome, ...]
    refused: tuple[Refused, ...]
    complete: bool


@dataclass(frozen=True)
class _Placed:
    case: Case
    found: Availability
    outcome: Outcome


def run_cases(
    cases: Sequence[Case],
    store: Store,
    provenance: Provenance,
    watcher: Watcher,
    effort: Effort,
    available_bytes: float,
) -> Ran:
    """Predict all, then measure those that run here. After Ctrl-C what was measured is kept, and the same command goes on."""
    done: list[Outcome] = []
    refused: list[Refused] = []
    try:
        placed = _placed(cases, store, provenance, watcher, refused)
        for number, each in enumerate(placed):
            watcher.case(each.case.name, number, len(placed))
            outcome = each.outcome
            if each.found.status == "here":
                outcome = _measured(each, store, provenance, watcher, effort, available_bytes)
            if not outcome.complete and not outcome.measured:
                break
            kept = new_record("promise", {"outcome": to_builtins(outcome)}, provenance, outcome.bet, outcome.flags)
            store.append(kept)
            done.append(replace(outcome, created=kept.created))
            watcher.outcome(done[-1])
            if not outcome.complete:
                break
        else:
            return Ran(tuple(done), tuple(refused), True)
    except KeyboardInterrupt:
        pass
    return Ran(tuple(done), tuple(refused), False)


def _placed(
    cases: Sequence[Case], store: Store, provenance: Provenance, watcher: Watcher, refused: list[Refused]
) -> list[_Placed]:
    """Each case that can be, predicted; bets are in the store when this returns."""
    placed, flags = [], dict.fromkeys(provenance.machine.get("flags", ()))
    for number, case in enumerate(cases):
        watcher.stage(f"betting on {case.name}", number, len(cases))
        found = available(case)
        if found.status == "needs":
            refused.append(Refused(case.name, found.words))
            continue
        if isinstance(case, Why) and found.question is not None:
            record, _ = stored_bet(found.question, store, provenance)
            outcome = bet_outcome(case, found.question, bet_from(record.body["bet"]), flags)
            outcome = replace(outcome, bet=record.id)
        else:
            outcome = paper_outcome(case, flags)  # type: ignore[arg-type]
        placed.append(_Placed(case, found, replace(outcome, machine_id=str(provenance.machine.get("machine_id", "")))))
    return placed


def _measured(
    placed: _Placed, store: Store, provenance: Provenance, watcher: Watcher, effort: Effort, available_bytes: float
) -> Outcome:
    assert placed.found.question is not None, "a case that runs here is a bet"
    began = time.perf_counter()
    try:
        answer = why(placed.found.question, store, provenance, watcher, _effort(placed.case, effort), available_bytes)
    except RidgeError as error:  # one case that does not fit must not cost the others
        return replace(placed.outcome, flags=(f"{type(error).__name__}: {error}",))
    return replace(_settled(placed.outcome, answer), seconds=time.perf_counter() - began)


def _effort(case: Case, effort: Effort) -> Effort:
    """Batches of which something is known are measured even if they decide nothing."""
    known = case.known if isinstance(case, Why) else ()
    return dataclasses.replace(effort, also=tuple(k.batch for k in known))


def _settled(outcome: Outcome, answer: Answer) -> Outcome:
    """The outcome with what was measured; batches between those of the grid count for the flip alone."""
    seen = {p.batch: p for p in answer.points}
    points = tuple(_with(p, seen[p.batch]) if p.batch in seen else p for p in outcome.points)
    flip = answer.flip_measured
    assert not isinstance(flip, dict), "a case has one B"
    measured = {"measured": flip} if sum(p.measured is not None for p in points) > 1 else {}
    return replace(
        outcome, points=points, flips={**outcome.flips, **measured}, verdict=answer.verdict, bet=answer.id,
        complete=answer.complete, flags=answer.flags,
    )  # fmt: skip


def _with(point: Comparison, seen: Point) -> Comparison:
    held = None
    if seen.measured_speedup is not None and seen.verdict != "undecided":
        held = stands(point.known, seen.measured_speedup, point.claim)
    return replace(
        point, measured=seen.measured_speedup, measured_low=seen.measured_low, measured_high=seen.measured_high,
        verdict=seen.verdict, stands=held,
    )  # fmt: skip
