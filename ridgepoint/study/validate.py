"""Validate: predictions against the rows of CSV files, with the errors by group and what could not be predicted."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ridgepoint.errors import BadInput, RidgeError
from ridgepoint.study.published.registry import kind_of
from ridgepoint.study.published.table import Table, read_table
from ridgepoint.study.score_published import ALL, ScoreLine, score_lines
from ridgepoint.study.scoring import Scored, score_operators

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


def validate(paths: Sequence[Path], progress: Callable[[str], None] = lambda _: None) -> Validation:
    """Score every file; BadInput where a file is no table that can be scored. Nothing is fitted."""
    if not paths:
        raise BadInput("validate needs a CSV of measurements; its columns say what it is of (docs/validate.md)")
    scored: list[Scored] = []
    refused: list[str] = []
    rows = 0
    for path in paths:
        progress(path.name)
        table = read_table(path)
        rows += len(table)
        for found in _scores(table):
            if isinstance(found, RidgeError):
                refused.append(f"{path.name}: {found}")
            else:
                scored.append(found)
    if not scored:
        raise BadInput(refused[0] if refused else f"{paths[0]}: no row in it can be scored")
    kept = sum(len(s.measured) for s in scored)
    return Validation(tuple(scored), tuple(score_lines(scored)), tuple(dict.fromkeys(refused)), rows, rows - kept)


def _scores(table: Table) -> Sequence["Scored | RidgeError"]:
    kind_of(table)
    return list(score_operators(table))


def above(validation: Validation, bound: float) -> list[ScoreLine]:
    """Groups whose median error over all regimes exceeds the bound: what `--max-median` fails on."""
    return [line for line in validation.lines if line.regime == ALL and line.median_ape > bound]


def document(validation: Validation) -> dict[str, Any]:
    """As JSON: `rows` with one object for each line, the refusals, and how many rows there were."""
    return {
        "schema": 1,
        "rows": [asdict(line) for line in validation.lines],
        "basis": sorted({s.basis for s in validation.scored}),
        "refused": list(validation.refused),
        "measurements": validation.rows,
        "left_out": validation.left_out,
    }
