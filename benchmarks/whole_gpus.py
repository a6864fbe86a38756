"""How wrong predictions are on whole machines that no parameter has seen: each in turn loses all fits made on it.

python benchmarks/whole_gpus.py FOLDER     FOLDER has the tables; prints and stores benchmarks/records/held-out-gpus.json

What is left is the rest of its class, else the classes that it is pooled from: an RTX 4090 for an L40S, Blackwell for Hopper.
Not left out is what was chosen with all machines in sight: the forms of the models and the bounds of their parameters, the
errors that steps of the interval add and the slopes of its width, and what inline error correction costs (L40S).
"""

import json
import os
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from ridgepoint.errors import RidgeError
from ridgepoint.hardware import arch_names, load_arch, save_arch
from ridgepoint.study.fitting.pairs import CLEAR, PAIRED, PredictedRows, pair_scores
from ridgepoint.study.published.table import Table, read_table
from ridgepoint.study.score_published import score_lines
from ridgepoint.study.scoring import Scored, datasheet_device, score_operators

RECORD = Path(__file__).resolve().parent / "records" / "held-out-gpus.json"
FILES = (
    "gemm.csv", "gemm_neusight.csv", "gemm_llmservingsim.csv", "attention_prefill.csv", "attention_decode.csv",
    "attention_encoder.csv", "moe.csv", "elementwise.csv", "collectives.csv",
)  # fmt: skip


def machines(tables: list[Table]) -> dict[str, set[str]]:
    """Machine -> the names that the tables have for it."""
    out: dict[str, set[str]] = {}
    for table in tables:
        for gpu in sorted(set(map(str, table.text("gpu")))):
            try:
                out.setdefault(datasheet_device(gpu).name, set()).add(gpu)
            except RidgeError as error:
                sys.stderr.write(f"{table.path.name}: {error}\n")
    return out


def without(machine: str, folder: Path) -> None:
    """Every class as it ships, less the fits made on the machine."""
    for name in arch_names():
        arch = load_arch(name)
        kept = tuple(fit for fit in arch.fits if machine not in fit.gpus)
        if len(kept) < len(arch.fits):
            save_arch(msgspec.structs.replace(arch, fits=kept), folder)


def scored(machine: str, names: set[str], tables: list[Table]) -> Iterator[Scored | RidgeError]:
    """All rows of a machine that something can still be said of, and a refusal for each other cell."""
    for table in tables:
        mine = table.take(np.isin(table.text("gpu"), sorted(names)))
        if len(mine):
            yield from score_operators(mine)


def pairs(found: list[Scored], table: Table, machine: str) -> list[dict[str, Any]]:
    """Signs of the speed-ups of formats, for the table that has the same shapes in several."""
    device = datasheet_device(machine)
    rows = [
        PredictedRows(
            device, s.gpu, s.dtype, s.framework, s.version, table.take(np.isin(table.lines, s.lines)), s.predicted
        )
        for s in found
        if s.file == table.path.name
    ]
    return [asdict(line) for line in pair_scores(rows)]


def main() -> None:
    """One machine after the other, each with a data folder of its own."""
    folder = Path(sys.argv[1])
    tables = [read_table(folder / name) for name in FILES]
    lines: list[dict[str, Any]] = []
    signs: list[dict[str, Any]] = []
    refused: list[dict[str, str]] = []
    for machine, names in machines(tables).items():
        with tempfile.TemporaryDirectory() as home:
            os.environ["RIDGEPOINT_HOME"] = home
            without(machine, Path(home) / "arch")
            both = list(scored(machine, names, tables))
            found = [x for x in both if isinstance(x, Scored)]
            refused += [{"gpu": machine, "said": str(x)} for x in both if isinstance(x, RidgeError)]
            mine = [asdict(line) for line in score_lines(found)]
            lines += [{k: round(v, 4) if isinstance(v, float) else v for k, v in line.items()} for line in mine]
            signs += pairs(found, next(t for t in tables if t.path.name == PAIRED), machine)
            sys.stdout.write(f"{machine}: {sum(len(s.measured) for s in found)} rows\n")
    body = {"schema": 1, "protocol": "leave-GPU-out", "clear": CLEAR, "rows": lines, "pairs": signs, "refused": refused}
    RECORD.write_text(json.dumps(body, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
