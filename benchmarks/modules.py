"""How right are predictions of modules that are no decoder: bets and tables on networks that calibration never saw.

    python benchmarks/modules.py --out DIR [--modules cnn:residual,sequence:mixer] [--batch 1,8,32]
    python benchmarks/modules.py --out DIR --set choices     bets on layouts, attention and what torch records

Uses the machine's calibrated target with its modules stage (`ridge calibrate --modules` first). Every bet and comparison is
in the store; DIR gets the score as JSON.
"""

import argparse
import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from record import keep
from truth import Quiet, point

from ridgepoint.measurement.memory import available_bytes, room_bytes
from ridgepoint.store import Store, default_path
from ridgepoint.study.compare import compare_side
from ridgepoint.study.document import Answer
from ridgepoint.study.provenance import provenance
from ridgepoint.study.question import ask
from ridgepoint.study.score import score_answers
from ridgepoint.study.why import Effort, why
from ridgepoint.workload import forward

FOLDER = Path(__file__).parent / "modules"
MODULES: dict[str, tuple[str, ...]] = {
    # module: its bets
    "cnn:residual": ("fp32..bf16",),
    "cnn:mobile": ("fp32..bf16",),
    "cnn:unet": ("fp32..bf16",),
    "cnn:plain": ("fp32..bf16", "bf16..int8"),
    "sequence:encoder": ("fp32..bf16", "bf16..int8,int8:dyn"),
    "sequence:decoder": ("fp32..bf16", "bf16..int8:dyn"),
    "sequence:large": ("fp32..bf16,int8",),
    "sequence:mixer": ("fp32..bf16", "bf16..int8:dyn"),
    "sequence:perceptron": ("fp32..bf16", "bf16..int8,int8:dyn"),
    "sequence:torch_encoder": ("fp32..bf16",),
    "cnn:thin": ("fp32..bf16",),
    "sequence:short": ("fp32..bf16",),
    "sequence:low": ("fp32..bf16",),
    "sequence:narrow": ("fp32..bf16", "bf16..int8"),
    "sequence:slim": ("fp32..bf16",),
    "small:digits": ("fp32..bf16",),
    "small:waves": ("fp32..bf16",),
    "small:words": ("fp32..bf16", "bf16..int8:dyn"),
    "small:table": ("fp32..bf16",),
    "small:scenes": ("fp32..bf16",),
}
CHOICES: dict[str, tuple[str, ...]] = {
    "cnn:residual": ("channels-first..channels-last", "grad..inference"),
    "cnn:mobile": ("channels-first..channels-last",),
    "cnn:unet": ("bf16+channels-first..bf16+channels-last",),
    "cnn:plain": ("channels-first..channels-last",),
    "sequence:decoder": ("math..flash",),
    "sequence:long": ("math..flash", "bf16+math..bf16+flash"),
    "sequence:mixer": ("grad..inference",),
    "sequence:slim": ("grad..inference,no-grad",),
    "small:scenes": ("channels-first..channels-last",),
}
_MOST_ITEMS = {"sequence:large": 4}
"""Where more would take minutes."""


def path_of(name: str) -> str:
    """`FILE.py:NAME` of one of MODULES."""
    file, _, function = name.partition(":")
    return f"{os.path.relpath(FOLDER / file)}.py:{function}"  # records must not know where the checkout lies


def main() -> None:
    """Settle all bets, compare all tables, print and write the score."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument(
        "--set", choices=("precision", "choices"), default="precision", help="of bets; tables go with the first"
    )
    parser.add_argument("--modules", default="")
    parser.add_argument("--batch", default="1,4,16")
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--tables", action="store_true", help="tables only: no bets")
    options = parser.parse_args()
    stem, bets = ("modules-choices", CHOICES) if options.set == "choices" else ("modules", MODULES)
    names = options.modules.split(",") if options.modules else list(bets)
    with Store(default_path()) as store:
        sides = ("fp32", "bf16") if options.set == "precision" else ()
        tables = [table(name, side, store) for name in names for side in sides]
        answers = [] if options.tables else [a for name in names for a in settle(name, bets[name], options, store)]
    found: dict[str, Any] = {"command": " ".join(sys.argv[1:]).replace(str(options.out), "DIR"), "tables": tables}
    if answers:
        found["score"] = {by: [asdict(r) for r in score_answers(answers, by)] for by in ("b", "side", "model", "batch")}
        found["points"] = [point(a, p) | {"model": Path(a.bet.model).name} for a in answers for p in a.points]
    keep(options.out, f"{stem}.json", found)
    if answers:
        from rich.console import Console

        from ridgepoint.report.terminal import score_table

        Console(width=150).print(score_table(score_answers(answers)))


def settle(name: str, bets: tuple[str, ...], options: argparse.Namespace, store: Store) -> list[Answer]:
    """An answer per bet on the module."""
    batches = tuple(b for b in map(int, options.batch.split(",")) if b <= _MOST_ITEMS.get(name, 10**6))
    effort = Effort(seconds=options.seconds, every_point=True)
    answers = []
    for bet in bets:
        sys.stdout.write(f"{name} {bet}\n")
        question = ask(path_of(name), bet, batches=batches)
        answers.append(why(question, store, provenance(), Quiet(), effort, float(available_bytes() or 2**62)))
    return answers


def table(name: str, side: str, store: Store) -> dict[str, Any]:
    """Step and operators of one side at a batch of 2: predicted, measured, and how far the rows are from adding up."""
    predicted, measured, _ = compare_side(
        path_of(name), side, forward(2, 1), "host", store, provenance(), room_bytes(), "cpu", 1, 2.0
    )
    rows = {row.name: row.time_s for row in measured.ops}
    worst = sorted(predicted.ops, key=lambda row: -abs(row.time_s - rows.get(row.name, 0.0)))[:4]
    step = measured.latency_s
    found = {
        "module": name, "side": side, "predicted_s": predicted.latency_s, "measured_s": step,
        "error": predicted.latency_s / step - 1, "rows_over_step": sum(rows.values()) / step,
        "worst_rows": [(r.name, r.kernel, (r.time_s - rows.get(r.name, 0.0)) / step) for r in worst],
    }  # fmt: skip
    sys.stdout.write(
        f"{name:24} {side:5} step {1e3 * step:8.2f} ms, error {100 * found['error']:+5.1f} %, rows "
        f"{100 * found['rows_over_step']:5.1f} % of it; "
        + ", ".join(f"{n} [{k}] {100 * e:+.1f} %" for n, k, e in found["worst_rows"]) + "\n"
    )  # fmt: skip
    sys.stdout.flush()
    return found


if __name__ == "__main__":
    main()
