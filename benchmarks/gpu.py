"""Every GPU line of the promise in one call of under nine minutes: calibrate, bet, measure, write what was found.

    python benchmarks/gpu.py --out DIR              on a machine with an NVIDIA GPU
    python benchmarks/gpu.py --out DIR --rehearse   the same code on the CPU, tiny; its figures mean nothing

Needs torch, numpy, typer and rich, and of the package index only msgspec, platformdirs and tomli_w; the package itself
is taken from the repository. DIR gets records.jsonl (the store's lines), the target's TOML, card.txt and summary.md;
they are written after each stage, and by a watchdog when the time is up, so that what was finished is always there.
"""

import argparse
import json
import os
import shutil
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
LIMIT_S = 520.0
GRACE_S = 25.0
"""A point in flight at its stage's end may take this much longer; then its process is ended."""
LAYERS = ("linear:4096x4096", "linear:14336x4096", "linear:8192x8192", "linear:4096x14336")
CHOICES = ("int4:g128", "fp8", "int8:dyn:token")
BATCHES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
MODEL, MODEL_CHOICES, MODEL_BATCHES, CONTEXT = "llama-3.1-8b", ("int4:g128", "fp8"), (1, 16, 64), 512
TINY = {
    "model_type": "llama", "hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 2, "vocab_size": 640,
    "num_attention_heads": 4, "num_key_value_heads": 2, "torch_dtype": "bfloat16",
}  # fmt: skip


@dataclass
class Run:
    """What all stages share."""

    out: Path
    rehearse: bool
    until: float
    store: Any
    session: Any
    device: str
    target: Path | None = None
    answers: list[Any] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def note(self, text: str) -> None:
        """A line for the log and the summary."""
        self.notes.append(text)
        print(f"[{LIMIT_S - (self.until - time.monotonic()):6.1f} s] {text}", flush=True)


class Watch:
    """A watcher of `why` that stops it, as Ctrl-C does, when its stage's time is up."""

    def __init__(self, run: Run, until: float):
        self._run, self._until = run, until

    def bet(self, bet: Any, record: Any) -> None:
        """The bet stands in the store before the first measurement."""
        self._run.note(f"bet {record.id} on {bet.model}: {bet.statement}")

    def stage(self, text: str, done: int, total: int) -> None:
        """Before each point."""
        if time.monotonic() > self._until:
            self._run.note("this stage's time is up")
            raise KeyboardInterrupt

    def point(self, point: Any) -> None:
        """After each point."""
        measured = (
            "not measured: " + "; ".join(point.flags)
            if point.measured_speedup is None
            else f"{point.measured_speedup:.2f}x"
        )
        self._run.note(f"  {point.a}..{point.b} at {point.batch}: predicted {point.predicted_speedup:.2f}x, {measured}")


