"""What a sweep gave, on the terminal: held-out errors of each cell, and the files that were written."""

from rich.console import Group, RenderableType

from ridgepoint.report.grid_terminal import add, grid, heading, line, pairs
from ridgepoint.report.words import percent
from ridgepoint.study.calibrate_from import Swept

__all__ = ["swept_table"]


def swept_table(swept: Swept) -> RenderableType:
    """A row for each cell; the error is of shapes that its parameters had not seen."""
    table = grid(("<target", "<operator", "<dtype", "<stack", "rows", "median error, shapes left out"))
    for x in swept.errors:
        add(table, x.target, x.operator, x.dtype, x.stack, str(x.rows), percent(x.median_ape))
    written = pairs((path.parent.name, str(path)) for path in swept.paths)
    return Group(table, heading("written"), written, *(line(f"! {text}", "yellow") for text in swept.skipped))
