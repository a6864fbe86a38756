"""Accuracy on this CPU of a bet on a machine that is not at hand: the same choices, what the CPU lacks emulated and said so."""

from dataclasses import replace
from typing import Any

from ridgepoint.choice import Side, resolve
from ridgepoint.errors import BadInput, NotSupported
from ridgepoint.measurement.session import Session
from ridgepoint.store import Provenance, Record, Store
from ridgepoint.study.accuracy import Text, accuracy_of, check_accuracy, no_accuracy_reason
from ridgepoint.study.document import Bet
from ridgepoint.study.question import Question
from ridgepoint.study.sufficient import sufficiency
from ridgepoint.workload import forward, stored_of

__all__ = ["accuracy_here", "beside", "check_here", "on_this_cpu"]

_OF_MACHINES = ("launch", "threads", "batch")
"""Axes that change no result."""


def on_this_cpu(question: Question) -> tuple[Question, tuple[str, ...]]:
    """The question with its sides as a CPU carries them out, and what of them is emulated; NotSupported for a choice that has
    no arithmetic on a CPU at all, as nvfp4."""
    emulated: dict[str, None] = {}

    def here(side: Side) -> Side:
        words = []
        for choice in side.choices:
            if choice.AXIS in _OF_MACHINES:
                continue
            spelled = choice.spelled
            if spelled == "fp8":
                emulated["fp8"] = None
                spelled = "fp8:emulated"
            words.append(spelled)
        settled = resolve("+".join(words), question.workload.dtype, "cpu", "", 1, stored_of(question.workload))
        if settled.algorithms:
            raise NotSupported(f"{settled.algorithms[0]} looks at a text: measure its loss without --on")
        return settled

    moved = replace(question, device="cpu", a=here(question.a), b=tuple(here(side) for side in question.b))
    return moved, tuple(emulated)


def check_here(question: Question, text: Text) -> None:
    """Refuse what has no accuracy here, before anything runs."""
    moved, _ = on_this_cpu(question)
    if reason := no_accuracy_reason(moved):
        raise BadInput(f"the loss of {question.model} was asked for and cannot be measured: {reason}")
    for side in (moved.a, *moved.b):
        side.plan(moved.workload, forward(1, 8))
    check_accuracy(moved, text)


def accuracy_here(
    question: Question, bet: Bet, record: Record, text: Text, store: Store, provenance: Provenance, session: Session
) -> dict[str, Any]:
    """`accuracy` and `sufficiency` of the bet, as in an answer, with predicted speeds; stored with the bet."""
    moved, emulated = on_this_cpu(question)
    found = accuracy_of(moved, text, store, provenance, record.id, session)
    return beside(bet, {**found, "emulated": list(emulated)})


def beside(bet: Bet, accuracy: dict[str, Any]) -> dict[str, Any]:
    """The loss that was measured of the bet's sides, and what suffices at the speeds predicted for its target."""
    said = _said(tuple(accuracy["emulated"]))
    note = f"measured on this CPU, on the same weights{said}; speed is that of {bet.target}, predicted"
    accuracy = {**accuracy, "note": note}
    return {"accuracy": accuracy, "sufficiency": sufficiency(bet, (), accuracy)}


def _said(emulated: tuple[str, ...]) -> str:
    return f", {', '.join(emulated)} emulated: its roundings, not its kernels" if emulated else ""
