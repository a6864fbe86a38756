"""`ridge promises`: the questions that fill issue trackers, as cases that are bet on, measured and scored."""

import json
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ridgepoint.cli import options
from ridgepoint.cli.why import progress_bar
from ridgepoint.errors import BadInput

if TYPE_CHECKING:
    from ridgepoint.store import Provenance, Record, Store
    from ridgepoint.study.document import Bet, Point
    from ridgepoint.study.promises.availability import Availability
    from ridgepoint.study.promises.case import Case
    from ridgepoint.study.promises.outcome import Outcome
    from ridgepoint.study.promises.settle import Ran

__all__ = ["promises"]

Run = Annotated[str, typer.Option("--run", help="Bet on, measure and score these cases: names by commas, or all.")]
Cases = Annotated[
    list[Path] | None, typer.Option("--cases", help="A folder with more cases; may be given several times.")
]
Keep = Annotated[
    Path | None, typer.Option("--keep", help="Write the results as JSON to this file (without --run: the last ones).")
]


def promises(
    run: Run = "",
    cases: Cases = None,
    seconds: options.Seconds = 3.0,
    report: options.Report = None,
    keep: Keep = None,
    as_json: options.Json = False,
) -> int:
    """Why is it no faster? Questions from issue trackers: what was promised, predicted and measured, on this machine."""
    from ridgepoint.store import Store, default_path
    from ridgepoint.study.promises.case import cases_named, read_cases
    from ridgepoint.study.provenance import provenance

    known = read_cases(cases or ())
    chosen = cases_named(run, known) if run else list(known.values())
    for option, path in (("--report", report), ("--keep", keep)):
        _check_writable(option, path)
    with Store(default_path()) as store:
        if not run:
            return _listed(chosen, store, provenance(), report, keep, as_json)
        ran = _run(chosen, store, provenance(), seconds, quiet=as_json)
    if as_json:
        sys.stdout.write(json.dumps(_document(ran, provenance()), indent=1) + "\n")
    else:
        from rich.console import Console

        from ridgepoint.report.promises_terminal import ran_table

        Console().print(ran_table(ran))
    _write(ran, provenance(), report, keep)
    return 0 if ran.complete else options.INTERRUPTED


def _check_writable(option: str, path: Path | None) -> None:
    if path is not None and (path.is_dir() or not path.parent.is_dir() or not os.access(path.parent, os.W_OK)):
        raise BadInput(f"{option} {path} is not a file that can be written")


def _run(chosen: "list[Case]", store: "Store", made: "Provenance", seconds: float, quiet: bool) -> "Ran":
    from ridgepoint.measurement.memory import room_bytes
    from ridgepoint.study.promises.settle import run_cases
    from ridgepoint.study.why import Effort

    with _Watch(quiet) as watcher:
        return run_cases(chosen, store, made, watcher, Effort(seconds=seconds), room_bytes())


def _listed(
    chosen: "Sequence[Case]", store: "Store", made: "Provenance", report: Path | None, keep: Path | None, as_json: bool
) -> int:
    """The cases with their last results; those are what a report or a record holds."""
    from ridgepoint.study.promises.availability import available
    from ridgepoint.study.promises.outcome import last_outcomes
    from ridgepoint.study.promises.settle import Ran, Refused

    last = last_outcomes(store, made)
    rows = [(case, available(case), last.get(case.name)) for case in chosen]
    done = tuple(outcome for _, _, outcome in rows if outcome is not None)
    needs = tuple(
        Refused(case.name, found.words) for case, found, outcome in rows if outcome is None and found.status == "needs"
    )
    if as_json:
        sys.stdout.write(json.dumps([_row(*row) for row in rows], indent=1) + "\n")
    else:
        from rich.console import Console

        from ridgepoint.report.promises_terminal import listed

        Console().print(listed(rows))
    if (report or keep) and not done:
        raise BadInput("no case was run on this machine yet, so there is nothing to write; add --run all")
    _write(Ran(done, needs, True), made, report, keep)
    return 0


def _row(case: "Case", found: "Availability", last: "Outcome | None") -> dict[str, Any]:
    import msgspec

    return {
        "name": case.name, "question": case.question, "promise": case.promise, "holds": case.holds, "status": found.status,
        "words": found.words, "seconds": case.seconds, "threads": msgspec.to_builtins(case.thread),
        "last": msgspec.to_builtins(last),
    }  # fmt: skip


def _document(ran: "Ran", made: "Provenance") -> dict[str, Any]:
    """Machine, versions, outcomes and their score: what the README's table is made of."""
    import msgspec

    from ridgepoint.study.promises.scoring import score

    return {
        "machine": dict(made.machine), "versions": dict(made.versions), "complete": ran.complete,
        "outcomes": [msgspec.to_builtins(o) for o in ran.outcomes], "score": [asdict(row) for row in score(ran.outcomes)],
        "by_case": {o.case: [asdict(row) for row in score([o])] for o in ran.outcomes if o.measured},
        "refused": [asdict(refused) for refused in ran.refused],
    }  # fmt: skip


def _write(ran: "Ran", made: "Provenance", report: Path | None, keep: Path | None) -> None:
    if keep is not None:
        keep.write_text(json.dumps(_document(ran, made), indent=1) + "\n", encoding="utf-8")
        sys.stderr.write(f"record: {keep}\n")
    if report is not None:
        from ridgepoint.report.html_promises import promises_html

        report.write_text(promises_html(ran), encoding="utf-8")
        sys.stderr.write(f"report: {report}\n")


class _Watch:
    """Progress on standard error, a line for each point above it."""

    def __init__(self, quiet: bool):
        self._quiet, self._progress, self._task = quiet, None, None
        self._name, self._done, self._total = "", 0, 1

    def __enter__(self) -> "_Watch":
        return self

    def __exit__(self, *_: object) -> None:
        if self._progress is not None:
            self._progress.stop()

    def bet(self, bet: "Bet", record: "Record") -> None:
        """Printed with its result."""

    def case(self, name: str, done: int, total: int) -> None:
        self._name, self._done, self._total = name, done, total
        self._show(name, done, total)

    def stage(self, text: str, done: int, total: int) -> None:
        if not self._name:
            self._show(text, done, total)
            return
        share = min(done / total, 1.0) if total else 0.0
        self._show(f"{self._name}: {text}", self._done + share, self._total)

    def point(self, point: "Point") -> None:
        if self._progress is not None:
            value = "not measured" if point.measured_speedup is None else f"{point.measured_speedup:.2f}x"
            said = (
                f"{point.a}..{point.b} batch {point.batch}: predicted {point.predicted_speedup:.2f}x, measured {value}"
            )
            self._progress.console.print(f"  {self._name}: {said}", highlight=False)

    def outcome(self, outcome: "Outcome") -> None:
        """Shown in the table at the end."""

    def _show(self, text: str, done: float, total: int) -> None:
        if self._quiet:
            return
        if self._progress is None:
            self._progress, self._task = progress_bar()  # type: ignore[assignment]
            self._progress.start()  # type: ignore[attr-defined]
        self._progress.update(self._task, description=text, completed=done, total=total)  # type: ignore[attr-defined]
