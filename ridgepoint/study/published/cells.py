"""Cells of a published table: the rows of one machine, dtype, software stack and kernel, which share their parameters."""

from collections.abc import Callable, Mapping

import numpy as np

from ridgepoint.study.published.kind import Kind
from ridgepoint.study.published.table import Floats, Mask, Table, Texts

__all__ = ["Cell", "cells", "left_out", "measured_seconds", "plausible", "readable"]

Cell = tuple[str, str, str, str, str]
"""What has parameters of its own: gpu, dtype, framework, version, variant."""


def measured_seconds(table: Table) -> Floats:
    """The column that every table of operators has, in seconds."""
    return table.number("latency_us") * 1e-6


def cells(kind: Kind, table: Table, dtypes: Callable[[Texts], Texts]) -> Mapping[Cell, Table]:
    """Usable rows by cell, in the order of their first rows; `dtypes` spells dtypes as this package does."""
    table = table.take(kind.usable(table) & plausible(kind, table))
    columns = (
        table.text("gpu"), dtypes(table.text("dtype")), table.text("framework"), table.text("version"),
        kind.variant(table),
    )  # fmt: skip
    rows: dict[Cell, list[int]] = {}
    for i, key in enumerate(zip(*(map(str, column) for column in columns), strict=True)):
        rows.setdefault(key, []).append(i)  # type: ignore[arg-type]
    return {key: table.take(index) for key, index in rows.items()}


_WORDS = ("op", "distribution", "dtype")
_MAY_BE_NONE = ("prefill_chunk", "kv_prefill", "n_decode", "kv_decode", "window")
_LARGEST = 1e12


_OPTIONAL = ("batch", "window", "devices_per_node", "power_w")
"""Columns that hold numbers where a table has them."""


def readable(kind: Kind, table: Table) -> tuple[Table, list[str]]:
    """The rows whose cells are numbers where numbers are read, and a line about each column that has others."""
    good = np.full(len(table), True)
    said = []
    for name in (*kind.columns, *(x for x in _OPTIONAL if table.has(x) and x not in kind.columns)):
        if name not in _WORDS:
            bad = np.array([not _is_number(cell) for cell in table.text(name)], dtype=np.bool_)
            if bad.any():
                first = int(np.flatnonzero(bad)[0])
                more = f", and {int(bad.sum()) - 1} more like it" if bad.sum() > 1 else ""
                said.append(
                    f"line {table.lines[first]}: {name} is {str(table.text(name)[first])[:40]!r}{more}; possible is a number"
                )
            good &= ~bad
    return (table.take(good) if said else table), said


def _is_number(cell: str) -> bool:
    try:
        float(cell.strip() or "nan")
    except ValueError:
        return False
    return True


def left_out(kind: Kind, table: Table) -> list[str]:
    """What of a table of numbers is not scored, and why: a line each for sizes that are none and for flagged rows."""
    sound, usable = plausible(kind, table), kind.usable(table)
    why = (
        (~sound, "a size or a time that is none: below 1, not finite, or above 1e12"),
        (sound & ~usable, "a flag as suspect, an operator without a time model, or values known as wrong"),
    )
    return [
        f"line {table.lines[bad][0]}: {reason}"
        + (f", and {int(bad.sum()) - 1} more rows like it" if bad.sum() > 1 else "")
        for bad, reason in why
        if bad.any()
    ]


def plausible(kind: Kind, table: Table) -> Mask:
    """Rows whose sizes and time are finite, at least 1 (or 0 where nothing is possible; a time above 0) and no more than
    1e12; BadInput naming the line of a cell that is no number."""
    good = np.ones(len(table), dtype=np.bool_)
    for name in kind.columns:
        if name not in _WORDS:
            values = table.number(name)
            least = 0.0 if name in _MAY_BE_NONE else 1e-9 if name == "latency_us" else 1.0
            good &= np.isfinite(values) & (values >= least) & (values <= _LARGEST)
    return good
