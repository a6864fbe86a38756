"""What suffices, on the terminal: loss, size and speed of each side, those that no other side beats marked."""

from collections.abc import Mapping
from typing import Any

from rich.console import RenderableType

from ridgepoint.quantity import show_bytes
from ridgepoint.report.grid_terminal import add, grid, heading, line
from ridgepoint.report.words import factor

__all__ = ["sufficient_parts"]

_MOST_BATCHES, _WIDEST_SIDE = 3, 14


def sufficient_parts(found: Mapping[str, Any], reference: str) -> list[RenderableType]:
    """The table with its heading; [] where accuracy was not measured."""
    if not found:
        return []
    batches = list(found["sides"][0]["speed"])
    shown = batches if len(batches) <= _MOST_BATCHES else [batches[0], batches[len(batches) // 2], batches[-1]]
    table = grid(("<side", "loss", "95 %", "suffices", "weights", *(f"x at {b}" for b in shown)))
    table.columns[0].min_width = min(_WIDEST_SIDE, max(len(row["side"]) for row in found["sides"]))
    for row in found["sides"]:
        ends = f"{row['low']:+.4f}…{row['high']:+.4f}" if row["side"] != reference else ""
        speeds = [_speed(row["speed"][b]) for b in shown]
        add(table, row["side"], f"{row['loss']:+.4f}", ends, row["suffices"], show_bytes(row["weight_bytes"]), *speeds)
    return [
        heading(f"what suffices within {found['tolerance']:.3g} nats per token of {reference}"),
        table,
        line("*: no other side loses no more, is as fast and as small; ~: predicted, not measured", "dim"),
        line(found["statement"], "bold"),
    ]


def _speed(speed: Mapping[str, Any]) -> str:
    return ("" if speed["measured"] else "~") + factor(speed["speedup"]) + ("*" if speed["frontier"] else " ")
