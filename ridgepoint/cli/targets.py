"""`ridge targets`: the machines that predictions can be made for."""

import json
import sys
from dataclasses import asdict
from typing import Annotated

import typer

from ridgepoint.cli import options
from ridgepoint.errors import BadInput

__all__ = ["targets"]


def targets(
    name: Annotated[str, typer.Argument(help="Show this target; without it, list all.", show_default=False)] = "",
    nodes: Annotated[bool, typer.Option("--nodes", help="List nodes, racks and fabrics instead.")] = False,
    source: Annotated[bool, typer.Option("--source", help="Print what its figures were read from.")] = False,
    as_json: options.Json = False,
) -> int:
    """The machines that predictions can be made for, and how far each was checked."""
    from rich.console import Console

    from ridgepoint.hardware import load_target, target_names
    from ridgepoint.report.terminal import card, datasheet_card, source_list, targets_table
    from ridgepoint.study.targets import target_lines

    if nodes or (name and name not in target_names() and _is_node(name)):
        return _nodes(name, source, as_json)
    if not name:
        if source:
            raise BadInput("--source is of one target: `ridge targets NAME --source`; without a name all are listed")
        lines = target_lines()
        if as_json:
            sys.stdout.write(json.dumps([asdict(x) for x in lines], indent=1) + "\n")
        else:
            Console().print(targets_table(lines))
        return 0
    target = load_target(name)
    if as_json:
        import msgspec

        sys.stdout.write(json.dumps(msgspec.to_builtins(target), indent=1) + "\n")
    elif source:
        Console().print(source_list(target))
    else:
        Console().print(datasheet_card(target) if target.is_datasheet else card(target))
    return 0


def _is_node(name: str) -> bool:
    from ridgepoint.errors import UnknownName
    from ridgepoint.hardware import load_node

    try:
        load_node(name)
    except UnknownName:
        return False
    return True


def _nodes(name: str, source: bool, as_json: bool) -> int:
    """All nodes, or the one of that name."""
    import msgspec
    from rich.console import Console

    from ridgepoint.hardware import load_node, node_names
    from ridgepoint.report.grid_terminal import pairs
    from ridgepoint.report.nodes_terminal import node_card, nodes_table

    found = [load_node(x) for x in ([name] if name else node_names())]
    if as_json:
        plain = msgspec.to_builtins(found[0] if name else found)
        sys.stdout.write(json.dumps(plain, indent=1) + "\n")
    elif source:
        Console().print(pairs({key: text for node in found for key, text in node.sources.items()}.items()))
    else:
        Console().print(node_card(found[0]) if name else nodes_table(found))
    return 0