def main() -> int:
    """0 if every stage went through, 1 if one failed; what was measured is written either way."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, required=True, help="folder for records, target and summary")
    parser.add_argument("--rehearse", action="store_true", help="tiny sizes on the CPU: tests this script")
    parser.add_argument("--limit", type=float, default=LIMIT_S, help="seconds for everything")
    options = parser.parse_args()
    home = tempfile.mkdtemp(prefix="ridgepoint-gpu-")
    os.environ["RIDGEPOINT_HOME"] = home
    os.environ["PYTHONPATH"] = os.pathsep.join(x for x in (str(ROOT), os.environ.get("PYTHONPATH", "")) if x)
    sys.path.insert(0, str(ROOT))
    options.out.mkdir(parents=True, exist_ok=True)
    try:
        return carry_out(options.out, options.rehearse, options.limit)
    finally:
        shutil.rmtree(home, ignore_errors=True)


def carry_out(out: Path, rehearse: bool, limit_s: float) -> int:
    """All stages under one watchdog."""
    from ridgepoint.measurement.session import Session
    from ridgepoint.store import Store, default_path

    start = time.monotonic()
    with Store(default_path()) as store, Session() as session:
        run = Run(out, rehearse, start + limit_s, store, session, "cpu" if rehearse else "cuda")
        watchdog = threading.Timer(limit_s, give_up, (run,))
        watchdog.daemon = True
        watchdog.start()
        failed = attempt(run, "calibrate", start + 0.42 * limit_s, lambda until: calibrate(run, until))
        for name, share, asked in bets(run):
            failed += attempt(run, name, start + share * limit_s, partial(bet, run, asked))
        watchdog.cancel()
    print(summary(run))
    return 1 if failed else 0


@dataclass(frozen=True)
class Asked:
    """One question: bf16 against `choices` at `batches`, launched by `launch`, and the seconds that a point may take."""

    model: str
    choices: tuple[str, ...]
    batches: tuple[int, ...]
    launch: str
    seconds: float
    energy_s: float = 0.0


def bets(run: Run) -> list[tuple[str, float, Asked]]:
    """(name, share of all time at which it has to end, question), the most wanted first."""
    if run.rehearse:
        model = tiny_model(run.out)
        return [
            ("one decode step", 0.7, Asked(model, MODEL_CHOICES, (1, 4), "", 0.2)),
            ("linear layer", 0.9, Asked("linear:256x512", CHOICES, (1, 4), "", 0.2)),
            ("one decode step, eager", 0.98, Asked(model, MODEL_CHOICES, (1,), "eager", 0.2)),
        ]
    step = partial(Asked, MODEL, MODEL_CHOICES, MODEL_BATCHES)
    return [
        ("one decode step", 0.7, step("graph", 2.0, 6.0)),
        *((name, 0.78 + 0.05 * i, Asked(name, CHOICES, BATCHES, "graph", 0.5)) for i, name in enumerate(LAYERS)),
        ("one decode step, eager", 0.98, step("eager", 1.5)),
    ]


def attempt(run: Run, name: str, until: float, stage: Callable[[float], None]) -> int:
    """One stage: its failure is noted and costs only itself; what it left in the store is written."""
    begin = time.monotonic()
    if begin > until - 3:
        run.note(f"{name}: no time left")
        return 1
    killer = threading.Timer(until - begin + GRACE_S, run.session.kill)
    killer.daemon = True
    killer.start()
    failed = 0
    try:
        stage(until)
    except Exception as error:  # whatever it is, the next stage may still work
        failed = 1
        run.note(f"{name} failed: {type(error).__name__}: {error}")
        traceback.print_exc()
    finally:
        killer.cancel()
    run.note(f"{name}: {time.monotonic() - begin:.0f} s")
    write(run)
    return failed


def calibrate(run: Run, until: float) -> None:
    """The target that all bets read."""
    import msgspec

    from ridgepoint.hardware import load_target, save_target
    from ridgepoint.study import calibrate as study
    from ridgepoint.study.provenance import provenance

    seen: dict[str, int] = {}

    def on_sample(title: str, count: int) -> None:
        if title not in seen:
            run.note(f"  {title} (after {count - 1} samples)")
        seen[title] = count

    name = "rehearsal" if run.rehearse else study.host_name("cuda")
    limit_s = until - time.monotonic() - GRACE_S
    _, run.target = study.calibrate(run.store, provenance(), on_sample, "cuda", name, limit_s, run.rehearse)
    target = load_target(str(run.target))
    if run.rehearse:  # the bets of a rehearsal run on the CPU, and a GPU's target is refused there
        run.target = save_target(msgspec.structs.replace(target, kind="cpu"), name)
    absent = target.checks.get("absent", "")
    if absent:
        run.note(f"  absent: {absent}")


def bet(run: Run, asked: Asked, until: float) -> None:
    """bf16 against the choices that the target has a kernel for, at every batch."""
    from ridgepoint.errors import RidgeError
    from ridgepoint.measurement.memory import room_bytes
    from ridgepoint.study.betting import place_bet
    from ridgepoint.study.provenance import provenance
    from ridgepoint.study.question import ask
    from ridgepoint.study.why import Effort, why

    if run.target is None:
        measure_only(run, asked, until)
        return

    def question(choices: str) -> Any:
        return ask(
            asked.model, f"bf16..{choices}", batches=asked.batches, isl=64 if run.rehearse else CONTEXT,
            common=asked.launch, device=run.device, on=str(run.target),
        )  # fmt: skip

    possible = []
    for choice in asked.choices:
        try:
            place_bet(question(choice))
            possible.append(choice)
        except RidgeError as reason:
            run.note(f"  {asked.model} bf16..{choice} is left out: {reason}")
    if not possible:
        raise RuntimeError(f"none of {', '.join(asked.choices)} can run")
    effort = Effort(seconds=asked.seconds, every_point=True, energy_s=asked.energy_s)
    whole = question(",".join(possible))
    room = whole.target.memory_bytes or room_bytes(run.device)  # what our own child holds is free for the next question
    answer = why(whole, run.store, provenance(), Watch(run, until), effort, room, shared=run.session)
    run.answers.append((answer, asked.launch))


def measure_only(run: Run, asked: Asked, until: float) -> None:
    """Without a target there is no bet, but what is measured is worth keeping: pairs as records of their own."""
    from ridgepoint.choice import resolve
    from ridgepoint.errors import RidgeError
    from ridgepoint.measurement.request import PairRequest, SideRequest, step_request
    from ridgepoint.store import new_record
    from ridgepoint.study.provenance import provenance
    from ridgepoint.workload import Decoder, decode, load_model

    workload = load_model(asked.model)
    whole = isinstance(workload, Decoder)

    def side(text: str) -> SideRequest:
        return SideRequest(spec=resolve(text, "bf16", run.device, asked.launch).spec, device=run.device)

    for choice, batch in ((c, b) for c in asked.choices for b in asked.batches):
        if time.monotonic() > until:
            return
        body: dict[str, Any] = {"model": asked.model, "b": choice, "batch": batch, "launch": asked.launch}
        try:
            request = PairRequest(
                decoder=workload if whole else None, linear=None if whole else (workload.n, workload.k),
                a=side("bf16"), b=side(choice), cache_bytes=50e6, seconds=asked.seconds, energy_s=asked.energy_s,
                step=step_request(decode(batch, CONTEXT if whole else 0)),
            )  # fmt: skip
            body |= [m for m in run.session.ask(request) if m["kind"] == "done"][-1]
        except RidgeError as error:
            body["absent"] = str(error)
        run.store.append(new_record("measurement", {"pair": body}, provenance(), flags=("no prediction",)))
        speedup = body.get("paired", {}).get("speedup")
        run.note(f"  {asked.model} bf16..{choice} at {batch}: {speedup or body.get('absent')} (no prediction)")


def tiny_model(out: Path) -> str:
    """The rehearsal's model."""
    path = out / "tiny" / "config.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(TINY), encoding="utf-8")
    return str(path)


