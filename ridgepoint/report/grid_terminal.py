"""How every table on the terminal looks: plain text in cells, no markup taken from data, one rule under the head."""

from collections.abc import Iterable

from rich import box
from rich.cells import cell_len
from rich.table import Table
from rich.text import Text

from ridgepoint.report.words import clean

__all__ = ["add", "grid", "heading", "line", "pairs"]

_STYLES = {"WRONG": "bold red", "right": "green", "tie": "dim", "undecided": "yellow", "no": "yellow"}


def grid(columns: Iterable[str]) -> Table:
    """A table; a column whose name starts with `<` is aligned to the left and may fold, others to the right."""
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)
    for column in columns:
        left = column.startswith("<")
        table.add_column(
            Text(clean(column.removeprefix("<"))),
            justify="left" if left else "right",
            overflow="fold",
            no_wrap=not left,
        )
    return table


def add(table: Table, *cells: str, style: str = "") -> None:
    """A row of plain text; words that judge get their colour as well."""
    for column, cell in zip(table.columns, cells, strict=False):
        if column.no_wrap and column.overflow == "fold":  # a figure that is cut is another figure
            column.min_width = max(column.min_width or 0, cell_len(clean(cell)))
    table.add_row(*(Text(clean(cell), style=_STYLES.get(cell, "")) for cell in cells), style=style or None)


def pairs(rows: Iterable[tuple[str, str]]) -> Table:
    """Names on the left, what they are on the right, folded as needed."""
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in rows:
        table.add_row(Text(clean(name), style="dim"), Text(clean(value)))
    return table


def heading(text: str) -> Text:
    """A line that names what follows, after an empty one."""
    return Text.assemble("\n", (clean(text), "bold"))


def line(text: str, style: str = "") -> Text:
    """One plain line, folded at the edge."""
    return Text(clean(text), style=style, overflow="fold")
