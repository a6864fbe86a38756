"""Figures of the records about choices that change a model: losses of quantised models, training steps."""

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
    if record := read_record(records, "training.json"):
        found |= {f"training.{name}": text for name, text in _training(record).items()}
    return found


def _training(record: dict[str, Any]) -> dict[str, str]:
    score = record["score"]
    kept = sum(p["measured_low"] <= p["ceiling"] for p in record["points"] if p["measured_speedup"])
    return {
        "points": str(score["measured"]), "mape": _percent(score["step_time_mape"]), "speedup": _percent(score["speedup_mape"]),
        "roofline": _percent(score["roofline_speedup_mape"]),
        "sign": f"{score['signs_right']} of {score['effects_beyond_10_percent']}",
        "memory": _percent(score["peak_memory_worst"]),
        "ceilings": f"{kept} of {score['ceilings']}", "under": f"{score['ceilings_that_held']} of {score['ceilings']}",
    }  # fmt: skip


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %" if share >= 0.001 else f"{100 * share:.2f} %"


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
