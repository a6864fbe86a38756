"""The words and figures that terminal and page share, so that both say the same of one answer."""

import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ridgepoint.quantity import show_time
from ridgepoint.study.document import Answer, Bet, Curve, Flip, Point, SideCard

__all__ = [
    "ABSENT", "Tally", "absent_reason", "batches", "bounds_words", "clean", "error_of", "factor",
    "flip_words", "given", "inside", "measured_flip", "percent", "points_of",
    "question", "short", "side_named", "sign_of", "signed", "span", "tally", "times", "verdicts",
]  # fmt: skip

ABSENT = "–"
NOT_RUN = "not needed, the measured points decide"
INTERRUPTED = "interrupted before it"
_CEILING_LIMIT = 1e5


def clean(text: object) -> str:
    """Text that is safe to show: no control, bidirectional or unpaired characters."""
    return "".join(
        c if unicodedata.category(c) not in ("Cc", "Cf", "Cs", "Co", "Zl", "Zp") else "\ufffd" for c in str(text)
    )


def short(text: str, limit: int) -> str:
    """The text, or its beginning and an ellipsis."""
    return text if len(text) <= limit else text[: limit - 1] + "…"


def factor(value: float | None) -> str:
    """`factor(3.104) == "3.10x"`; an absent value is a dash."""
    if value is None:
        return ABSENT
    if value >= _CEILING_LIMIT:
        return "none"
    return (
        f"{value:.0f}x"
        if value >= 100
        else f"{value:.1f}x"
        if value >= 10
        else f"{value:.2f}x"
        if value >= 0.1
        else f"{value:.3f}x"
    )


def span(low: float | None, high: float | None) -> str:
    """An interval without its unit: `"2.71–3.52"`."""
    if low is None or high is None:
        return ABSENT
    return f"{factor(low).rstrip('x')}–{factor(high).rstrip('x')}"


def signed(share: float | None) -> str:
    """`signed(-0.052) == "-5.2 %"`: one decimal below 10 %."""
    if share is None:
        return ABSENT
    value = 100 * share
    return f"{value:+.0f} %" if abs(value) >= 9.95 else f"{value:+.1f} %"


def percent(share: float | None) -> str:
    """`percent(0.814) == "81 %"`."""
    if share is None:
        return ABSENT
    return f"{100 * share:.0f} %" if share >= 0.0995 or share == 0 else f"{100 * share:.1f} %"


def given(value: float | None, show: Any) -> str:
    """`show(value)`, or a dash where it is absent."""
    return ABSENT if value is None else show(value)


def batches(grid: Sequence[int]) -> str:
    """`"batch 1, 4, 16, 64"`."""
    return "batch " + ", ".join(str(b) for b in grid)


def question(bet: Bet) -> str:
    """The question that the bet answers, in one sentence."""
    sides = [clean(side.text) for side in bet.b]
    names = sides[0] if len(sides) == 1 else f"{', '.join(sides[:-1])} or {sides[-1]}"
    ends = f"batch {bet.grid[0]}" if len(bet.grid) == 1 else f"batch {bet.grid[0]} to {bet.grid[-1]}"
    return f"Is {names} faster than {clean(bet.a.text)} on {clean(bet.model)}, {ends}?"


def side_named(bet: Bet, name: str) -> SideCard | None:
    """The B that a curve or point names, as typed or in full."""
    return next((side for side in bet.b if name in (side.text, side.spec)), None)


def points_of(answer: Answer, curve: Curve) -> tuple[Point, ...]:
    """A point for each batch of the curve, in order; those that were not run carry the prediction and the reason."""
    known = {p.batch: p for p in answer.points if p.b == curve.b}
    why = NOT_RUN if answer.complete else INTERRUPTED
    unknown = {batch: _not_run(answer.bet, curve, i, why) for i, batch in enumerate(curve.batch) if batch not in known}
    return tuple(point for _, point in sorted({**known, **unknown}.items()))


