"""Nodes, clusters and fabrics: which devices they join, and what a device's links carry."""

from typing import Literal

import msgspec

from ridgepoint.errors import BadInput
from ridgepoint.hardware.figure import Fact, Figure

__all__ = ["NODE_FIGURES", "NODE_SCHEMA", "Node", "decode_node"]

NODE_SCHEMA = 1

NODE_FIGURES: dict[str, str] = {
    "link_bytes_per_s": "of all links of one device inside the node together, one direction",
    "switch_bytes_per_s": "through all switches of the node together, one direction",
    "nic_bytes_per_s": "of all network ports that one device can use to reach other nodes, one direction",
    "port_bytes_per_s": "of one port of a fabric, one direction",
    "switch_latency_s": "of one switch of a fabric, port to port",
    "power_w": "of the whole node or rack, the most",
}


class Node(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`count` like devices and what joins them; a fabric (InfiniBand, RoCE) has no devices of its own."""

    schema: int
    name: str
    kind: Literal["node", "rack", "fabric"]
    date: str
    aliases: tuple[str, ...] = ()
    device: str = ""
    """Name of the target that stands `count` times in it; "" for a fabric."""
    count: int | None = None
    topology: Literal["", "nvswitch", "mesh", "ring", "bridge", "pcie", "torus", "switched"] = ""
    in_switch_reduction: bool | None = None
    """Whether the switches add up what passes them (NVLS, SHARP); None where no source says."""
    figures: tuple[Figure, ...] = ()
    facts: tuple[Fact, ...] = ()
    sources: dict[str, str] = {}

    def figure(self, name: str) -> float | None:
        """A figure by its name in `NODE_FIGURES`; None where it is absent."""
        return next((figure.value for figure in self.figures if figure.name == name), None)


def decode_node(name: str, text: bytes) -> Node:
    """A node from TOML; malformed files raise BadInput naming the field."""
    try:
        node = msgspec.toml.decode(text, type=Node)
    except (msgspec.DecodeError, RecursionError, ValueError) as error:
        raise BadInput(f"node {name}: {error}") from None
    if node.schema != NODE_SCHEMA:
        raise BadInput(f"node {name}: schema {node.schema}; this version reads {NODE_SCHEMA}")
    for figure in node.figures:
        if figure.name not in NODE_FIGURES or not 0 < figure.value < 1e24:
            known = ", ".join(NODE_FIGURES)
            raise BadInput(f"node {name}: figure {figure.name[:40]} = {figure.value}; possible: {known}, positive")
    used = [*(x.source for x in node.figures), *(x.source for x in node.facts)]
    unknown = set(used) - set(node.sources)
    if unknown:
        raise BadInput(f"node {name}: source {min(unknown)!r} is used but not listed under [sources]")
    return node
