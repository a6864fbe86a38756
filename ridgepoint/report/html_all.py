"""All settled bets as one page that stands alone: the score of each choice, then a line for every bet."""

from collections.abc import Sequence
from statistics import mean

from ridgepoint.report.html import page
from ridgepoint.report.markup import cell, escaped, scrolling_table
from ridgepoint.report.words import percent, points_of, question, verdicts
from ridgepoint.study.document import Answer
from ridgepoint.study.score_row import ScoreRow

__all__ = ["all_html"]


def all_html(answers: Sequence[Answer], rows: Sequence[ScoreRow]) -> str:
    """The page of these answers, oldest first, and of their score by choice. Nothing is requested from anywhere."""
    title = f"{len(answers)} settled bet{'s' if len(answers) != 1 else ''}"
    head = f'<header>\n<p class="kicker">Ridgepoint · all bets</p>\n<h1>{escaped(title)}</h1>\n</header>'
    return page(title, (head, _score(rows), _bets(answers)))


def _score(rows: Sequence[ScoreRow]) -> str:
    names = (
        "bets on",
        "points",
        "sign right, effects beyond 10 %",
        "mean error of step times",
        "inside 80 %",
        "flips right",
    )
    lines = [
        [
            cell(row.group), cell(str(row.n)), cell(f"{row.sign_right} of {row.sign_n}"), cell(percent(row.mape)),
            cell("–" if row.coverage80 is None else percent(row.coverage80)), cell(f"{row.flips_right} of {row.flips_n}"),
        ]
        for row in rows
    ]  # fmt: skip
    return f"<h2>How right they were</h2>\n{scrolling_table('Score by choice', names, lines)}"


def _bets(answers: Sequence[Answer]) -> str:
    lines = [
        [
            cell(answer.created[:10]), cell(question(answer.bet), 1, "reason"), cell(" · ".join(verdicts(answer)), 1, "reason"),
            cell(_error(answer)), cell(answer.id[:12]),
        ]
        for answer in reversed(answers)
    ]  # fmt: skip
    names = ("settled", "question", "verdict", "mean error", "record")
    return f"<h2>The bets, newest first</h2>\n{scrolling_table('Settled bets', names, lines)}"


def _error(answer: Answer) -> str:
    """Mean error of the predicted speed-ups that were measured."""
    errors = [
        abs(p.predicted_speedup / p.measured_speedup - 1)
        for curve in answer.bet.curves
        for p in points_of(answer, curve)
        if p.measured_speedup
    ]
    return percent(mean(errors)) if errors else "–"
