"""Predictions of rows that a fit did not see: whole shapes are left out together, in turns."""

import zlib
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from ridgepoint.prediction.physics.device import Device
from ridgepoint.prediction.physics.parameters import Parameters
from ridgepoint.study.fitting.robust import fit_parameters
from ridgepoint.study.published.kind import Kind
from ridgepoint.study.published.table import Floats, Table, Texts

__all__ = ["Cell", "cells", "fit_rows", "fold_of", "measured_seconds", "out_of_sample"]

Cell = tuple[str, str, str, str, str]
"""What has parameters of its own: gpu, dtype, framework, version, variant."""


def measured_seconds(table: Table) -> Floats:
    """The column that every table of operators has, in seconds."""
    return table.number("latency_us") * 1e-6


def cells(kind: Kind, table: Table, dtypes: Callable[[Texts], Texts]) -> Mapping[Cell, Table]:
    """Usable rows by cell, in the order of their first rows; `dtypes` spells dtypes as this package does."""
    table = table.take(kind.usable(table))
    columns = (
        table.text("gpu"), dtypes(table.text("dtype")), table.text("framework"), table.text("version"),
        kind.variant(table),
    )  # fmt: skip
    rows: dict[Cell, list[int]] = {}
    for i, key in enumerate(zip(*(map(str, column) for column in columns), strict=True)):
        rows.setdefault(key, []).append(i)  # type: ignore[arg-type]
    return {key: table.take(index) for key, index in rows.items()}


def fold_of(shapes: Texts, folds: int) -> npt.NDArray[np.int64]:
    """In which turn each shape is left out: by a checksum of its name, so that the same shape is always out together."""
    return np.array([zlib.crc32(str(shape).encode()) % folds for shape in shapes], dtype=np.int64)


def fit_rows(
    kind: Kind, device: Device, dtype: str, table: Table, prior: Parameters | None = None, pull: float = 0.0,
    evaluations: int = 60,
) -> Parameters:  # fmt: skip
    """Parameters of the kind's time model fitted to these rows."""
    return fit_parameters(
        kind.model, lambda p: np.asarray(kind.seconds(device, p, dtype, table).seconds), measured_seconds(table),
        prior=prior, pull=pull, fixed=kind.fixed(dtype), evaluations=evaluations,
    )  # fmt: skip


def out_of_sample(
    kind: Kind, device: Device, dtype: str, table: Table, folds: int = 4, prior: Sequence[Parameters] = (),
    pull: float = 0.0, evaluations: int = 60,
) -> Floats:  # fmt: skip
    """Predicted seconds of each row by parameters fitted without any row of its shape (leave-shape-out).

    `prior`: one for each turn, fitted without the shapes that are left out in it.
    """
    fold = fold_of(kind.shape(table), folds)
    out = np.full(len(table), np.nan)
    for turn in range(folds):
        seen, unseen = fold != turn, fold == turn
        if unseen.any() and seen.any():
            drawn = prior[turn] if prior else None
            p = fit_rows(kind, device, dtype, table.take(seen), drawn, pull, evaluations)
            out[unseen] = kind.seconds(device, p, dtype, table.take(unseen)).seconds
    return out