def give_up(run: Run) -> None:
    """The time is up: write what is known and end, child and all."""
    run.notes.append("the time was up before the last stage had ended")
    try:
        write(run, again=True)
    finally:
        os._exit(1)


def write(run: Run, again: bool = False) -> None:
    """Records, target, card and summary; `again` opens the store anew, for use from another thread."""
    from ridgepoint.store import Store, default_path, export_lines

    store = Store(default_path()) if again else run.store
    partial = run.out / "records.partial"
    with partial.open("w", encoding="utf-8") as stream:
        export_lines(store, stream)
    partial.replace(run.out / "records.jsonl")
    parts = {"summary.md": lambda: summary(run)}
    if run.target is not None:
        target = run.target
        parts |= {target.name: lambda: target.read_text(encoding="utf-8"), "card.txt": lambda: card_text(target)}
    for name, text in parts.items():
        try:
            (run.out / name).write_text(text(), encoding="utf-8")
        except Exception as error:  # a table that cannot be made must not cost the records
            run.note(f"{name} was not written: {type(error).__name__}: {error}")


def card_text(target: Path) -> str:
    """The device card as plain text."""
    import io

    from rich.console import Console

    from ridgepoint.hardware import load_target
    from ridgepoint.report.terminal import card

    console = Console(file=io.StringIO(), width=140, no_color=True)
    console.print(card(load_target(str(target))))
    return console.file.getvalue()  # type: ignore[attr-defined]


