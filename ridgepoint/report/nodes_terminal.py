"""The list of nodes, racks and fabrics on the terminal, and one with all its figures, each with its scope and source."""

from collections.abc import Callable, Sequence

from rich.console import Group, RenderableType
from rich.rule import Rule
from rich.text import Text

from ridgepoint.hardware import NODE_FIGURES, Node
from ridgepoint.quantity import show, show_time
from ridgepoint.report.grid_terminal import add, grid, heading, line, pairs
from ridgepoint.report.targets_terminal import figures_table
from ridgepoint.report.words import ABSENT, clean, given

__all__ = ["node_card", "nodes_table"]

_SHOWN: dict[str, Callable[[float], str]] = {
    "switch_latency_s": show_time, "power_w": lambda v: show(v, "W"),
}  # fmt: skip


def nodes_table(nodes: Sequence[Node]) -> RenderableType:
    """One row for each: what it is made of, and how it is joined inside and to others."""
    table = grid(("<name", "<kind", "<devices", "links", "to other nodes", "<topology"))
    for node in nodes:
        ports = node.figure("nic_bytes_per_s") or node.figure("port_bytes_per_s")
        add(
            table, node.name, node.kind, f"{node.count} x {node.device}" if node.device else ABSENT,
            given(node.figure("link_bytes_per_s"), _rate), given(ports, _rate), node.topology or ABSENT,
        )  # fmt: skip
    return Group(table, line("bytes a second of one device (of a fabric: of one port), one direction", "dim"))


def node_card(node: Node) -> RenderableType:
    """Every figure with its scope and the key of its source; what no source states is shown as absent."""
    made = f"{node.count} x {node.device}" if node.device else "no devices of its own"
    sums = {True: "yes", False: "no", None: ABSENT}[node.in_switch_reduction]
    title = Text.assemble((clean(node.name), "bold"), f"  {clean(node.kind)}, {clean(made)}")
    return Group(
        Rule(title, align="left", style="dim"),
        pairs([
            ("read", node.date), ("also called", ", ".join(node.aliases) or ABSENT), ("topology", node.topology or ABSENT),
            ("sums in the switch", sums), *((fact.name, f"{fact.text}  [{fact.source}]") for fact in node.facts),
        ]),
        heading("figures"), figures_table(NODE_FIGURES, node.figures, _SHOWN, _rate),
        heading("sources"), pairs(node.sources.items()),
    )  # fmt: skip


def _rate(value: float) -> str:
    return show(value, "B/s")