def _not_run(bet: Bet, curve: Curve, i: int, why: str) -> Point:
    return Point(
        a=bet.a.text, b=curve.b, batch=curve.batch[i], predicted_speedup=curve.speedup[i], predicted_low=curve.low[i],
        predicted_high=curve.high[i], measured_speedup=None, measured_low=None, measured_high=None,
        verdict="not measured",
        predicted_a_s=curve.a_s[i], predicted_b_s=curve.b_s[i], measured_a_s=None, measured_b_s=None,
        roofline_speedup=curve.roofline[i], flags=(why,),
    )  # fmt: skip


def absent_reason(point: Point) -> str:
    """Why a point was not measured."""
    return "; ".join(clean(flag) for flag in point.flags) or clean(point.verdict) or "not measured"


def error_of(point: Point) -> float | None:
    """predicted / measured - 1, or None."""
    return point.predicted_speedup / point.measured_speedup - 1 if point.measured_speedup else None


def inside(point: Point) -> bool | None:
    """Whether the measurement fell into the predicted interval."""
    if point.measured_speedup is None:
        return None
    return point.predicted_low <= point.measured_speedup <= point.predicted_high


def sign_of(point: Point, speedup: float, tie: float) -> str:
    """Whether `speedup` names the faster side: "right" or "WRONG"; "tie" or "undecided" if no side is."""
    if point.measured_speedup is None:
        return ABSENT
    if point.verdict == "undecided":
        return "undecided"
    if point.verdict == "tie" or 1 / (1 + tie) <= point.measured_speedup <= 1 + tie:
        return "tie"
    return "right" if (speedup > 1) == (point.measured_speedup > 1) else "WRONG"


@dataclass(frozen=True, slots=True)
class Tally:
    """The prediction's record over some points, and the roofline's over the same; None where nothing was measured."""

    points: int
    measured: int
    signs: int
    """Points that are neither ties nor undecided."""
    right: int
    roofline_right: int
    inside: int
    error: float | None
    """Mean absolute error of the speed-up."""
    roofline_error: float | None


def tally(points: Sequence[Point], tie: float) -> Tally:
    """The record over these points."""
    known = [p for p in points if p.measured_speedup]
    ours = [sign_of(p, p.predicted_speedup, tie) for p in known]
    theirs = [sign_of(p, p.roofline_speedup, tie) for p in known]
    return Tally(
        points=len(points), measured=len(known), signs=sum(s in ("right", "WRONG") for s in ours),
        right=ours.count("right"),
        roofline_right=theirs.count("right"), inside=sum(bool(inside(p)) for p in known),
        error=_mean(abs(p.predicted_speedup / p.measured_speedup - 1) for p in known if p.measured_speedup),
        roofline_error=_mean(abs(p.roofline_speedup / p.measured_speedup - 1) for p in known if p.measured_speedup),
    )  # fmt: skip


def _mean(values: Iterable[float]) -> float | None:
    numbers = list(values)
    return sum(numbers) / len(numbers) if numbers else None


def measured_flip(answer: Answer, b: str) -> float | None:
    """The batch of the measured flip of one B."""
    value = answer.flip_measured
    return value.get(b) if isinstance(value, dict) else value


def flip_words(flip: Flip | None, grid: Sequence[int], known: bool = True) -> str:
    """`"batch 12 (9–18)"`, or that there is none; not `known` where an interrupted bet cannot tell."""
    if flip is None and not known:
        return "unknown, interrupted"
    if flip is None:
        return "none" if len(grid) < 2 else f"none from {grid[0]} to {grid[-1]}"
    ends = "" if flip.low >= flip.batch >= flip.high else f" ({flip.low:.0f}–{flip.high:.0f})"
    return f"batch {flip.batch:.0f}{ends}"


def bounds_words(bounds: Mapping[str, float], most: int = 2) -> str:
    """What a side waits for: `"memory 81 %, compute 12 %"`, largest first."""
    top = sorted(bounds.items(), key=lambda item: (-item[1], item[0]))[:most]
    return ", ".join(f"{clean(name)} {percent(share)}" for name, share in top if share >= 0.05) or ABSENT


def verdicts(answer: Answer) -> tuple[str, ...]:
    """The verdict, a line per B."""
    return tuple(clean(line) for line in answer.verdict.splitlines() if line.strip())


def times(*seconds: float | None) -> tuple[str, ...]:
    """Times for a table; dashes where absent."""
    return tuple(given(s, show_time) for s in seconds)
