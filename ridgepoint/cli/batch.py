"""`ridge batch MODEL`: throughput and latency by batch, the knee, the memory wall and what an SLO leaves."""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ridgepoint.cli import options
from ridgepoint.cli.progress import progress_bar
from ridgepoint.cli.why_paper import on_paper
from ridgepoint.errors import BadInput, NotSupported

if TYPE_CHECKING:
    from ridgepoint.store import Record, Store
    from ridgepoint.study.batch.document import BatchAnswer, BatchBet, BatchPoint
    from ridgepoint.study.batch.loss import LossRate

__all__ = ["batch", "show_batch"]

Slo = Annotated[str, typer.Option("--slo", help="A step to keep: tpot=40ms (decode) or latency=2s (any phase).")]
Grid = Annotated[
    str, typer.Option("--grid", help="Batches, as 1,2,4,8; default: powers of two up to where memory or time ends.")
]
Report = Annotated[Path | None, typer.Option("--report", help="Write the curve as a page to this HTML file.")]
PredictOnly = Annotated[bool, typer.Option("--predict-only", help="Store the prediction and stop: measure nothing.")]
LossSeconds = Annotated[
    float,
    typer.Option(
        "--loss-seconds", help="--step train: train so long at each measured batch; what a second is worth.", min=0.0
    ),
]
Points = Annotated[str, typer.Option("--points", help="few: at most a third of the grid; all: every batch of it.")]


def batch(
    model: options.Model,
    with_: options.With = "",
    dtype: options.Dtype = "",
    isl: options.Isl = 128,
    phase: options.Phase = "decode",
    slo: Slo = "",
    grid: Grid = "",
    threads: options.Threads = 1,
    device: options.Device = "cpu",
    on: options.On = "host",
    seconds: options.Seconds = 9.0,
    points: Points = "few",
    loss_seconds: LossSeconds = 0.0,
    text: options.Text = None,
    report: Report = None,
    as_json: options.Json = False,
    predict_only: PredictOnly = False,
) -> int:
    """Which batch? The curve is predicted and stored; then a third of it is measured, where that decides."""
    from ridgepoint.study.batch.loss import LossRate
    from ridgepoint.study.batch.question import ask_batch, slo_of
    from ridgepoint.study.question import target_for
    from ridgepoint.study.units import unit_of

    if text is not None and not loss_seconds:
        raise BadInput("--text is what --loss-seconds trains on; name both, or neither")
    if points not in ("few", "all"):
        raise BadInput(f"--points is few or all, not {points[:40]!r}")
    batches = options.integers("--grid", grid) if grid else ()
    slo_of(slo, phase, unit_of(model))  # before a module is traced or a target is read
    common = "+".join(x for x in (dtype, with_) if x)
    paper = on_paper(on)
    if (paper or predict_only) and loss_seconds:
        raise BadInput("nothing is trained on paper or with --predict-only; leave --loss-seconds out")
    if (paper or predict_only) and report:
        raise BadInput("nothing is measured on paper or with --predict-only, so there is nothing to --report")

    def asked(target: str, room: float | None) -> Any:
        return ask_batch(model, common, phase=phase, isl=isl, grid=batches, slo=slo, on=target, device=device,
                         threads=threads, room_bytes=room)  # fmt: skip

    if paper:
        return _on_paper(asked, options.names("--on", on), as_json)
    target_for(on, device)
    loss = LossRate(loss_seconds, str(text or "")) if loss_seconds else None
    return _measured(model, asked, on, device, seconds, points == "all", predict_only, report, as_json, loss)


def _measured(
    model: str, asked: Any, on: str, device: str, seconds: float, every_point: bool, predict_only: bool,
    report: Path | None, as_json: bool, loss: "LossRate | None",
) -> int:  # fmt: skip
    from ridgepoint.cli.why import check_writable
    from ridgepoint.measurement.memory import room_bytes
    from ridgepoint.store import Store, default_path
    from ridgepoint.study.batch.loss import check_loss
    from ridgepoint.study.batch.run import BatchEffort, batch_curve, stored_batch_bet
    from ridgepoint.study.provenance import provenance

    room = room_bytes(device)
    question = asked(on, room)
    if loss is not None:
        check_loss(question, model, loss)
    if report is not None:
        check_writable(report)
    with Store(default_path()) as store, _Watch(quiet=as_json) as watcher:
        if predict_only:
            record, bet = stored_batch_bet(question, store, provenance())
            _show_bet(record, bet, as_json)
            return 0
        effort = BatchEffort(seconds=seconds, every_point=every_point, loss=loss)
        answer = batch_curve(question, store, provenance(), watcher, effort, room)
    _show(answer, as_json, report)
    if not answer.complete:
        return options.INTERRUPTED
    if answer.error is None:
        raise NotSupported(f"no batch could be measured; {answer.points[0].flags[0]}")
    return 0


