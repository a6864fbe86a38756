"""Whether a case can be run with this version on this machine: here, on paper only, or what it needs."""

import re
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Literal

from ridgepoint.choice import parse_bet, parse_choices
from ridgepoint.engine.runs import check_runs
from ridgepoint.errors import NotSupported, RidgeError, UnknownName
from ridgepoint.prediction import step_time
from ridgepoint.study.promises.case import Case, Why
from ridgepoint.study.promises.paper import on_paper, paper_outcome, question_of
from ridgepoint.study.question import PHASES, Question, plan_for

__all__ = ["Availability", "available"]


@dataclass(frozen=True)
class Availability:
    """`here`: it is measured; `paper`: predicted only; `needs`: neither, with the words of what is missing."""

    status: Literal["here", "paper", "needs"]
    words: str
    question: Question | None = None
    """Of a bet."""


def available(case: Case) -> Availability:
    """What becomes of the case; nothing is run and nothing stored. BadInput for a case whose model or machine is misspelt."""
    try:
        question = _question(case)
    except UnknownName as error:
        if error.what == "model" or (error.what == "target" and error.name != "host"):
            raise
        return Availability("needs", _missing(case, error))
    except RidgeError as error:
        return Availability("needs", _calibration(error) or str(error))
    if on_paper(case):
        return Availability("paper", f"on paper only: {case.run.paper_only or f'{case.run.on} is not here'}", question)  # type: ignore[union-attr]
    if find_spec("torch") is None:
        return Availability("needs", "needs torch: pip install 'ridgepoint[metal]'", question)
    return Availability("here", "runs here", question)


def _missing(case: Case, error: UnknownName) -> str:
    """The choices that this version does not have, or the calibration that this machine lacks."""
    if isinstance(case, Why) and error.what == "choice":
        a, sides = parse_bet(case.run.bet)
        words = [word for side in (a, *sides, case.run.with_) for word in side.split("+") if word]
        return f"needs the choice {', '.join(word for word in words if not _is_known(word))}"
    return _calibration(error) or str(error)


def _calibration(error: RidgeError) -> str:
    command = re.search(r"`(ridge calibrate[^`]*)`", str(error))
    return f"needs a calibration: {command[1]}" if command else ""


def _is_known(word: str) -> bool:
    try:
        parse_choices(word)
    except UnknownName:
        return False
    except RidgeError:  # a choice that is known and takes no such option
        return True
    return True


def _question(case: Case) -> Question | None:
    """The bet as it would be placed, or None of a case that is none; refuses what cannot be."""
    if not isinstance(case, Why):
        paper_outcome(case, {})
        return None
    if case.run.phase not in PHASES:
        raise NotSupported(f"needs a bet on steps of phase {case.run.phase}")
    question = question_of(case)
    if not on_paper(case):
        check_runs(question.workload)
    for batch in question.grid:
        for side in (question.a, *question.b):
            step_time(plan_for(question, side, batch), question.target)
    return question
