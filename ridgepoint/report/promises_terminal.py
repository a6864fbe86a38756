"""Promises on the terminal: the list of cases, and what a run found beside what was promised."""

from collections.abc import Iterator, Sequence

from rich.console import Group, RenderableType

from ridgepoint.report.grid_terminal import add, grid, heading, line, pairs
from ridgepoint.report.promise_words import SCORE_HEAD, case_score, held_words, last_words, score_cells, show_flip
from ridgepoint.report.words import ABSENT, factor, span
from ridgepoint.study.promises.availability import Availability
from ridgepoint.study.promises.case import Case
from ridgepoint.study.promises.outcome import Comparison, Outcome
from ridgepoint.study.promises.scoring import score
from ridgepoint.study.promises.settle import Ran

__all__ = ["listed", "ran_table"]


def listed(rows: Sequence[tuple[Case, Availability, Outcome | None]]) -> RenderableType:
    """Each case with its question, whether it runs here, and its last result."""
    table = grid(("<case", "<question", "<runs", "<last result"))
    for case, found, last in rows:
        status = "here" if found.status == "here" else "on paper" if found.status == "paper" else found.words
        add(table, case.name, case.question, status, last_words(last), style="dim" if found.status == "needs" else "")
    here = sum(case.seconds for case, found, _ in rows if found.status == "here")
    note = f"ridge promises --run NAME,… bets, measures and scores; all that run here take about {max(1, round(here / 60))} min"
    return Group(table, line(note, "dim"))


def ran_table(ran: Ran) -> RenderableType:
    """What was measured, the score over it, then apart what is on paper only and what was not run."""
    return Group(*_parts(ran))


def _parts(ran: Ran) -> Iterator[RenderableType]:
    measured = [o for o in ran.outcomes if not o.on_paper]
    if measured:
        yield heading("promised and measured")
        yield from _points(measured, True)
        yield heading("score: what was measured, by who said it")
        yield _score(ran.outcomes)
    paper = [o for o in ran.outcomes if o.on_paper]
    if paper:
        yield heading("on paper only: nothing was measured, and nothing of it is in the score")
        yield from _points([o for o in paper if o.points], False)
        yield pairs(row for o in paper if o.said for row in _said(o))
    if ran.refused:
        yield heading("not run")
        yield pairs((refused.case, refused.words) for refused in ran.refused)
    for outcome in measured:
        for flag in outcome.flags if not outcome.measured else ():
            yield line(f"! {outcome.case}: {flag}", "yellow")
    if not ran.complete:
        yield line("interrupted: what was measured is kept, and the same command goes on", "yellow")


def _points(outcomes: Sequence[Outcome], measured: bool) -> Iterator[RenderableType]:
    """A table for each case, below a line that names it."""
    shown = ("measured", "95 %") if measured else ()
    for outcome in outcomes:
        yield line(f"{outcome.case}  {outcome.asked}", "bold" if measured else "")
        table = grid(("batch", "promised", "roof", "predicted", "80 %", *shown, "known, found"))
        for p in outcome.points:
            add(table, *_cells(p, measured))
        yield table
        if any(outcome.flips.values()):
            yield line(f"flips: {_flips(outcome)}", "dim")
        if measured and outcome.measured:
            yield line(f"score: {'; '.join(case_score(row) for row in score([outcome]))}", "dim")


def _cells(p: Comparison, measured: bool) -> tuple[str, ...]:
    seen = (factor(p.measured), span(p.measured_low, p.measured_high)) if measured else ()
    return (
        str(p.batch), factor(p.claim), factor(p.roofline), factor(p.predicted), span(p.predicted_low, p.predicted_high),
        *seen, _known(p),
    )  # fmt: skip


def _known(p: Comparison) -> str:
    if not p.known:
        return ABSENT
    return p.known if p.stands is None else f"{p.known}, {held_words(p.stands)}"


def _flips(outcome: Outcome) -> str:
    known = outcome.flip_known
    words = [f"{by} {show_flip(flip) if flip else 'none'}" for by, flip in sorted(outcome.flips.items())]
    return ", ".join(words) + (f"; known: {known[0]:g} to {known[1]:g}" if known else "")


def _said(outcome: Outcome) -> Iterator[tuple[str, str]]:
    yield outcome.case, f"promised: {outcome.said['claim']}"
    yield "", f"predicted: {outcome.said['predicted']}"
    yield "", f"known: {outcome.said['known']}; found: {held_words(outcome.stands)}"


def _score(outcomes: Sequence[Outcome]) -> RenderableType:
    table = grid(("<" + SCORE_HEAD[0], *SCORE_HEAD[1:]))
    for row in score(outcomes):
        add(table, *score_cells(row))
    return table
