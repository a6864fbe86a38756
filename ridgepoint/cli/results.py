"""`ridge predict`, `ridge measure`, `ridge compare`."""

import json
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from ridgepoint.cli import options
from ridgepoint.errors import BadInput, DoesNotFit, NotSupported

if TYPE_CHECKING:
    from ridgepoint.hardware import Target
    from ridgepoint.result import Result
    from ridgepoint.workload import Step

__all__ = ["compare", "measure", "predict"]

Batch = Annotated[int, typer.Option("--batch", help="Sequences in the step.")]
AnyPhase = Annotated[
    str, typer.Option("--phase", "--step", help="decode, prefill, forward, train or mixed (the last: predict only).")
]
New = Annotated[str, typer.Option("--new", help="mixed: new tokens of each sequence, as 512,1,1.")]
Cached = Annotated[str, typer.Option("--cached", help="mixed: cached tokens of each sequence, as 0,900,70.")]


def predict(
    model: options.Model,
    with_: options.With = "",
    batch: Batch = 1,
    isl: options.Isl = 128,
    phase: AnyPhase = "decode",
    new: New = "",
    cached: Cached = "",
    threads: options.Threads = 1,
    device: options.Device = "cpu",
    on: options.On = "host",
    stack: options.Stack = "",
    tp: options.Tp = 1,
    pp: options.Pp = 1,
    ep: options.Ep = 1,
    attention_dp: options.AttentionDp = 1,
    as_json: options.Json = False,
) -> int:
    """The time, memory and bound of each operator, from paper alone; of several targets side by side."""
    from ridgepoint.study.measure import predict_side, set_side
    from ridgepoint.workload import Parallel

    step, parallel = _step(phase, batch, isl, new, cached), Parallel(tp, pp, ep, attention_dp)
    names, said = options.names("--on", on), []
    settings, results = [], []
    for target in names:
        try:
            setting = set_side(model, with_, step, target, device, threads, stack, parallel)
            results.append(predict_side(setting))
            settings.append(setting)
        except (NotSupported, DoesNotFit) as error:  # of several targets the others are shown
            if len(names) == 1:
                raise
            said.append(options.of_target(target, error))
    for text in said:
        sys.stderr.write(f"ridge: {text}\n")
    if not results:
        return 2
    if len(results) == 1:
        _print(results[0], settings[0].target, as_json)
    elif as_json:
        sys.stdout.write(json.dumps([asdict(result) for result in results], indent=1) + "\n")
    else:
        from rich.console import Console

        from ridgepoint.report.terminal import side_by_side

        Console().print(side_by_side(results, [setting.target for setting in settings]))
    return 0


def measure(
    model: options.Model,
    with_: options.With = "",
    batch: Batch = 1,
    isl: options.Isl = 128,
    phase: options.Phase = "decode",
    threads: options.Threads = 1,
    device: options.Device = "cpu",
    on: options.On = "host",
    seconds: options.Seconds = 6.0,
    as_json: options.Json = False,
) -> int:
    """The same table from running it on this machine."""
    _, result, target = _measured(model, with_, _step(phase, batch, isl), on, device, threads, seconds)
    _print(result, target, as_json)
    return 0


def compare(
    model: options.Model,
    with_: options.With = "",
    batch: Batch = 1,
    isl: options.Isl = 128,
    phase: options.Phase = "decode",
    threads: options.Threads = 1,
    device: options.Device = "cpu",
    on: options.On = "host",
    seconds: options.Seconds = 6.0,
    as_json: options.Json = False,
) -> int:
    """Prediction and measurement side by side, with the signed error of each operator."""
    predicted, measured, _ = _measured(model, with_, _step(phase, batch, isl), on, device, threads, seconds)
    if as_json:
        sys.stdout.write(json.dumps({"predicted": asdict(predicted), "measured": asdict(measured)}, indent=1) + "\n")
        return 0
    from rich.console import Console

    from ridgepoint.report.terminal import compare_table

    Console().print(compare_table(predicted, measured))
    return 0


def _step(phase: str, batch: int, isl: int, new: str = "", cached: str = "") -> "Step":
    from ridgepoint.study.measure import step_named

    if (phase == "mixed") != bool(new and cached) or bool(new) != bool(cached):
        raise BadInput("--new and --cached are for `predict --phase mixed`, which needs both; it is not measured yet")
    if phase == "mixed":
        return step_named(phase, 1, 1, options.integers("--new", new), options.integers("--cached", cached))
    return step_named(phase, batch, isl)


def _measured(
    model: str, with_: str, step: "Step", on: str, device: str, threads: int, seconds: float
) -> "tuple[Result, Result, Target]":
    from ridgepoint.measurement.memory import room_bytes
    from ridgepoint.store import Store, default_path
    from ridgepoint.study.compare import compare_side
    from ridgepoint.study.provenance import provenance

    with Store(default_path()) as store:
        return compare_side(model, with_, step, on, store, provenance(), room_bytes(device), device, threads, seconds)


def _print(result: "Result", target: "Target", as_json: bool) -> None:
    if as_json:
        sys.stdout.write(json.dumps(asdict(result), indent=1) + "\n")
        return
    from rich.console import Console

    from ridgepoint.report.terminal import result_table

    Console().print(result_table(result, target))
