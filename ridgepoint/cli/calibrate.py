"""`ridge calibrate`: measure this machine, or show its card."""

import re
import sys
from pathlib import Path
from typing import Annotated

import typer

from ridgepoint.cli import options
from ridgepoint.errors import BadInput

__all__ = ["calibrate"]


def calibrate(
    show: Annotated[
        bool, typer.Option("--show", help="Print the device card of the last calibration; measure nothing.")
    ] = False,
    name: Annotated[str, typer.Option("--name", help="Name of the target file; default: this host's.")] = "",
    device: options.Device = "cpu",
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Measure everything anew, also what an interrupted run has kept.")
    ] = False,
    modules: Annotated[
        bool, typer.Option("--modules", help="Add what modules beyond decoders need: convolutions, pooling and more.")
    ] = False,
    compile_: Annotated[
        bool, typer.Option("--compile", help="Add what torch.compile costs and saves; takes a C++ compiler.")
    ] = False,
    ort: Annotated[
        bool, typer.Option("--ort", help="Add ONNX Runtime's kernels for linear layers, where it is installed.")
    ] = False,
    train: Annotated[
        bool, typer.Option("--train", help="Add what training steps are made of: gradients, adapters, the optimizer.")
    ] = False,
    kv: Annotated[bool, typer.Option("--kv", help="Add KV caches in int8, fp8 and int4.")] = False,
    sparse: Annotated[
        bool,
        typer.Option(
            "--sparse", help="Add weights that are mostly zero, as compressed sparse rows; again: more rounds."
        ),
    ] = False,
    from_: Annotated[
        Path | None,
        typer.Option("--from", help="Fit a datasheet target to a sweep of operators in this CSV; measures nothing."),
    ] = None,
    refit: Annotated[str, typer.Option("--refit", help="Fit again from the samples of this stored calibration.")] = "",
) -> int:
    """Measure this machine into <host>.calibrated.toml, in 90 seconds to four minutes on two cores."""
    from rich.console import Console

    from ridgepoint.hardware import load_target
    from ridgepoint.report.terminal import card

    wanted = (
        ("modules", modules), ("compile", compile_), ("ort", ort), ("train", train), ("kv", kv), ("sparse", sparse),
    )  # fmt: skip
    if from_ is not None:
        if show or refit or name or any(asked for _, asked in wanted):
            raise BadInput("--from fits a target to a file and measures nothing; leave the other options out")
        return _from_file(from_)

    stages = [name for name, asked in wanted if asked]
    _check(name, device, stages, show, refit)
    if show:
        Console().print(card(load_target(name or "host", device)))
        return 0
    return _measured(device, name, fresh, stages, refit)


def _check(name: str, device: str, stages: list[str], show: bool, refit: str) -> None:
    from ridgepoint.hardware import HOST

    if name and not re.fullmatch(r"[A-Za-z0-9_-]{1,60}", name):
        raise BadInput(f"--name is {name!r}; possible are up to 60 letters, digits, - and _")
    if name == HOST:
        raise BadInput(f"--name {HOST} is taken: it stands for the newest calibration of this machine")
    if stages and device != "cpu":
        raise BadInput(
            f"--{stages[0]} is for the CPU; a GPU is calibrated for decoders in eager mode and in CUDA graphs"
        )
    if stages and (show or refit):
        raise BadInput(f"--{stages[0]} measures; leave it out beside {'--show' if show else '--refit'}")


def _measured(device: str, name: str, fresh: bool, stages: list[str], refit: str) -> int:
    from rich.console import Console

    from ridgepoint.hardware import save_target
    from ridgepoint.measurement.session import ChildDied
    from ridgepoint.report.terminal import card
    from ridgepoint.store import Store, default_path
    from ridgepoint.study import calibrate as study
    from ridgepoint.study.provenance import provenance

    with Store(default_path()) as store:
        if refit:
            target = study.refit(store, store.get(refit, kind="calibration"), name or study.host_name(device))
            path = save_target(target, target.name)
        else:
            try:
                for stage in stages or [""]:
                    with _Bar() as bar:
                        target, path = study.calibrate(
                            store, provenance(), bar.sample, device, name, fresh=fresh, stage=stage
                        )
            except (KeyboardInterrupt, ChildDied):
                sys.stderr.write("finished probes are kept; the same command goes on with the rest within an hour\n")
                raise
    Console().print(card(target))
    sys.stderr.write(f"target: {path}\n")
    return 0


def _from_file(path: Path) -> int:
    from rich.console import Console

    from ridgepoint.report.swept_terminal import swept_table
    from ridgepoint.study.calibrate_from import calibrate_from

    with Console(stderr=True).status("reading") as status:
        swept = calibrate_from(path, lambda cell: status.update(f"fitting {cell}"))
    Console().print(swept_table(swept))
    return 0


class _Bar:
    """A progress bar over the samples of a calibration."""

    def __enter__(self) -> "_Bar":
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

        from ridgepoint.study.calibrate import EXPECTED_SAMPLES

        columns = (
            TextColumn("{task.description:38}"),
            BarColumn(),
            TextColumn("{task.completed} points"),
            TimeElapsedColumn(),
        )
        self._progress = Progress(*columns, console=Console(stderr=True), transient=True)
        self._task = self._progress.add_task("starting", total=EXPECTED_SAMPLES)
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def sample(self, title: str, count: int) -> None:
        """One more sample of the probe `title`."""
        self._progress.update(self._task, description=title, completed=count)
