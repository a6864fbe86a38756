"""`ridge validate`: score predictions against measurements in CSV files."""

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from ridgepoint.cli import options
from ridgepoint.errors import BadInput

__all__ = ["validate"]


def validate(
    files: Annotated[list[Path], typer.Argument(help="CSV files of measurements.", show_default=False)],
    as_json: options.Json = False,
    max_median: Annotated[
        str, typer.Option("--max-median", help="Exit 1 if a group's median error is larger: 0.1 or 10%.")
    ] = "",
    plot: Annotated[
        Path | None, typer.Option("--plot", help="Write predicted against measured to this HTML file.")
    ] = None,
    launch_floor: Annotated[
        str, typer.Option("--launch-floor", help="The stack's launch time: 24us, or `file`: from its quickest rows.")
    ] = "",
    regimes: Annotated[bool, typer.Option("--regimes/--no-regimes", help="A line for each regime too.")] = True,
) -> int:
    """How wrong predictions from datasheets are, on measurements of yours or published ones; nothing is fitted."""
    bound = _bound(max_median)
    from rich.console import Console

    from ridgepoint.study.launch_floor import parse_launch_floor
    from ridgepoint.study.validate import above, document
    from ridgepoint.study.validate import validate as score

    floor = parse_launch_floor(launch_floor)
    if plot is not None and not plot.parent.is_dir():
        raise BadInput(f"--plot {plot}: there is no folder {plot.parent}")
    with Console(stderr=True).status("reading") as status:
        validation = score(files, lambda name: status.update(f"scoring {name}"), floor)
    if as_json:
        sys.stdout.write(json.dumps(document(validation), indent=1) + "\n")
    else:
        from ridgepoint.report.validate_terminal import validation_table

        Console().print(validation_table(validation, regimes))
    if plot is not None:
        from ridgepoint.report.html_validate import validation_html

        plot.write_text(validation_html(validation), encoding="utf-8")
        sys.stderr.write(f"plot: {plot}\n")
    failed = above(validation, bound) if bound is not None else []
    for line in failed:
        where = " ".join(x for x in (line.file, line.gpu, line.dtype, line.framework, line.version) if x)
        sys.stderr.write(f"ridge: median error {line.median_ape:.1%} of {where} is above {bound:.1%}\n")
    return 1 if failed else 0


def _bound(text: str) -> float | None:
    if not text:
        return None
    try:
        value = float(text.removesuffix("%")) / (100.0 if text.endswith("%") else 1.0)
    except ValueError:
        value = -1.0
    if not 0 < value < 100:
        raise BadInput(f"--max-median is {text[:40]!r}; possible is a positive error, as 0.1 or 10%")
    return value
