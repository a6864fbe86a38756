"""The public score of our own errors: every settled bet, by group, beside the roofline's."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from ridgepoint.store import Store
from ridgepoint.study.choosing import side_of
from ridgepoint.study.document import Answer, Point, answer_from

__all__ = ["ScoreRow", "score", "score_answers"]

EFFECT = 0.10
"""Signs are scored where the measured effect exceeds this; smaller ones are reported apart."""
FLIP_FACTOR = 1.5


@dataclass(frozen=True, slots=True)
class ScoreRow:
    """Errors of one group of points. Speed-up errors are |predicted / measured - 1|; coverage is of 80 % intervals."""

    group: str
    n: int
    sign_right: int
    sign_n: int
    tie_n: int
    """Points whose measured effect is below 10 %: their signs are not scored."""
    mape: float
    median_ape: float
    bias: float
    """Median of predicted / measured."""
    step_mape: float
    """Mean error of both sides' step times."""
    coverage80: float
    width: float
    """Median of high/low - 1 of the predicted intervals."""
    flips_n: int
    flips_right: int
    roofline_mape: float
    roofline_sign: float


def score(store: Store, by: str = "b") -> list[ScoreRow]:
    """A row per group and one for all, over the newest answer of each bet in the store."""
    newest: dict[str, Answer] = {}
    for record in store.records(kind="answer"):
        newest[record.study] = answer_from(record.body["answer"])
    return score_answers(newest.values(), by)


def score_answers(answers: Iterable[Answer], by: str = "b") -> list[ScoreRow]:
    """`by`: "b" (the choice), "regime" (bound of the predicted step), "phase", "model" or "batch"."""
    answers = list(answers)
    pairs = [(answer, point) for answer in answers for point in answer.points if point.measured_speedup]
    if not pairs:
        return []
    key = _KEYS[by]
    groups = sorted({key(a, p) for a, p in pairs})
    rows = [_row(g, [(a, p) for a, p in pairs if key(a, p) == g], answers, by, g) for g in groups]
    return [*rows, _row("all", pairs, answers, "", "")]


def _phase(answer: Answer, point: Point) -> str:
    return answer.bet.phase


def _regime(answer: Answer, point: Point) -> str:
    """What bounds side b on paper at the nearer end of the grid."""
    card = next(c for c in answer.bet.b if c.text == point.b)
    nearest = min(card.bounds, key=lambda batch: abs(math.log(int(batch) / point.batch)))
    bounds = card.bounds[nearest]
    return max(bounds, key=lambda k: bounds[k])


_KEYS: dict[str, Callable[[Answer, Point], str]] = {
    "b": lambda a, p: f"{p.a}..{p.b}",
    "regime": _regime,
    "phase": _phase,
    "model": lambda a, p: a.bet.model,
    "batch": lambda a, p: f"batch {p.batch:5d}",
}


def _row(name: str, pairs: list[tuple[Answer, Point]], answers: list[Answer], by: str, group: str) -> ScoreRow:
    points = [p for _, p in pairs]
    measured = np.array([p.measured_speedup or math.nan for p in points])
    predicted = np.array([p.predicted_speedup for p in points])
    low, high = np.array([p.predicted_low for p in points]), np.array([p.predicted_high for p in points])
    roofline = np.array([p.roofline_speedup for p in points])
    clear = np.abs(np.log(measured)) > math.log1p(EFFECT)
    flips = [f for a in answers for f in _flips(a) if by != "b" or any(g == group for g in [f"{a.bet.a.text}..{f[0]}"])]
    apes = np.abs(predicted / measured - 1)
    return ScoreRow(
        group=name, n=len(points), sign_right=int(np.sum(np.sign(np.log(predicted)) == np.sign(np.log(measured)), where=clear)),
        sign_n=int(clear.sum()), tie_n=int((~clear).sum()), mape=float(apes.mean()), median_ape=float(np.median(apes)),
        bias=float(np.median(predicted / measured)), step_mape=_step_mape(points),
        coverage80=float(np.mean((low <= measured) & (measured <= high))), width=float(np.median(high / low - 1)),
        flips_n=len(flips), flips_right=sum(right for _, right in flips),
        roofline_mape=float(np.mean(np.abs(roofline / measured - 1))),
        roofline_sign=float(np.mean(np.sign(np.log(roofline[clear])) == np.sign(np.log(measured[clear])))) if clear.any() else math.nan,
    )  # fmt: skip


def _step_mape(points: list[Point]) -> float:
    errors = [
        abs(predicted / measured - 1)
        for p in points
        for predicted, measured in ((p.predicted_a_s, p.measured_a_s), (p.predicted_b_s, p.measured_b_s))
        if measured
    ]
    return float(np.mean(errors)) if errors else math.nan


def _flips(answer: Answer) -> list[tuple[str, bool]]:
    """(b, right) for each flip that was predicted or measured; missed and invented ones are wrong.

    A flip whose measured ends are not both clear of the tie band by more than the tie is no flip (`side_of`).
    """
    out = []
    for curve in answer.bet.curves:
        foretold = answer.bet.flips[curve.b]
        seen = answer.flip_measured.get(curve.b) if isinstance(answer.flip_measured, dict) else answer.flip_measured
        points = sorted((p for p in answer.points if p.b == curve.b and p.measured_speedup), key=lambda p: p.batch)
        if len(points) < 2 or (foretold is None and seen is None):
            continue
        if foretold is None or seen is None:
            # an invented flip next to an end that measured as a tie is a tie, by the rule fixed beforehand
            ends = (side_of(points[0].measured_speedup or 1), side_of(points[-1].measured_speedup or 1))
            if 0 not in ends:
                out.append((curve.b, False))
            continue
        factor = max(foretold.batch / seen, seen / foretold.batch)
        out.append((curve.b, factor <= FLIP_FACTOR))
    return out
