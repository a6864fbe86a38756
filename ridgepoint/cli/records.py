"""`ridge score`, `ridge report`, `ridge export`, `ridge import`: what the store holds."""

import json
import math
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from ridgepoint.cli import options
from ridgepoint.errors import BadInput

__all__ = ["export", "import_", "report", "score"]


def score(
    by: Annotated[
        str, typer.Option("--by", help="b (the choice), side, operator, regime, phase, model or batch.")
    ] = "b",
    as_json: options.Json = False,
) -> int:
    """The record of all bets: signs, flips, errors, and how often the intervals held."""
    from ridgepoint.store import Store, default_path
    from ridgepoint.study.score import BY
    from ridgepoint.study.score import score as score_store

    if by not in BY:
        raise BadInput(f"--by is {', '.join(BY[:-1])} or {BY[-1]}, not {by[:40]!r}")
    with Store(default_path()) as store:
        rows = score_store(store, by)
    if as_json:
        sys.stdout.write(json.dumps([{k: _finite(v) for k, v in asdict(row).items()} for row in rows], indent=1) + "\n")
        return 0
    if not rows:
        bet = "no settled bet yet; `ridge why MODEL A..B` places and settles one\n"
        sys.stdout.write("no operator compared yet; `ridge compare MODEL` does\n" if by == "operator" else bet)
        return 0
    from rich.console import Console

    from ridgepoint.report.terminal import score_table

    Console().print(score_table(rows))
    return 0


def _finite(value: object) -> object:
    return None if isinstance(value, float) and math.isnan(value) else value


def report(
    record: Annotated[
        str, typer.Argument(help="Id of a bet, or its beginning; default: the newest.", show_default=False)
    ] = "",
    html: Annotated[Path | None, typer.Option("--html", help="Write the report to this file.")] = None,
    all_: Annotated[
        bool, typer.Option("--all", help="A page of all settled bets with their score; needs --html.")
    ] = False,
    as_json: options.Json = False,
) -> int:
    """Show a bet or a batch curve again: a settled one exactly as it was, an open one with what was measured so far."""
    if all_:
        return _report_all(record, html, as_json)
    from ridgepoint.cli.batch import show_batch
    from ridgepoint.cli.why import show, show_unsettled
    from ridgepoint.store import Store, default_path
    from ridgepoint.study.document import answer_from

    with Store(default_path()) as store:
        if record and store.holds(record, "batch-bet"):
            return show_batch(store, record, as_json, html)
        bet = store.get(record, kind="bet") if record else None
        answers = store.records(kind="answer", study=bet.id if bet else "", limit=1)
        points = store.records(kind="point", study=bet.id) if bet and not answers else []
    if answers:
        show(answer_from(answers[-1].body["answer"]), as_json, html)
    elif bet is None:
        raise BadInput("no settled bet in the store; `ridge why MODEL A..B` places and settles one")
    elif html is not None:
        raise BadInput(f"bet {bet.id} is not settled; the same `ridge why` command settles it, then there is a report")
    else:
        show_unsettled(bet, points, as_json)
    return 0


def _report_all(record: str, html: Path | None, as_json: bool) -> int:
    if record or as_json or html is None:
        raise BadInput("--all writes one page of all bets: give --html FILE with it, and no id and no --json")
    from ridgepoint.report.html_all import all_html
    from ridgepoint.store import Store, default_path
    from ridgepoint.study.score import score_answers, settled

    with Store(default_path()) as store:
        answers = settled(store)
    if not answers:
        raise BadInput("no settled bet in the store; `ridge why MODEL A..B` places and settles one")
    html.write_text(all_html(answers, score_answers(answers)), encoding="utf-8")
    sys.stderr.write(f"report of {len(answers)} bets: {html}\n")
    return 0


def export(
    path: Annotated[
        Path | None, typer.Argument(help="File to write; default: standard output.", show_default=False)
    ] = None,
) -> int:
    """All records as JSON lines."""
    from ridgepoint.store import Store, default_path, export_lines

    with Store(default_path()) as store:
        if path is None:
            export_lines(store, sys.stdout)
        else:
            with path.open("w", encoding="utf-8") as stream:
                count = export_lines(store, stream)
            sys.stderr.write(f"{count} records written to {path}\n")
    return 0


def import_(path: Annotated[Path, typer.Argument(help="A file that `ridge export` wrote.")]) -> int:
    """Add the records of a file to the store; those it has already are skipped."""
    from ridgepoint.store import Store, default_path, import_lines

    if not path.is_file():
        raise BadInput(f"no file {path}; `ridge export FILE` writes one")
    with Store(default_path()) as store, path.open("rb") as stream:
        done = import_lines(store, stream)
    sys.stderr.write(f"{done.added} records added, {done.skipped} were here already\n")
    return 0
