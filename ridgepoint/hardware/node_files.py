"""Where nodes, racks and fabrics live: the user's data folder first, then the package."""

from functools import cache
from importlib.resources import files
from pathlib import Path

from ridgepoint.errors import BadInput, UnknownName
from ridgepoint.hardware.catalogue import data_folder
from ridgepoint.hardware.node import Node, decode_node

__all__ = ["load_node", "node_names", "node_of"]


def node_names() -> list[str]:
    """Names of all nodes, racks and fabrics, the user's own included."""
    return sorted({path.stem for path in _paths(str(data_folder()))})


def load_node(name: str) -> Node:
    """The node of that name or alias; UnknownName naming the nearest."""
    nodes = _nodes(str(data_folder()))
    for node in nodes:
        if name == node.name:
            return node
    for node in nodes:
        if name in node.aliases:
            return node
    raise UnknownName("node", name, node_names())


def node_of(device: str) -> Node | None:
    """The largest node or rack that is made of this target; None where the catalogue has none."""
    made = [node for node in _nodes(str(data_folder())) if node.device == device and node.count]
    return max(made, key=lambda node: node.count or 0, default=None)


@cache
def _nodes(home: str) -> tuple[Node, ...]:
    found: dict[str, Node] = {}
    for path in _paths(home):
        try:
            found.setdefault(path.stem, decode_node(path.stem, path.read_bytes()))
        except OSError as error:
            raise BadInput(f"node {path}: cannot be read: {error.strerror}") from None
    return tuple(found.values())


def _paths(home: str) -> list[Path]:
    packaged = Path(str(files("ridgepoint.hardware") / "data" / "node"))
    return [*sorted((Path(home) / "nodes").glob("*.toml")), *sorted(packaged.glob("*.toml"))]
