"""Yardsticks on the same rows: the datasheet roofline, and a roofline with three fitted parameters."""

from collections.abc import Sequence

import numpy as np

from ridgepoint.study.fitting.classes import FittedCell
from ridgepoint.study.fitting.held_out import FOLDS, fold_of
from ridgepoint.study.published.cells import measured_seconds
from ridgepoint.study.published.kind import datasheet_seconds
from ridgepoint.study.published.table import Floats

__all__ = ["fitted_roofline", "roofline"]


def roofline(cell: FittedCell) -> Floats:
    """max(FLOPs / peak, bytes / bandwidth) of each row, both from the datasheet."""
    return _flat(_sides(cell), 1.0, 1.0)


def fitted_roofline(cell: FittedCell) -> Floats:
    """t0 + max(FLOPs / (a peak), bytes / (b bandwidth)): the three fitted with each row's shape left out."""
    sides, measured = _sides(cell), measured_seconds(cell.table)
    fold = fold_of(cell.kind.shape(cell.table), FOLDS)
    out = np.full(len(measured), np.nan)
    for turn in range(FOLDS):
        seen, unseen = fold != turn, fold == turn
        if unseen.any() and seen.any():
            t0, a, b = _fitted(sides, measured, seen)
            out[unseen] = t0 + _flat(sides, a, b)[unseen]
    return out


def _sides(cell: FittedCell) -> tuple[Floats, Floats]:
    return datasheet_seconds(cell.kind, cell.device, cell.parameters, cell.cell[1], cell.table)


def _flat(sides: tuple[Floats, Floats], a: float, b: float) -> Floats:
    return np.maximum(sides[0] / a, sides[1] / b)


def _fitted(sides: tuple[Floats, Floats], measured: Floats, rows: np.ndarray) -> Sequence[float]:
    from scipy.optimize import least_squares

    small = float(np.quantile(measured[rows], 0.05))

    def error(x: Floats) -> Floats:
        t0, a, b = np.exp(x)
        return np.log((t0 + _flat(sides, a, b)[rows]) / measured[rows])

    found = least_squares(error, np.log([small / 2, 0.7, 0.8]), loss="soft_l1", f_scale=0.1, max_nfev=60)
    return [float(v) for v in np.exp(found.x)]
