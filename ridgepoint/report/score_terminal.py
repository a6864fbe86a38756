"""The record of all bets on the terminal: a row per group of points, with the roofline's record beside it."""

from collections.abc import Iterable
from typing import Protocol

from rich.console import Group, RenderableType
from rich.text import Text

from ridgepoint.report.grid_terminal import add, grid, line
from ridgepoint.report.words import ABSENT, given, percent, signed

__all__ = ["Score", "score_table"]


class Score(Protocol):
    """One row: counts, and shares as fractions; None where there is nothing to score."""

    @property
    def group(self) -> str: ...
    @property
    def n(self) -> int: ...
    @property
    def sign_right(self) -> int: ...
    @property
    def sign_n(self) -> int: ...
    @property
    def tie_n(self) -> int | None: ...
    @property
    def mape(self) -> float | None: ...
    @property
    def median_ape(self) -> float | None: ...
    @property
    def bias(self) -> float | None: ...
    @property
    def coverage80(self) -> float | None: ...
    @property
    def flips_n(self) -> int: ...
    @property
    def flips_right(self) -> int: ...
    @property
    def roofline_mape(self) -> float | None: ...
    @property
    def roofline_sign(self) -> float | None: ...


def score_table(rows: Iterable[Score]) -> RenderableType:
    """Signs, errors, coverage and flips by group."""
    rows = list(rows)
    if not rows:
        return line("no settled bets yet; `ridge why MODEL A..B` makes one")
    cells = [
        (
            row.group, str(row.n), _of(row.sign_right, row.sign_n), given(row.tie_n, str), given(row.mape, percent),
            given(row.median_ape, percent), signed(row.bias), given(row.coverage80, percent),
            _of(row.flips_right, row.flips_n), given(row.roofline_mape, percent), given(row.roofline_sign, percent),
        )
        for row in rows
    ]  # fmt: skip
    kept = [i for i in range(len(_COLUMNS)) if any(row[i] != ABSENT for row in cells)]
    table = grid(_COLUMNS[i] for i in kept)
    for i, column in zip(kept, table.columns, strict=True):
        column.header = _TALL.get(i, column.header)
    for row in cells:
        add(table, *(row[i] for i in kept))
    note = (
        "sign: faster side named, ties apart; MAPE, median, bias: of the times; "
        "in 80 %: aim 70 to 90 %; flips: within a factor of 1.5, of curves on which each side wins by more than 10 % somewhere"
    )
    return Group(table, line(note, "dim"))


_COLUMNS = ("<group", "n", "sign", "ties", "MAPE", "median", "bias", "in 80 %", "flips", "roofline MAPE", "sign")
_TALL = {7: Text("in\n80 %"), 9: Text("roof\nMAPE"), 10: Text("roof\nsign")}
"""Heads of two lines, so that the names on the left have room at 80 columns."""


def _of(right: int, n: int) -> str:
    return f"{right}/{n}" if n else ABSENT
