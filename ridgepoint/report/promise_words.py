"""Words of a promise that was run, as terminal, page and README say them."""

from collections.abc import Sequence

from ridgepoint.report.words import ABSENT, factor, percent
from ridgepoint.study.promises.outcome import Comparison, Outcome
from ridgepoint.study.promises.scoring import Row

__all__ = [
    "NAMES", "SCORE_HEAD", "case_score", "ends", "flip_words", "held_words", "known_words", "last_words", "markdown_table",
    "score_cells", "show_flip",
]  # fmt: skip

NAMES = {"predicted": "Ridgepoint", "claim": "the promise", "roofline": "roofline"}
SCORE_HEAD = ("said by", "sign right", "flat called flat", "mean error", "flips within 2x")
"""Signs of effects beyond 10 %; points within 10 % of A; errors of the speed-up."""


def ends(points: Sequence[Comparison], field: str) -> str:
    """A value at the first and the last of the points: `"2.33x → 0.46x"`."""
    chosen = [points[0], points[-1]] if len(points) > 1 else list(points)
    values = [factor(getattr(p, field)) for p in chosen]
    return " → ".join(dict.fromkeys(values)) if values else ABSENT


def flip_words(outcome: Outcome, by: str) -> str:
    """`"; flips at 7"`, or nothing."""
    flip = outcome.flips.get(by)
    return f"; flips at {show_flip(flip)}" if flip else ""


def show_flip(flip: float) -> str:
    """`"13"`, `"7.6"`: a flip is known to a few per cent at best."""
    return f"{flip:.0f}" if flip >= 10 else f"{flip:.1f}"


def known_words(outcome: Outcome) -> str:
    """What was known at the first and the last batch of which something is."""
    known = [p for p in outcome.points if p.known]
    words = list(dict.fromkeys(f"{p.known} at {p.batch}" for p in ([known[0], known[-1]] if known else [])))
    return ", ".join(words) if words else ABSENT


def held_words(stands: bool | None) -> str:
    """Whether what is known was found."""
    return ABSENT if stands is None else "yes" if stands else "no"


def last_words(outcome: Outcome | None) -> str:
    """A result in a cell of the list."""
    if outcome is None:
        return ABSENT
    if outcome.said:
        return f"{outcome.said['predicted'].partition(':')[0]}, on paper"
    if outcome.on_paper:
        return f"{ends(outcome.points, 'predicted')} on paper, promised {ends(outcome.points, 'claim')}"
    if not outcome.measured:
        return "not measured"
    return f"{ends(outcome.measured, 'measured')} measured, promised {ends(outcome.measured, 'claim')}"


def score_cells(row: Row) -> tuple[str, ...]:
    """Signs, points that are as fast, mean error, flips."""
    pairs = ((row.sign_right, row.sign_n), (row.flat_right, row.flat_n))
    return (
        NAMES[row.by], *(f"{right} of {n}" for right, n in pairs), percent(row.magnitude),
        f"{row.flips_right} of {row.flips_n}",
    )  # fmt: skip


def case_score(row: Row) -> str:
    """The score of a single case in words: `"Ridgepoint 2 of 2 signs, 8.1 % off"`."""
    signs = f"{row.sign_right} of {row.sign_n} signs, " if row.sign_n else ""
    flat = f"flat {row.flat_right} of {row.flat_n}, " if row.flat_n else ""
    flips = f", flip {'right' if row.flips_right else 'wrong'}" if row.flips_n else ""
    return f"{NAMES[row.by]} {signs}{flat}{percent(row.magnitude)} off{flips}"


def markdown_table(outcomes: Sequence[Outcome], rows: Sequence[Row]) -> str:
    """What was measured, its score, and apart from both what is on paper only; each line a case."""
    measured = [o for o in outcomes if not o.on_paper and o.measured]
    paper = [o for o in outcomes if o.on_paper]
    head = ("question", "run", "batch", "promised", "roofline", "predicted", "measured")
    parts = [_table(head, [_measured_row(o) for o in measured]), _table(SCORE_HEAD, [score_cells(r) for r in rows])]
    if paper:
        told = ("on paper only, not measured", "run", "batch", "promised", "roofline", "predicted", "the thread says")
        parts.append(_table(told, [_paper_row(o) for o in paper]))
    return "\n\n".join(parts)


def _measured_row(outcome: Outcome) -> tuple[str, ...]:
    points, cells = outcome.measured, []
    for field in ("claim", "roofline", "predicted", "measured"):
        cells.append(ends(points, field) + flip_words(outcome, field))
    return (outcome.question, f"`{outcome.asked}`", _batches(points), *cells)


def _paper_row(outcome: Outcome) -> tuple[str, ...]:
    if outcome.said:
        said = outcome.said
        return (outcome.question, f"`{outcome.asked}`", ABSENT, said["claim"], ABSENT, said["predicted"], said["known"])
    cells = [ends(outcome.points, field) for field in ("claim", "roofline", "predicted")]
    return (outcome.question, f"`{outcome.asked}`", _batches(outcome.points), *cells, known_words(outcome))


def _batches(points: Sequence[Comparison]) -> str:
    return " → ".join(str(p.batch) for p in ([points[0], points[-1]] if len(points) > 1 else points))


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