def _on_paper(asked: Any, targets: tuple[str, ...], as_json: bool) -> int:
    """The same question of every target; nothing is measured. A target that refuses is named, the others are shown."""
    from ridgepoint.errors import RidgeError, UnknownName
    from ridgepoint.store import Store, default_path
    from ridgepoint.study.batch.run import stored_batch_bet
    from ridgepoint.study.provenance import provenance

    found, said = [], []
    with Store(default_path()) as store:
        for target in targets:
            try:
                found.append(stored_batch_bet(asked(target, None), store, provenance()))
            except UnknownName:
                raise
            except RidgeError as error:
                if len(targets) == 1:
                    raise
                said.append(options.of_target(target, error))
    if as_json:
        documents = [{"id": r.id, "digest": r.digest, "bet": r.body["bet"]} for r, _ in found]
        sys.stdout.write(json.dumps({"bets": documents, "refused": said}, indent=1) + "\n")
    elif len(found) == 1:
        _show_bet(*found[0], as_json)
    elif found:
        from rich.console import Console

        from ridgepoint.report.batch_terminal import batches_side_by_side

        Console().print(batches_side_by_side([bet for _, bet in found]))
    for line in said if not as_json else ():
        sys.stderr.write(f"ridge: {line}\n")
    return 0 if found else 2


def show_batch(store: "Store", record: str, as_json: bool, report: Path | None) -> int:
    """A stored curve again: as it was settled, or the bet where it is not."""
    from ridgepoint.study.batch.document import batch_answer_from, batch_bet_from

    bet = store.get(record, kind="batch-bet")
    answers = store.records(kind="batch-answer", study=bet.id, limit=1)
    if answers:
        _show(batch_answer_from(answers[-1].body["answer"]), as_json, report)
    elif report is not None:
        raise BadInput(
            f"batch curve {bet.id} is not measured; the same `ridge batch` command does, then there is a report"
        )
    else:
        _show_bet(bet, batch_bet_from(bet.body["bet"]), as_json)
    return 0


def _show_bet(record: "Record", bet: "BatchBet", as_json: bool) -> None:
    if as_json:
        document = {"id": record.id, "created": record.created, "digest": record.digest, "bet": record.body["bet"]}
        sys.stdout.write(json.dumps(document, indent=1) + "\n")
        return
    from rich.console import Console

    from ridgepoint.report.batch_terminal import batch_bet_panel

    Console().print(batch_bet_panel(bet))


def _show(answer: "BatchAnswer", as_json: bool, report: Path | None) -> None:
    from ridgepoint.study.batch.document import batch_plain

    if as_json:
        sys.stdout.write(json.dumps(batch_plain(answer), indent=1) + "\n")
    else:
        from rich.console import Console

        from ridgepoint.report.batch_terminal import batch_answer_table

        Console().print(batch_answer_table(answer))
    if report is not None:
        from ridgepoint.report.html_batch import batch_html

        report.write_text(batch_html(answer), encoding="utf-8")
        sys.stderr.write(f"report: {report}\n")


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

    def bet(self, bet: "BatchBet", record: "Record") -> None:
        if self._quiet:
            return
        from rich.console import Console

        from ridgepoint.report.batch_terminal import batch_bet_panel

        console = Console()
        console.print(batch_bet_panel(bet))
        said = f"bet {record.id} stored, sha256 {record.digest[:16]}…; now measuring {bet.points} of {len(bet.grid)} batches"
        console.print(said, style="dim", highlight=False)

    def stage(self, text: str, done: int, total: int) -> None:
        if self._progress is None:
            self._progress, self._task = progress_bar()
            self._progress.start()
        self._progress.update(self._task, description=text, completed=done, total=total)

    def point(self, point: "BatchPoint") -> None:
        from ridgepoint.quantity import show_time

        if self._progress is not None:
            value = "not measured" if point.measured_s is None else show_time(point.measured_s)
            said = f"  batch {point.batch}: predicted {show_time(point.predicted_s)}, measured {value}"
            self._progress.console.print(said, highlight=False)
