"""Errors of predicted times alone: of the steps of each side, and of the operators of each kernel."""

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from ridgepoint.study.document import Point
from ridgepoint.study.score_row import ScoreRow

__all__ = ["score_operators", "score_sides"]


def score_sides(points: Iterable[Point]) -> list[ScoreRow]:
    """A row per side and one for all: errors of its step times, beside the roofline's. Steps have no sign and no flip."""
    steps: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for p in points:
        for text, ours, roofline, measured in (
            (p.a, p.predicted_a_s, p.roofline_a_s, p.measured_a_s),
            (p.b, p.predicted_b_s, p.roofline_b_s, p.measured_b_s),
        ):
            if measured:
                steps[text].append((ours / measured - 1, (roofline or math.nan) / measured - 1))
    rows = [_row(side, np.array(found)[:, 0], np.array(found)[:, 1]) for side, found in sorted(steps.items())]
    every = np.array([pair for found in steps.values() for pair in found])
    return [*rows, _row("all", every[:, 0], every[:, 1])] if len(every) else []


def score_operators(bodies: Iterable[Mapping[str, Any]]) -> list[ScoreRow]:
    """A row per kernel of linear layers and attention and per kind of all others: errors of their times in a step.

    `bodies`: records of measurements with their predictions; those without one count nothing.
    """
    found: dict[str, list[tuple[float, bool, float]]] = defaultdict(list)
    for body in bodies:
        theirs = {row["name"]: row for row in body.get("result", {}).get("ops", ())}
        for row in body.get("predicted", {}).get("ops", ()):
            other = theirs.get(row["name"])
            if other and other["time_s"] > 0 and row["low_s"] > 0:
                inside = row["low_s"] <= other["time_s"] <= row["high_s"]
                found[_class(row)].append(
                    (row["time_s"] / other["time_s"] - 1, inside, row["high_s"] / row["low_s"] - 1)
                )
    rows = [_operator_row(name, values) for name, values in sorted(found.items())]
    every = [value for values in found.values() for value in values]
    return [*rows, _operator_row("all", every)] if every else []


def _class(row: Mapping[str, Any]) -> str:
    return f"{row['kind']} {row['kernel']}" if row["kind"] in ("linear", "attention") else str(row["kind"])


def _operator_row(name: str, values: Sequence[tuple[float, bool, float]]) -> ScoreRow:
    errors, inside, width = (np.array(x, float) for x in zip(*values, strict=True))
    return _row(name, errors, np.full(1, math.nan), float(np.mean(inside)), float(np.median(width)))


def _row(
    name: str, errors: "np.ndarray", roofline: "np.ndarray", coverage: float | None = None, width: float | None = None
) -> ScoreRow:
    known = roofline[np.isfinite(roofline)]
    return ScoreRow(
        group=name, n=len(errors), sign_right=0, sign_n=0, small_right=0, small_n=0, tie_n=None,
        mape=float(np.mean(np.abs(errors))), median_ape=float(np.median(np.abs(errors))), bias=float(np.median(errors)),
        speedup_mape=None, coverage80=coverage, width=width, flips_n=0, flips_right=0, small_flips_n=0,
        small_flips_right=0, flip_error=None, roofline_mape=float(np.mean(np.abs(known))) if len(known) else None,
        roofline_sign=None,
    )  # fmt: skip
