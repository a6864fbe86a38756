"""Figures of the records about choices that change a model: losses of quantised models."""

from pathlib import Path
from typing import Any

from sheet_figures import read_record

__all__ = ["model_figures"]


def model_figures(records: Path) -> dict[str, str]:
    """Name of a figure -> its text, of those records that exist."""
    found: dict[str, str] = {}
    if record := read_record(records, "quantised.json"):
        found["quantised.pocket.windows"] = str(record["pocket"]["windows"])
        found["quantised.table"] = "\n" + _losses(record) + "\n"
    return found


def _losses(record: dict[str, Any]) -> str:
    lines = [
        "| model | format | rounded to nearest, over fp32 | GPTQ, over nearest | AWQ, over nearest |",
        "|---|---|---|---|---|",
    ]
    for model in ("pocket", "stories260K"):
        rows = {(r["format"], r["algorithm"]): r for r in record.get(model, {}).get("rows", ())}
        for name in dict.fromkeys(name for name, _ in rows):
            cells = [
                model, name, _interval(rows[name, "nearest"]["over_fp32"]),
                *(_interval(rows[name, a]["over_nearest"]) for a in ("gptq", "awq")),
            ]  # fmt: skip
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _interval(values: list[float]) -> str:
    mean, low, high = values
    return f"{mean:+.4f} ({low:+.4f} to {high:+.4f})"
