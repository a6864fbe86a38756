"""`ridge why MODEL A..B`: the bet, then the measurement, then the verdict."""

import json
import os
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ridgepoint.cli import options
from ridgepoint.cli.progress import progress_bar
from ridgepoint.cli.why_paper import Elsewhere, on_paper, why_on_paper
from ridgepoint.errors import BadInput, NotSupported

if TYPE_CHECKING:
    from ridgepoint.store import Record
    from ridgepoint.study.accuracy import Text
    from ridgepoint.study.document import Answer, Bet, Point

__all__ = ["check_writable", "show", "show_unsettled", "why"]

_ASSERTION = re.compile(r"\s*speedup(?:@(\d{1,7}))?\s*(>=|<=|>|<)\s*(\d+(?:\.\d+)?)\s*")


def why(
    model: options.Model,
    bet: Annotated[str, typer.Argument(help="A..B or A..B,C: for example bf16..int8,int4.", show_default=False)],
    batch: options.Batches = "1,4,16,64",
    isl: options.Isl = 128,
    phase: options.Phase = "decode",
    with_: options.With = "",
    dtype: options.Dtype = "",
    threads: options.Threads = 1,
    device: options.Device = "cpu",
    on: options.On = "host",
    stack: options.Stack = "",
    tp: options.Tp = 1,
    pp: options.Pp = 1,
    ep: options.Ep = 1,
    attention_dp: options.AttentionDp = 1,
    seconds: options.Seconds = 9.0,
    points: options.Points = "few",
    text: options.Text = None,
    protocol: options.Protocol = "windows",
    windows: options.Windows = 200,
    seed: options.Seed = 0,
    tol: options.Tol = "",
    calib: options.Calib = None,
    curve: options.Curve = 0,
    tasks: options.Tasks = "",
    items: options.Items = 200,
    allow_task_code: options.AllowTaskCode = False,
    assert_: options.Assert = "",
    report: options.Report = None,
    as_json: options.Json = False,
    predict_only: options.PredictOnly = False,
) -> int:
    """Will B be faster than A? The prediction is stored before anything runs; then the fewest points are measured."""
    assertion = _assertion(assert_)
    if points not in ("few", "all"):
        raise BadInput(f"--points is few or all, not {points[:40]!r}")
    if predict_only and (assert_ or report):
        raise BadInput("--predict-only measures nothing, so there is nothing to --assert or to --report")
    if predict_only and tasks:
        raise BadInput("--predict-only measures nothing, and accuracy is measured, never predicted: leave --tasks out")
    common = "+".join(x for x in (dtype, with_) if x)
    batches = options.integers("--batch", batch)
    elsewhere = Elsewhere(stack, tp, pp, ep, attention_dp)
    if on_paper(on) or elsewhere != Elsewhere():
        _check_elsewhere(bool(assert_ or report or tasks), bool(calib or curve), predict_only and bool(text or tol))
        loss = _text(text, protocol, windows, seed, options.tolerance(tol)) if text is not None or tol else None
        return why_on_paper(
            model, bet, options.names("--on", on), batches, phase, isl, common, elsewhere, as_json, loss
        )
    settings = _Settings(threads, device, on, seconds, points == "all", predict_only, report, as_json)
    asked = _Accuracy(
        text, protocol, windows, seed, options.tolerance(tol), calib, curve,
        options.names("--tasks", tasks) if tasks else (), items, allow_task_code,
    )  # fmt: skip
    return _measured(model, bet, batches, phase, isl, common, asked, settings, assertion)


def _check_elsewhere(measures: bool, trains: bool, both: bool) -> None:
    """Refuse options that mean nothing for machines that are not at hand."""
    if measures:
        raise BadInput(
            "machines that are not at hand are predicted, not measured: leave --assert, --report and --tasks out"
        )
    if trains or both:
        raise BadInput(
            "of machines that are not at hand no training is run and no codes are chosen: leave --calib and --curve out, "
            "and --text and --tol where --predict-only is said"
        )


