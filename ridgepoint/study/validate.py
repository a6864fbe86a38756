"""Validate: predictions against the rows of CSV files, with the errors by group and what could not be predicted."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ridgepoint.errors import BadInput, RidgeError
from ridgepoint.study.fitting.power import score_jobs, score_power
from ridgepoint.study.launch_floor import LaunchFloor
from ridgepoint.study.published.cells import left_out, readable
from ridgepoint.study.published.power import JOB_COLUMNS
from ridgepoint.study.published.registry import kind_of
from ridgepoint.study.published.systems import system_kind
from ridgepoint.study.published.systems_bench import is_bench_file
from ridgepoint.study.published.table import read_table
from ridgepoint.study.score_published import ALL, ScoreLine, score_lines
from ridgepoint.study.scoring import Scored, score_operators
from ridgepoint.study.scoring_systems import score_bench, score_systems

__all__ = ["Validation", "above", "document", "validate"]


@dataclass(frozen=True)
class Validation:
    """What a file or several gave: scored groups, the lines of the table, and refusals with the rows they cost."""

    scored: tuple[Scored, ...]
    lines: tuple[ScoreLine, ...]
    refused: tuple[str, ...]
    rows: int
    """Of all files together."""
    left_out: int
    """Rows flagged as suspect, or known as wrong, or refused."""
    inputs: int = 0
    """Rows that told the launch floor."""


def validate(
    paths: Sequence[Path], progress: Callable[[str], None] = lambda _: None, floor: LaunchFloor = None
) -> Validation:
    """Score every file; BadInput where a file is no table that can be scored. Nothing is fitted, but for the launch floor
    of operators where `floor` asks to read it from their quickest rows, which then are not scored."""
    if not paths:
        raise BadInput("validate needs a CSV of measurements; its columns say what it is of (docs/validate.md)")
    scored: list[Scored] = []
    refused: list[str] = []
    rows = 0
    for path in paths:
        progress(path.name)
        count, all_found = _scores(path, floor)
        rows += count
        for found in all_found:
            if isinstance(found, RidgeError):
                refused.append(f"{path.name}: {found}")
            else:
                scored.append(found)
    if not scored:
        raise BadInput(refused[0] if refused else f"{paths[0]}: no row in it can be scored")
    inputs = sum(s.inputs for s in scored)
    kept = len({(s.file, line) for s in scored for line in s.lines.tolist()})
    return Validation(
        tuple(scored), tuple(score_lines(scored)), tuple(dict.fromkeys(refused)), rows, rows - kept - inputs, inputs
    )


def _scores(path: Path, floor: LaunchFloor) -> tuple[int, Sequence["Scored | RidgeError"]]:
    """How many measurements a file has, and the groups of those that can be predicted or their refusals."""
    if is_bench_file(path):
        found = list(score_bench(path))
        return sum(len(x.measured) for x in found if isinstance(x, Scored)), found
    table = read_table(path)
    if table.has(*JOB_COLUMNS) and any("power_limit" in str(note) for note in table.text("notes")):
        return len(table), list(score_jobs(table))
    if system_kind(table):
        return len(table), list(score_systems(table))
    kind = kind_of(table)
    sound, unreadable = readable(kind, table)
    refused = [BadInput(text) for text in (*unreadable, *left_out(kind, sound))]
    return len(table), [*refused, *score_operators(sound, floor), *(score_power(sound) if sound.has("power_w") else ())]


def above(validation: Validation, bound: float) -> list[ScoreLine]:
    """Groups whose median error over all regimes exceeds the bound: what `--max-median` fails on."""
    return [line for line in validation.lines if line.regime == ALL and not line.median_ape <= bound]


def document(validation: Validation) -> dict[str, Any]:
    """As JSON: `rows` with one object for each line, the refusals, and how many rows there were."""
    return {
        "schema": 1,
        "rows": [asdict(line) for line in validation.lines],
        "basis": sorted({s.basis for s in validation.scored}),
        "refused": list(validation.refused),
        "measurements": validation.rows,
        "left_out": validation.left_out,
        "launch_floor_inputs": validation.inputs,
    }
