"""The score of the promises: sign, magnitude and flip of Ridgepoint's bets, of the roofline, and of the promises themselves."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ridgepoint.study.promises.outcome import Comparison, Outcome, call_of

__all__ = ["FLIP_FACTOR", "FORECASTERS", "Row", "flip_right", "score", "sign_right"]

FLIP_FACTOR = 2.0
FORECASTERS = ("predicted", "claim", "roofline")
"""Fields of a `Comparison`: Ridgepoint, the ratio that was promised, the roofline."""


@dataclass(frozen=True, slots=True)
class Row:
    """One forecaster over measured cases. `flat`: measured within 10 % of A, and called so.

    Undecided points, whose interval spans 1, have no sign and are not flat; they count for the magnitude all the same.
    """

    by: str
    points: int
    undecided: int
    sign_right: int
    sign_n: int
    """Of points whose measured effect exceeds 10 %."""
    flat_right: int
    flat_n: int
    magnitude: float | None
    """Mean of |forecast / measured - 1|; None without a point."""
    flips_right: int
    flips_n: int
    """Of cases where a flip was measured, or where this forecaster saw one; right within a factor of 2."""


def score(outcomes: Iterable[Outcome]) -> list[Row]:
    """A row for each forecaster. Only what was measured counts: cases on paper never do."""
    counted = [o for o in outcomes if not o.on_paper and o.measured]
    return [_row(by, counted) for by in FORECASTERS]


def _row(by: str, outcomes: Sequence[Outcome]) -> Row:
    points = [p for o in outcomes for p in o.measured]
    decided = [p for p in points if p.verdict != "undecided"]
    clear = [p for p in decided if call_of(p.measured or 1.0) != "flat"]
    flat = [p for p in decided if call_of(p.measured or 1.0) == "flat"]
    errors = [abs(getattr(p, by) / p.measured - 1) for p in points if p.measured]
    flips = [right for o in outcomes if (right := flip_right(o, by)) is not None]
    return Row(
        by=by, points=len(points), undecided=len(points) - len(decided),
        sign_right=sum(sign_right(p, by) for p in clear), sign_n=len(clear),
        flat_right=sum(call_of(getattr(p, by)) == "flat" for p in flat), flat_n=len(flat),
        magnitude=sum(errors) / len(errors) if errors else None, flips_right=sum(flips), flips_n=len(flips),
    )  # fmt: skip


def sign_right(point: Comparison, by: str) -> bool:
    """Whether the forecast is on the measured side of 1; exactly 1 is on neither."""
    return (math.log(getattr(point, by)) * math.log(point.measured or 1.0)) > 0


def flip_right(outcome: Outcome, by: str) -> bool | None:
    """Within a factor of 2; missed and invented flips are wrong. None where neither the measurement nor `by` has one, or
    the case was cut short."""
    if "measured" not in outcome.flips or not outcome.complete:
        return None
    seen, foretold = outcome.flips["measured"], outcome.flips.get(by)
    if seen is None and foretold is None:
        return None
    return bool(seen and foretold and max(seen / foretold, foretold / seen) <= FLIP_FACTOR)