def _text(path: Path | None, protocol: str, windows: int, seed: int, tolerance: float | None) -> "Text":
    """On which text accuracy is measured, checked."""
    from ridgepoint.measurement.text import check_text
    from ridgepoint.study.accuracy import TOLERANCE, Text

    check_text(path, protocol)
    return Text(str(path or ""), protocol, windows, seed, tolerance or TOLERANCE)


@dataclass(frozen=True)
class _Settings:
    """How a bet is measured and shown."""

    threads: int
    device: str
    on: str
    seconds: float
    every_point: bool
    predict_only: bool
    report: Path | None
    as_json: bool


@dataclass(frozen=True)
class _Accuracy:
    """On which text and tasks accuracy is measured."""

    path: Path | None
    protocol: str
    windows: int
    seed: int
    tolerance: float | None
    calibration: Path | None
    curve: int
    """Steps of the training runs whose loss is shown; 0: none."""
    tasks: tuple[str, ...]
    items: int
    allow_task_code: bool


def _measured(
    model: str, bet: str, batches: tuple[int, ...], phase: str, isl: int, common: str, asked: _Accuracy, settings: _Settings,
    assertion: tuple[int | None, str, float] | None,
) -> int:  # fmt: skip
    from ridgepoint.measurement.memory import room_bytes
    from ridgepoint.store import Store, default_path
    from ridgepoint.study.accuracy import check_accuracy
    from ridgepoint.study.curve import Fitting, check_curve
    from ridgepoint.study.provenance import provenance
    from ridgepoint.study.question import ask
    from ridgepoint.study.tasks import Tasks, check_tasks
    from ridgepoint.study.why import Effort, misfit_on_paper, stored_bet
    from ridgepoint.study.why import why as settle_question

    text = _text(asked.path, asked.protocol, asked.windows, asked.seed, asked.tolerance)
    tasks = Tasks(asked.tasks, asked.items, asked.seed, asked.allow_task_code)
    question = ask(
        model, bet, batches=batches, phase=phase, isl=isl, common=common, threads=settings.threads,
        device=settings.device, on=settings.on, calibration=str(asked.calibration or ""),
    )  # fmt: skip
    if assertion is not None and assertion[0] not in (None, *question.grid):
        raise BadInput(f"--assert speaks of batch {assertion[0]}; --batch has {', '.join(map(str, question.grid))}")
    if settings.report is not None:
        check_writable(settings.report)
    fitting = Fitting(asked.curve, str(asked.path or ""), asked.seed) if asked.curve else None
    if fitting is not None:
        check_curve(question, fitting)
    else:
        check_accuracy(question, text)
    check_tasks(question, tasks)
    also = (assertion[0],) if assertion is not None and assertion[0] is not None else ()
    effort = Effort(
        seconds=settings.seconds, every_point=settings.every_point, also=also, text=text, fitting=fitting, tasks=tasks
    )
    with Store(default_path()) as store, _Watch(quiet=settings.as_json) as watcher:
        if settings.predict_only:
            show_unsettled(stored_bet(question, store, provenance())[0], [], settings.as_json)
            if misfit := misfit_on_paper(question):
                sys.stderr.write(f"ridge: on paper only: {misfit}\n")
            return 0
        answer = settle_question(question, store, provenance(), watcher, effort, room_bytes(settings.device))
    show(answer, settings.as_json, settings.report)
    return options.INTERRUPTED if not answer.complete else _outcome(answer, assertion)


def _outcome(answer: "Answer", assertion: tuple[int | None, str, float] | None) -> int:
    """The exit code of a complete answer; NotSupported where nothing could be measured."""
    if not any(p.measured_speedup for p in answer.points):
        raise NotSupported(f"no point could be measured; {answer.points[0].flags[0]}")
    return _judge(answer, assertion)


def check_writable(report: Path) -> None:
    """BadInput where the report could not be written in the end; its folder is made."""
    report.parent.mkdir(parents=True, exist_ok=True)
    if report.is_dir() or not os.access(report.parent, os.W_OK):
        raise BadInput(f"--report {report} is not a file that can be written")


