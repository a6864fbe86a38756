"""`ridge mix` on the terminal: a bar for each layer in each format, and the mixture."""

from collections.abc import Mapping
from typing import Any

from rich.console import Group, RenderableType

from ridgepoint.report.grid_terminal import add, grid, heading, line
from ridgepoint.report.mix_words import mix_lines

__all__ = ["mix_table"]

_BAR = 16


def mix_table(found: Mapping[str, Any]) -> RenderableType:
    """Sensitivities by layer, then the sentences of the verdict."""
    names = found["formats"]
    rows = {(r["layer"], r["format"]): r for r in found["sensitivity"]}
    most = max((r["kl_added"] for r in rows.values()), default=0.0) or 1.0
    chosen = found["assignment"]
    table = grid(("layer", *(word for name in names for word in (f"<{name}", "KL")), "<in the mixture"))
    for layer in range(1 + max(r["layer"] for r in rows.values())):
        cells = []
        for name in names:
            kl = rows[layer, name]["kl_added"]
            cells += ["█" * max(1 if kl > 0 else 0, round(_BAR * kl / most)), f"{kl:.2g}"]
        add(table, str(layer), *cells, "" if chosen is None else [found["a"], *names][chosen[layer]])
    head = f"{found['model']}: each layer alone, KL added to that of {found['a']} (nats per token)"
    lines = [line(text, "bold" if i == 0 else "") for i, text in enumerate(mix_lines(found))]
    note = f"{found['definition']}; {found['text']}, seed {found['seed']}"
    return Group(heading(head), table, line(""), *lines, line(note, "dim"))
