"""`ridge mix MODEL A..B,C`: how much each layer minds each format, and the cheapest mixture that keeps a tolerance."""

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from ridgepoint.cli import options
from ridgepoint.cli.progress import progress_bar
from ridgepoint.errors import BadInput

__all__ = ["mix"]

By = Annotated[str, typer.Option("--by", help="What is to be least: time (of a step at --batch) or memory.")]
Batch = Annotated[int, typer.Option("--batch", help="Sequences in the step that is to be fast.", min=1)]
Tries = Annotated[int, typer.Option("--tries", help="Mixtures that are measured at most.", min=1, max=10_000)]
Windows = Annotated[int, typer.Option("--windows", help="At most so many windows of the text.", min=8, max=100_000)]


def mix(
    model: options.Model,
    bet: Annotated[str, typer.Argument(help="A..B,C: weight formats, as bf16..int8,int4.", show_default=False)],
    batch: Batch = 1,
    isl: options.Isl = 128,
    by: By = "time",
    tol: options.Tol = "",
    dtype: options.Dtype = "",
    on: options.On = "host",
    text: options.Text = None,
    protocol: options.Protocol = "windows",
    windows: Windows = 64,
    seed: options.Seed = 0,
    calib: options.Calib = None,
    tries: Tries = 40,
    report: options.Report = None,
    as_json: options.Json = False,
) -> int:
    """Which layers need how many bits? Each layer alone in each format, then the cheapest mixture within the tolerance."""
    from ridgepoint.measurement.text import check_text
    from ridgepoint.store import Store, default_path
    from ridgepoint.study.accuracy import TOLERANCE, Text, check_accuracy
    from ridgepoint.study.mix import Mixing, check_mix
    from ridgepoint.study.mix import mix as search
    from ridgepoint.study.provenance import provenance
    from ridgepoint.study.question import ask

    if by not in ("time", "memory"):
        raise BadInput(f"--by is time or memory, not {by[:40]!r}")
    check_text(text, protocol)
    question = ask(
        model, bet, batches=(batch,), isl=isl, common=dtype, on=on, calibration=str(calib or "")
    )  # fmt: skip
    check_mix(question)
    asked = Text(str(text or ""), protocol, windows, seed, options.tolerance(tol) or TOLERANCE)
    check_accuracy(question, asked)
    with Store(default_path()) as store, _Watch(as_json) as watcher:
        found = search(question, Mixing(asked, by, tries), store, provenance(), watcher)  # type: ignore[arg-type]
    _show(found, as_json, report)
    return 0


def _show(found: dict[str, Any], as_json: bool, report: Path | None) -> None:
    if as_json:
        sys.stdout.write(json.dumps(found, indent=1) + "\n")
    else:
        from rich.console import Console

        from ridgepoint.report.mix_terminal import mix_table

        Console().print(mix_table(found))
    if report is not None:
        from ridgepoint.report.html_mix import mix_html

        report.write_text(mix_html(found), encoding="utf-8")
        sys.stderr.write(f"report: {report}\n")


class _Watch:
    """Progress on standard error."""

    def __init__(self, quiet: bool):
        self._quiet, self._progress, self._task = quiet, None, None

    def __enter__(self) -> "_Watch":
        return self

    def __exit__(self, *_: object) -> None:
        if self._progress is not None:
            self._progress.stop()

    def stage(self, text: str, done: int, total: int) -> None:
        if self._quiet:
            return
        if self._progress is None:
            self._progress, self._task = progress_bar()
            self._progress.start()
        self._progress.update(self._task, description=text, completed=done, total=total)
