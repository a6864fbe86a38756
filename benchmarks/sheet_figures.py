"""Words of the records on machines that are not at hand: held-out errors, signs of speed-ups, intervals, whole machines."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

__all__ = ["held_out_table", "read_record", "sheet_figures", "whole_gpus_table"]

Rows = Sequence[dict[str, Any]]
_ORDER = (
    "gemm", "attention_prefill", "attention_decode", "attention_encoder", "attention_chunked", "moe", "pointwise",
    "collective",
)  # fmt: skip
_FEW_ROWS = 40
"""Rows of a cell below which its errors are not shown by themselves."""


def sheet_figures(records: Path) -> dict[str, str]:
    """Name of a figure -> its text, of those records that exist."""
    found: dict[str, str] = {}
    if held := read_record(records, "held-out.json"):
        rows = _cells(held["rows"])
        found |= _held_out(rows) | _intervals(rows)
    if pairs := read_record(records, "held-out-pairs.json"):
        found |= _signs("shapes", pairs["rows"])
    if whole := read_record(records, "held-out-gpus.json"):
        found |= _signs("gpus", whole["pairs"])
    return found


def read_record(records: Path, name: str) -> Any:
    """A stored record, or None where there is none."""
    path = records / name
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def _signs(name: str, rows: Rows) -> dict[str, str]:
    clear = sum(r["clear"] for r in rows)
    if not clear:
        return {}
    gains = sum(r["faster"] for r in rows) / clear
    shares = {key: sum(r[key] for r in rows) / clear for key in ("right", "roofline_right", "bytes_right")}
    shares |= {"faster": gains, "one_sign": max(gains, 1.0 - gains)}
    return {
        f"pairs.{name}.clear": f"{clear:,}",
        f"pairs.{name}.formats": ", ".join(sorted({r["dtype"] for r in rows})),
    } | {f"pairs.{name}.{key}": f"{100 * share:.1f} %" for key, share in shares.items()}


def _intervals(rows: Rows) -> dict[str, str]:
    """Means over rows of all cells."""
    count = sum(r["n"] for r in rows)

    def mean(name: str) -> float:
        return sum(r[name] * r["n"] for r in rows) / count

    held = [r["coverage80"] for r in rows]
    return {
        "intervals.coverage": f"{100 * mean('coverage80'):.1f} %", "intervals.half": f"{100 * mean('half_width80'):.1f} %",
        "intervals.band_coverage": f"{100 * mean('band_coverage80'):.1f} %",
        "intervals.band_half": f"{100 * mean('band_half_width80'):.1f} %",
        "intervals.inside": f"{sum(0.75 <= x <= 0.85 for x in held)} of {len(held)}",
        "intervals.span": f"{100 * min(held):.0f} to {100 * max(held):.0f} %",
    }  # fmt: skip


def held_out_table(record: dict[str, Any]) -> str:
    """A row for each operator, machine and dtype: errors of its stacks from the best to the worst, and the yardsticks."""
    lines = [
        "| operator | machine | dtype | rows | median error, by stack | 90th percentile | datasheet roofline | fitted roofline |",
        "|---|---|---|---|---|---|---|---|",
    ]
    groups: dict[tuple[int, str, str], list[dict[str, Any]]] = {}
    for row in _cells(record["rows"]):
        groups.setdefault((_ORDER.index(row["operator"]), row["gpu"], row["dtype"]), []).append(row)
    for (operator, gpu, dtype), rows in sorted(groups.items()):
        errors = ("median_ape", "p90_ape", "roofline_median_ape", "fitted_roofline_median_ape")
        cells = (
            _ORDER[operator],
            gpu,
            dtype,
            str(sum(r["n"] for r in rows)),
            *(_span(rows, name, 1) for name in errors),
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _held_out(rows: Rows) -> dict[str, str]:
    """Figures of the README: the middle cell of each operator and format, and of the yardsticks on the same rows."""
    out = {"sheet.rows": f"{sum(r['n'] for r in rows):,}", "sheet.cells": str(len(rows))}
    for operator in _ORDER:
        mine = [r for r in rows if r["operator"] == operator]
        if mine:
            out |= {f"sheet.{operator}.{key}": text for key, text in _middle(mine).items()}
    return out


def _middle(rows: Rows) -> dict[str, str]:
    def middle(name: str) -> str:
        values = sorted(r[name] for r in rows)
        return f"{100 * values[len(values) // 2]:.1f} %"

    return {
        "n": f"{sum(r['n'] for r in rows):,}", "median": middle("median_ape"), "p90": middle("p90_ape"),
        "roofline": middle("roofline_median_ape"), "fitted": middle("fitted_roofline_median_ape"),
    }  # fmt: skip


def _cells(rows: Rows) -> list[dict[str, Any]]:
    return [r for r in rows if r["regime"] == "all" and r["framework"] and r["n"] >= _FEW_ROWS]


def whole_gpus_table(record: dict[str, Any]) -> str:
    """A row for each operator, machine and dtype of which all fits on that machine were taken away."""
    lines = [
        "| operator | machine | dtype | rows | median error, by stack | p90 | bias | inside 80 % | roofline | taken from |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    groups: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
    for r in record["rows"]:
        alone = r["version"] != "all" or not any(_same(r, x) and x["version"] != "all" for x in record["rows"])
        if r["regime"] == "all" and r["metric"] == "latency" and r["n"] >= _FEW_ROWS and alone:
            groups.setdefault((r["kind"], r["gpu"], r["dtype"]), []).append(r)
    for (kind, gpu, dtype), rows in groups.items():
        n = sum(r["n"] for r in rows)
        inside = sum(r["coverage80"] * r["n"] for r in rows) / n
        cells = (
            kind, gpu, dtype, str(n), _span(rows, "median_ape"), _span(rows, "p90_ape"), _bias(rows), f"{100 * inside:.0f} %",
            _span(rows, "roofline_median_ape"), ", ".join(sorted({r["steps"] for r in rows})),
        )  # fmt: skip
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _same(a: dict[str, Any], b: dict[str, Any]) -> bool:
    return all(a[name] == b[name] for name in ("file", "kind", "metric", "gpu", "dtype", "framework", "regime"))


def _bias(rows: Rows) -> str:
    low, high = (f(r["bias"] for r in rows) for f in (min, max))
    return f"{low:.2f}" if f"{low:.2f}" == f"{high:.2f}" else f"{low:.2f}–{high:.2f}"


def _span(rows: Rows, name: str, digits: int = 0) -> str:
    low, high = (f"{100 * f(r[name] for r in rows):.{digits}f}" for f in (min, max))
    return f"{low} %" if low == high else f"{low}–{high} %"
