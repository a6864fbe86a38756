"""Whether intervals hold on rows that neither their parameters nor their widths had seen, and whether they are narrow."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ridgepoint.prediction.physics.spread import Z80, spread_sigma
from ridgepoint.study.fitting.classes import FittedCell
from ridgepoint.study.fitting.held_out import FOLDS, fold_of, turn_of
from ridgepoint.study.fitting.widths import fit_spreads
from ridgepoint.study.published.table import Floats, Mask

__all__ = ["Intervals", "unseen_intervals"]


@dataclass(frozen=True)
class Intervals:
    """Of every row of a cell, as logarithms: its error, the half-width of its 80 % interval, and that of a constant band."""

    error: Floats
    half: Floats
    band: Floats
    """One width for each regime of the cell, fitted as ours are: without the row's shape, to hold 80 %."""

    def coverage(self, rows: Mask) -> float:
        """Share of the rows inside."""
        return float((np.abs(self.error[rows]) <= self.half[rows]).mean())

    def band_coverage(self, rows: Mask) -> float:
        """Share of the rows inside the constant band."""
        return float((np.abs(self.error[rows]) <= self.band[rows]).mean())


def unseen_intervals(cells: Sequence[FittedCell]) -> list[Intervals]:
    """Of cells of one operator: each turn's rows get widths fitted to the errors of the other turns.

    A shape has the same turn in every cell. What bounds a row, by which widths differ, is told by the cell's parameters,
    which saw it; no error of it counts.
    """
    times = [cell.kind.seconds(cell.device, cell.parameters, cell.cell[1], cell.table) for cell in cells]
    folds = [_turns(cell) for cell in cells]
    halves = [np.full(len(cell.table), np.nan) for cell in cells]
    for turn in range(FOLDS):
        seen = [np.where(fold == turn, np.nan, c.log_errors) for fold, c in zip(folds, cells, strict=True)]
        for time, spread, fold, half in zip(times, fit_spreads(times, seen), folds, halves, strict=True):
            half[fold == turn] = Z80 * spread_sigma(time, spread)[fold == turn]
    return [
        Intervals(cell.log_errors, half, _bands(cell, fold))
        for cell, half, fold in zip(cells, halves, folds, strict=True)
    ]


def _turns(cell: FittedCell) -> np.ndarray:
    """By shape; of a cell whose shapes all have one turn, shapes or rows take turns among themselves."""
    shapes = cell.kind.shape(cell.table)
    turns = np.array([turn_of(str(x)) for x in shapes])
    return turns if len(set(turns.tolist())) > 1 else fold_of(shapes, FOLDS)


def _bands(cell: FittedCell, fold: np.ndarray) -> Floats:
    regimes, size = cell.kind.regime(cell.table), np.abs(cell.log_errors)
    out = np.full(len(size), np.nan)
    for turn in range(FOLDS):
        for regime in set(map(str, regimes)):
            others = (fold != turn) & np.isfinite(size)
            seen = size[others & (regimes == regime)] if (others & (regimes == regime)).any() else size[others]
            if len(seen):
                out[(fold == turn) & (regimes == regime)] = np.quantile(seen, 0.8)
    return out
