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
    source: Annotated[bool, typer.Option("--source", help="Print what its figures were read from.")] = False,
    as_json: options.Json = False,
) -> int:
    """The machines that predictions can be made for, and how far each was checked."""
    from rich.console import Console

    from ridgepoint.hardware import load_target
    from ridgepoint.report.terminal import card, datasheet_card, source_list, targets_table
    from ridgepoint.study.targets import target_lines

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
