"""The same bet on several machines: predicted speed-ups by batch, flips, and what each side waits for on each of them."""

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.rule import Rule
from rich.text import Text

from ridgepoint.report.grid_terminal import add, grid, heading, line
from ridgepoint.report.words import ABSENT, bounds_words, clean, factor, flip_words
from ridgepoint.study.document import Bet

__all__ = ["bets_side_by_side"]


def bets_side_by_side(bets: Sequence[Bet]) -> RenderableType:
    """For each B a table with a row for each machine; then what decides, machine by machine."""
    first = bets[0]
    title = Text.assemble(
        ("predicted", "bold"), f"  {clean(first.model)}, {clean(first.phase)}, against {clean(first.a.text)}"
    )
    parts: list[RenderableType] = [Rule(title, align="left", style="dim")]
    for b in dict.fromkeys(curve.b for bet in bets for curve in bet.curves):
        parts += [heading(f"{b}: speed-up over {first.a.text} with its 80 % interval"), _speedups(bets, b)]
    parts += [heading("waits for"), _bounds(bets)]
    parts.append(
        line(
            "machines that are not at hand: nothing was measured; `ridge validate` has the errors of such predictions",
            "dim",
        )
    )
    return Group(*parts)


def _speedups(bets: Sequence[Bet], b: str) -> RenderableType:
    grid_ = bets[0].grid
    table = grid(("<target", *(f"batch {batch}" for batch in grid_), "<flips"))
    for bet in bets:
        curve = next((c for c in bet.curves if c.b == b), None)
        if curve is None:
            add(table, bet.target, *[ABSENT] * len(grid_), "refused, see below")
            continue
        cells = [
            f"{factor(s)} ({factor(low)}–{factor(high)})"
            for s, low, high in zip(curve.speedup, curve.low, curve.high, strict=True)
        ]
        add(table, bet.target, *cells, flip_words(bet.flips.get(b), curve.batch))
    return table


def _bounds(bets: Sequence[Bet]) -> RenderableType:
    table = grid(("<target", "<side", *(f"<batch {batch}" for batch in sorted({bets[0].grid[0], bets[0].grid[-1]}))))
    for bet in bets:
        for side in (bet.a, *bet.b):
            add(table, bet.target if side is bet.a else "", side.text, *(bounds_words(x) for x in side.bounds.values()))
    return table
