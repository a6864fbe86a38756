"""Cells of a published table: the rows of one machine, dtype, software stack and kernel, which share their parameters."""

from collections.abc import Callable, Mapping

from ridgepoint.study.published.kind import Kind
from ridgepoint.study.published.table import Floats, Table, Texts

__all__ = ["Cell", "cells", "measured_seconds"]

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
