"""Predictions of rows that a fit did not see: whole shapes are left out together, in turns."""

import zlib
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from ridgepoint.prediction.physics.device import Device
from ridgepoint.prediction.physics.parameters import Parameters
from ridgepoint.study.fitting.robust import fit_parameters, robust_cost
from ridgepoint.study.published.cells import measured_seconds
from ridgepoint.study.published.kind import Kind
from ridgepoint.study.published.table import Floats, Table, Texts

__all__ = ["FOLDS", "fit_rows", "fold_of", "out_of_sample", "turn_of"]

FOLDS = 4
"""Turns in which rows are left out."""


def turn_of(shape: str, folds: int = FOLDS) -> int:
    """In which turn a shape is left out wherever it occurs; some turns may have none."""
    return zlib.crc32(shape.encode()) % folds


def fold_of(shapes: Texts, folds: int) -> npt.NDArray[np.int64]:
    """In which turn each row is left out: shapes in the order of a checksum of their names take turns, so that every turn
    has some and the same shape is always out together. Of a single shape, rows take turns."""
    names = sorted(set(map(str, shapes)), key=lambda name: (zlib.crc32(name.encode()), name))
    if len(names) == 1:
        return np.arange(len(shapes)) % folds
    turn = {name: i % folds for i, name in enumerate(names)}
    return np.array([turn[str(shape)] for shape in shapes], dtype=np.int64)


def fit_rows(
    kind: Kind, device: Device, dtype: str, table: Table, prior: Parameters | None = None, pull: float = 0.0,
    evaluations: int = 60,
) -> Parameters:  # fmt: skip
    """Parameters of the kind's time model fitted to these rows.

    The search begins at `prior`, and once more where the model does, since either may end in a hollow of its own; the
    better of the two is kept.
    """
    measured = measured_seconds(table)

    def seconds(p: Parameters) -> Floats:
        return np.asarray(kind.seconds(device, p, dtype, table).seconds)

    found = [
        fit_parameters(
            kind.model, seconds, measured, start=start, prior=prior, pull=pull, fixed=kind.fixed(dtype),
            evaluations=evaluations,
        )
        for start in dict.fromkeys((prior or kind.model(), kind.model()))
    ]  # fmt: skip
    return min(found, key=lambda p: robust_cost(seconds(p), measured))


def out_of_sample(
    kind: Kind, device: Device, dtype: str, table: Table, folds: int = FOLDS, prior: Sequence[Parameters] = (),
    pull: float = 0.0, evaluations: int = 60, fold: npt.NDArray[np.int64] | None = None,
) -> Floats:  # fmt: skip
    """Predicted seconds of each row by parameters fitted without any row of its fold (leave-shape-out: `fold_of`).

    `prior`: one for each turn, fitted without the rows that are left out in it. NaN where nothing else is left to fit.
    """
    fold = fold_of(kind.shape(table), folds) if fold is None else fold
    out = np.full(len(table), np.nan)
    for turn in sorted(set(fold.tolist())):
        seen, unseen = fold != turn, fold == turn
        if unseen.any() and seen.any():
            drawn = prior[turn] if prior else None
            p = fit_rows(kind, device, dtype, table.take(seen), drawn, pull, evaluations)
            out[unseen] = kind.seconds(device, p, dtype, table.take(unseen)).seconds
    return out