def show_unsettled(record: "Record", points: "list[Record]", as_json: bool) -> None:
    """A bet on standard output, with what has been measured of it so far."""
    from ridgepoint.study.document import bet_from

    bet, found = bet_from(record.body["bet"]), [p.body["point"] for p in points]
    if as_json:
        document = {"id": record.id, "created": record.created, "digest": record.digest, "bet": record.body["bet"]}
        sys.stdout.write(json.dumps({**document, "points": found}, indent=1) + "\n")
        return
    from rich.console import Console

    from ridgepoint.report.terminal import bet_panel

    console = Console()
    console.print(bet_panel(bet))
    for p in found:
        said = f"predicted {p['predicted_speedup']:.2f}x, measured {p['measured_speedup']:.2f}x"
        console.print(f"  {p['a']}..{p['b']} batch {p['batch']}: {said}", highlight=False)
    console.print(f"bet {record.id} is not settled; the same `ridge why` command measures the rest", style="dim")


def show(answer: "Answer", as_json: bool, report: Path | None) -> None:
    """An answer on standard output, and as a report in a file."""
    from ridgepoint.study.document import plain

    if as_json:
        sys.stdout.write(json.dumps(plain(answer), indent=1) + "\n")
    else:
        from rich.console import Console

        from ridgepoint.report.terminal import answer_table

        Console().print(answer_table(answer))
    if report is not None:
        from ridgepoint.report.html import answer_html

        report.write_text(answer_html(answer), encoding="utf-8")
        sys.stderr.write(f"report: {report}\n")


def _assertion(text: str) -> tuple[int | None, str, float] | None:
    if not text:
        return None
    match = _ASSERTION.fullmatch(text)
    if match is None:
        raise BadInput(f"--assert takes speedup>1.2, speedup@16>=1 or the like; got {text[:60]!r}")
    return (int(match[1]) if match[1] else None), match[2], float(match[3])


def _judge(answer: "Answer", assertion: tuple[int | None, str, float] | None) -> int:
    """0 if the assertion holds at every measured point it speaks of, else 1 with the first that fails."""
    if assertion is None:
        return 0
    batch, sign, bound = assertion
    points = [p for p in answer.points if batch in (None, p.batch)]
    compare = {">": float.__gt__, "<": float.__lt__, ">=": float.__ge__, "<=": float.__le__}[sign]
    for p in points:
        if p.measured_speedup is None or not compare(float(p.measured_speedup), bound):
            found = "not measured" if p.measured_speedup is None else f"{p.measured_speedup:.2f}"
            sys.stderr.write(f"ridge: asserted speedup{sign}{bound:g}, but {p.b} at batch {p.batch} is {found}\n")
            return 1
    return 0


class _Watch:
    """Progress on standard error; the bet on standard output before the first measurement."""

    def __init__(self, quiet: bool):
        self._quiet = quiet
        self._progress: Any = None
        self._task: Any = None

    def __enter__(self) -> "_Watch":
        return self

    def __exit__(self, *_: object) -> None:
        if self._progress is not None:
            self._progress.stop()

    def bet(self, bet: "Bet", record: "Record | None") -> None:
        if self._quiet:
            return
        from rich.console import Console

        from ridgepoint.report.terminal import bet_panel

        console = Console()
        console.print(bet_panel(bet))
        if record is not None:
            console.print(
                f"bet {record.id} stored, sha256 {record.digest[:16]}…; now measuring", style="dim", highlight=False
            )

    def stage(self, text: str, done: int, total: int) -> None:
        if self._progress is None:
            self._progress, self._task = progress_bar()
            self._progress.start()
        self._progress.update(self._task, description=text, completed=done, total=total)

    def point(self, point: "Point") -> None:
        if self._progress is not None:
            value = "not measured" if point.measured_speedup is None else f"{point.measured_speedup:.2f}x"
            self._progress.console.print(
                f"  {point.a}..{point.b} batch {point.batch}: predicted {point.predicted_speedup:.2f}x, measured {value}",
                highlight=False,
            )
