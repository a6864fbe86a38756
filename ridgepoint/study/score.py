"""The public score of our own errors: every settled bet, by group, beside the roofline's."""

import math
from collections.abc import Callable, Iterable, Sequence

import numpy as np

from ridgepoint.store import Store
from ridgepoint.study.betting import TIE
from ridgepoint.study.document import Answer, Point, answer_from
from ridgepoint.study.score_row import ScoreRow
from ridgepoint.study.score_times import score_operators, score_sides

__all__ = ["BY", "ScoreRow", "score", "score_answers", "settled"]

EFFECT = 0.10
"""Signs are scored where the measured effect exceeds this; smaller ones are reported apart."""
FLIP_FACTOR = 1.5


BY = ("b", "side", "operator", "regime", "phase", "model", "batch")
"""What the score can be grouped by."""


def score(store: Store, by: str = "b") -> list[ScoreRow]:
    """A row per group and one for all, over the newest answer of each bet in the store, by one of `BY`.

    By operator: over the operators of everything that `ridge compare` and `ridge measure` stored.
    """
    if by == "operator":
        return score_operators(r.body for r in store.records(kind="measurement"))
    return score_answers(settled(store), by)


def settled(store: Store, machine: str = "", limit: int | None = None) -> list[Answer]:
    """The newest answer of each bet, in the order in which the bets were first settled.

    `machine`: its id, where only its answers count; `limit`: of the newest records.
    """
    newest: dict[str, Answer] = {}
    for record in store.records(kind="answer", limit=limit):
        if not machine or dict(record.body.get("machine") or {}).get("machine_id", "") == machine:
            newest[record.study] = answer_from(record.body["answer"])
    return list(newest.values())


def score_answers(answers: Iterable[Answer], by: str = "b") -> list[ScoreRow]:
    """`by`: "b" (the choice), "side", "regime" (bound of the predicted step), "phase", "model" or "batch"."""
    answers = list(answers)
    pairs = [(answer, point) for answer in answers for point in answer.points if point.measured_speedup]
    if not pairs:
        return []
    if by == "side":
        return score_sides(p for _, p in pairs)
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
    effect = np.abs(np.log(measured))
    clear, small = effect > math.log1p(EFFECT), (effect > math.log1p(TIE)) & (effect <= math.log1p(EFFECT))
    right = np.sign(np.log(predicted)) == np.sign(np.log(measured))
    flips = [f for a in answers for f in _flips(a) if not group or group in _flip_groups(a, f[0], by)]
    steps = _steps(points)
    return ScoreRow(
        group=name, n=len(points), sign_right=int(right[clear].sum()), sign_n=int(clear.sum()),
        small_right=int(right[small].sum()), small_n=int(small.sum()), tie_n=int((~clear & ~small).sum()),
        mape=float(np.mean(np.abs(steps[:, 0]))), median_ape=float(np.median(np.abs(steps[:, 0]))),
        bias=float(np.median(steps[:, 0])), speedup_mape=float(np.mean(np.abs(predicted / measured - 1))),
        coverage80=float(np.mean((low <= measured) & (measured <= high))), width=float(np.median(high / low - 1)),
        flips_n=sum(clear for _, _, clear in flips), flips_right=sum(ok and clear for _, ok, clear in flips),
        small_flips_n=sum(not clear for _, _, clear in flips),
        small_flips_right=sum(ok and not clear for _, ok, clear in flips), flip_error=_flip_error(answers, group, by),
        roofline_mape=_mean(np.abs(steps[:, 1])),
        roofline_sign=_share(np.sign(np.log(roofline[clear])) == np.sign(np.log(measured[clear]))),
    )  # fmt: skip


def _flip_groups(answer: Answer, b: str, by: str) -> tuple[str, ...]:
    """A flip belongs to a choice, a phase and a model; it has no one batch and no one regime."""
    groups = {"b": f"{answer.bet.a.text}..{b}", "phase": answer.bet.phase, "model": answer.bet.model}
    return (groups[by],) if by in groups else ()


def _mean(errors: "np.ndarray") -> float | None:
    """Over the steps that have one: a target without peaks has no roofline."""
    known = errors[np.isfinite(errors)]
    return float(np.mean(known)) if len(known) else None


def _share(right: "np.ndarray") -> float | None:
    return float(np.mean(right)) if len(right) else None


def _steps(points: list[Point]) -> "np.ndarray":
    """[steps, 2]: signed relative error of our prediction and of the roofline's, for each measured side."""
    rows = []
    for p in points:
        sides = ((p.predicted_a_s, p.roofline_a_s, p.measured_a_s), (p.predicted_b_s, p.roofline_b_s, p.measured_b_s))
        rows += [(ours / m - 1, (roof or math.nan) / m - 1) for ours, roof, m in sides if m]
    return np.array(rows or [(math.nan, math.nan)])


def _flips(answer: Answer) -> list[tuple[str, bool, bool]]:
    """(b, right, clear) for each flip that was predicted or measured; missed and invented ones are wrong.

    An answer that Ctrl-C cut short says nothing of flips.
    """
    out = []
    for curve in answer.bet.curves if answer.complete else ():
        foretold = answer.bet.flips[curve.b]
        seen = _seen(answer, curve.b)
        points = sorted((p for p in answer.points if p.b == curve.b and p.measured_speedup), key=lambda p: p.batch)
        if len(points) < 2 or (foretold is None and seen is None):
            continue
        clear = _clear(curve.speedup) or _clear([p.measured_speedup or 1.0 for p in points])
        right = bool(foretold and seen and max(foretold.batch / seen, seen / foretold.batch) <= FLIP_FACTOR)
        out.append((curve.b, right, clear))
    return out


def _flip_error(answers: list[Answer], group: str, by: str) -> float | None:
    logs = []
    for answer in answers if not group or by in ("b", "phase", "model") else ():
        for curve in answer.bet.curves:
            foretold, seen = answer.bet.flips[curve.b], _seen(answer, curve.b)
            if foretold and seen and (not group or group in _flip_groups(answer, curve.b, by)):
                logs.append(abs(math.log(foretold.batch / seen)))
    return math.exp(float(np.median(logs))) if logs else None


def _seen(answer: Answer, b: str) -> float | None:
    return answer.flip_measured.get(b) if isinstance(answer.flip_measured, dict) else answer.flip_measured


def _clear(speedups: Sequence[float]) -> bool:
    """Whether both sides win by more than EFFECT somewhere."""
    return max(speedups) > 1 + EFFECT and min(speedups) < 1 / (1 + EFFECT)
