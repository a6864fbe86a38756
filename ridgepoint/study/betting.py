"""The bet: everything that paper can say about a question, stated before the first measurement."""

import math
from collections.abc import Mapping

import msgspec
import numpy as np

from ridgepoint.choice import Side
from ridgepoint.quantity import show_ratio
from ridgepoint.study.break_even import break_evens
from ridgepoint.study.cards import roofs, side_card
from ridgepoint.study.cell import Cell, cell
from ridgepoint.study.document import Bet, Curve, Flip
from ridgepoint.study.modules import not_modelled
from ridgepoint.study.outside import outside_words
from ridgepoint.study.question import Question
from ridgepoint.study.training import training_words

__all__ = ["FLIP_EFFECT", "TIE", "crossing_of", "place_bet", "stated"]

TIE = 0.03
"""Speed-ups within 3 % of 1 are ties, for predictions and measurements alike."""
FLIP_EFFECT = 0.05
"""A flip needs an end on each side of 1 by more than 5 %: nearer ends are as good as ties, and nobody acts on them."""
_DENSE_GRID = 33


def place_bet(question: Question) -> Bet:
    """Predict all sides over the grid; also between its points, where a flip may lie."""
    curves, flips, cards = [], {}, []
    for text, side in zip(question.b_texts, question.b, strict=True):
        cells = {batch: cell(question, side, batch) for batch in question.grid}
        outside = _beside(question, side, text, cells)
        curves.append(_curve(text, cells, outside))
        flips[text] = _flip(question, side, cells)
        cards.append(side_card(question, text, side, {batch: (c.b, c.plan_b) for batch, c in cells.items()}))
    first = {batch: cell(question, question.b[0], batch) for batch in question.grid}
    a_card = side_card(question, question.a_text, question.a, {batch: (c.a, c.plan_a) for batch, c in first.items()})
    return Bet(
        model=question.workload.name, shape=msgspec.to_builtins(question.workload),
        random_weights=not question.directory, phase=question.phase, context=question.context,
        new=question.new, grid=question.grid, device=question.device, target=question.target.name,
        target_date=question.target.date, machine_id=question.target.machine_id, a=a_card, b=tuple(cards),
        curves=tuple(curves), flips=flips, break_even=break_evens(question), tie=TIE, roofs=roofs(question.target),
        flags=not_modelled(question.workload), statement=_statement(question, curves, flips),
    )  # fmt: skip


def _beside(question: Question, side: Side, text: str, cells: Mapping[int, Cell]) -> str:
    """What of the saving is not the choice's own; of training steps what stays, goes and comes."""
    if question.phase == "train":
        ends = sorted({min(cells), max(cells)})
        return ". ".join(training_words(cells[b].a, cells[b].b, question.a_text, text, b) for b in ends)
    return outside_words({batch: (c.a, c.b) for batch, c in cells.items()}, question.a, side, text)


def _curve(text: str, cells: Mapping[int, Cell], outside: str) -> Curve:
    values = list(cells.values())
    return Curve(
        b=text, batch=tuple(cells), speedup=tuple(c.speedup for c in values), low=tuple(c.low for c in values),
        high=tuple(c.high for c in values), a_s=tuple(float(c.a.seconds) for c in values),
        b_s=tuple(float(c.b.seconds) for c in values), roofline=tuple(c.roofline for c in values),
        ceiling=tuple(min(c.ceiling, 1e6) for c in values), outside=outside,
    )  # fmt: skip


def _flip(question: Question, side: Side, cells: Mapping[int, Cell]) -> Flip | None:
    """Where the predicted speed-up crosses 1, by the rule of `crossing_of`; None if it does not."""
    lowest, highest = question.grid[0], question.grid[-1]
    if lowest == highest:
        return None
    batches = sorted({*cells, *(round(x) for x in np.geomspace(lowest, highest, _DENSE_GRID))})
    dense = {batch: cells[batch] if batch in cells else cell(question, side, batch) for batch in batches}
    logs = np.array([math.log(dense[b].speedup) for b in batches])
    crossing = crossing_of(batches, logs)
    if crossing is None:
        return None
    unsure = [b for b in batches if dense[b].low <= 1.0 <= dense[b].high]
    return Flip(batch=crossing, low=float(min([crossing, *unsure])), high=float(max([crossing, *unsure])))


def crossing_of(batches: list[int], logs: "np.ndarray") -> float | None:
    """Batch at which log speed-up crosses 0, interpolated in log batch: the same rule for predictions and measurements.

    The first and the last point that leave 1 by more than FLIP_EFFECT must lie on different sides of it, else there is
    no flip. Of several crossings between those two the last counts.
    """
    decided = [i for i, value in enumerate(logs) if abs(value) > math.log1p(FLIP_EFFECT)]
    if not decided or logs[decided[0]] * logs[decided[-1]] > 0:
        return None
    for i in range(decided[-1], decided[0], -1):
        left, right = float(logs[i - 1]), float(logs[i])
        if left * right < 0 or left == 0.0:
            share = left / (left - right) if left != right else 0.0
            return float(math.exp(math.log(batches[i - 1]) + share * math.log(batches[i] / batches[i - 1])))
    return None


def _statement(question: Question, curves: list[Curve], flips: Mapping[str, Flip | None]) -> str:
    return "; ".join(f"{c.b}: {stated(c, flips[c.b], question.a_text)}" for c in curves)


def stated(curve: Curve, flip: Flip | None, than: str) -> str:
    """What the curve says against `than`, in words: both ends, and the flip."""
    ends = f"{_ratio(curve.speedup[0], than)} at batch {curve.batch[0]}"
    if len(curve.batch) > 1:
        ends += f", {_ratio(curve.speedup[-1], '')} at {curve.batch[-1]}"
    return f"{ends}; " + (f"flips at {flip.batch:.0f}" if flip else "no flip")


def _ratio(speedup: float, than: str) -> str:
    if abs(math.log(speedup)) <= math.log1p(TIE):
        return f"as fast as {than}" if than else "as fast"
    return f"{show_ratio(speedup)} than {than}" if than else show_ratio(speedup)