def summary(run: Run) -> str:
    """A table per question and the score of all, in Markdown."""
    lines = ["# GPU run" + (" (rehearsal on a CPU: figures mean nothing)" if run.rehearse else ""), ""]
    for answer, launch in run.answers:
        lines += [
            f"## {answer.bet.model}, {answer.bet.phase}, {launch or 'eager'}",
            "",
            *(f"- {x}" for x in answer.verdict.splitlines()),
            "",
        ]
        lines += [
            "| b | batch | predicted | 80 % | measured | 95 % | a µs (pred.) | b µs (pred.) | J a | J b |",
            "|---|---|---|---|---|---|---|---|---|---|",
        ]
        lines += [row(p) for p in answer.points]
        lines.append("")
    lines += ["## Score", "", *score_lines(run), "", "## Log", "", *(f"    {note}" for note in run.notes)]
    return "\n".join(lines) + "\n"


def row(p: Any) -> str:
    """One point."""
    low, high = f"{p.predicted_low:.2f}–{p.predicted_high:.2f}", "absent"
    if p.measured_speedup is not None:
        high = f"{p.measured_low:.2f}–{p.measured_high:.2f}"
    measured = "absent" if p.measured_speedup is None else f"{p.measured_speedup:.3f}"
    return (
        f"| {p.b} | {p.batch} | {p.predicted_speedup:.3f} | {low} | {measured} | {high} "
        f"| {micro(p.measured_a_s)} ({micro(p.predicted_a_s)}) | {micro(p.measured_b_s)} ({micro(p.predicted_b_s)}) "
        f"| {joules(p, 'a')} | {joules(p, 'b')} |"
    )


def micro(seconds: float | None) -> str:
    """Microseconds."""
    return "absent" if seconds is None else f"{1e6 * seconds:.1f}"


def joules(p: Any, side: str) -> str:
    """Energy of one side with its interval."""
    value = p.energy_a_j if side == "a" else p.energy_b_j
    if value is None:
        return "absent"
    low, high = p.energy_intervals_j.get(side, (value, value))
    return f"{value:.4g} ({low:.4g}–{high:.4g})"


def score_lines(run: Run) -> list[str]:
    """Signs, errors and flips by question and launch; a flip counts as right within a factor of two."""
    head = "| question | points | signs right | MAPE speed-up | MAPE step | within 80 % | flips right (factor 2) |"
    lines = [head, "|---|---|---|---|---|---|---|"]
    kinds: dict[str, list[Any]] = {}
    for answer, launch in run.answers:
        single = answer.bet.model.startswith("linear:")
        kinds.setdefault(f"{'linear layers' if single else 'decode step'}, {launch or 'eager'}", []).append(answer)
    for name, answers in kinds.items():
        points = [p for answer in answers for p in answer.points if p.measured_speedup is not None]
        if points:
            lines.append(f"| {name} | {len(points)} | {score_cells(points)} | {'/'.join(map(str, flips(answers)))} |")
    return lines if len(lines) > 2 else ["nothing was both predicted and measured"]


def score_cells(points: list[Any]) -> str:
    """Signs where the measured effect exceeds 10 %, mean errors, and how often the 80 % interval held."""
    clear = [p for p in points if not 1 / 1.1 < p.measured_speedup < 1.1]
    right = sum((p.predicted_speedup > 1) == (p.measured_speedup > 1) for p in clear)
    ratios = [abs(p.predicted_speedup / p.measured_speedup - 1) for p in points]
    steps = [
        abs(x / y - 1)
        for p in points
        for x, y in ((p.predicted_a_s, p.measured_a_s), (p.predicted_b_s, p.measured_b_s))
    ]
    held = sum(p.predicted_low <= p.measured_speedup <= p.predicted_high for p in points)
    return f"{right}/{len(clear)} | {sum(ratios) / len(points):.1%} | {sum(steps) / len(steps):.1%} | {held / len(points):.0%}"


def flips(answers: list[Any]) -> tuple[int, int]:
    """(right, all) flips that were predicted or measured."""
    right = count = 0
    for answer in answers:
        for curve in answer.bet.curves:
            foretold, seen = (
                x[curve.b] if isinstance(x, dict) else x for x in (answer.flip_predicted, answer.flip_measured)
            )
            if foretold or seen:
                count += 1
                right += bool(foretold and seen and max(foretold / seen, seen / foretold) <= 2)
    return right, count


if __name__ == "__main__":
    sys.exit(main())
