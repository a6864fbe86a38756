"""Puts the figures of the stored records into the README and docs, between their `figure` comments.

python benchmarks/figures.py            write them
python benchmarks/figures.py --check    exit code 1 if they say anything else than the records
"""

import re
import sys
from pathlib import Path
from typing import Any

from model_figures import model_figures
from promise_figures import promise_figures
from sheet_figures import held_out_table, read_record, sheet_figures, whole_gpus_table
from sparsity_figures import sparsity_figures

ROOT = Path(__file__).resolve().parent.parent
RECORDS = ROOT / "benchmarks" / "records"
README = ROOT / "README.md"
DATASHEET = ROOT / "docs" / "datasheet.md"
DOCUMENTS = (README, *(ROOT / "docs" / f"{name}.md" for name in ("batch", "quantisation", "sparsity")))
"""Texts with figures between comments."""
_TABLE = re.compile(r"(<!-- (held-out|held-out-gpus) -->\n).*?(<!-- /\2 -->)", re.DOTALL)
_FIGURE = re.compile(r"<!-- figure: ([\w.-]+) -->(.*?)<!-- /figure -->", re.DOTALL)


def figures(records: Path = RECORDS) -> dict[str, str]:
    """Name of a figure -> its text, of those records that exist."""
    found: dict[str, str] = {}
    for phase in ("decode", "prefill", "prefill-64", "compile", "ort"):
        if record := read_record(records, f"truth-{phase}.json"):
            found |= {f"truth.{phase}.{name}": text for name, text in _truth(record).items()}
    if record := read_record(records, "truth-compile.json"):
        found |= _compiled(record["points"])
    if record := read_record(records, "repeat.json"):
        found["calibrate.seconds"] = f"{max(record['calibrate_s']):.0f}"
        found["repeat.median"] = _percent(record["median"])
        found["machine.words"] = _machine(record["machine"], record["versions"])
    if record := read_record(records, "demo.json"):
        found["demo.seconds"], found["demo.verdict"] = (
            f"{record['seconds']:.0f}",
            record["verdict"].replace("\n", "\n>\n> "),
        )
        found |= _pocket(record.get("pocket"))
    if record := read_record(records, "modules.json"):
        found |= _modules(record)
    if record := read_record(records, "modules-choices.json"):
        found |= {f"choices.{name}": text for name, text in _bets(record).items()}
    if record := read_record(records, "same-load0.json"):
        found |= of_same(record)
    if record := read_record(records, "operators.json"):
        found |= _operators(record)
    if record := read_record(records, "fast.json"):
        found |= {
            f"fast.{name}": f"{record[name]:.2g}"
            for name in ("import_s", "help_s", "prediction_ms", "report_s")
            if name in record
        }
    if record := read_record(records, "sparsity.json"):
        found["changes.machine"] = _machine(record["machine"], record["versions"])
    if record := read_record(records, "batch.json"):
        found |= _batch(record)
    found |= sheet_figures(records) | model_figures(records) | promise_figures(records) | sparsity_figures(records)
    if record := read_record(records, "datasheet.json"):
        found["sheet.per_s"] = f"{record['configurations_per_s']:,.0f}"
        found["sheet.single_ms"] = f"{record['single_prediction_ms']:.1f}"
    idle, loaded = read_record(records, "linear-load0.json"), read_record(records, "linear-load2.json")
    if idle and loaded:
        found |= of_linear(idle["points"], loaded["points"])
    return found


def _batch(record: dict[str, Any]) -> dict[str, str]:
    apart = [abs(c["grid"].index(c["knee_predicted"]) - c["grid"].index(c["knee_swept"])) for c in record["curves"]]
    return {
        "batch.predicted_near": f"{sum(x <= 1 for x in apart)} of {record['n']}",
        "batch.predicted_same": f"{sum(x == 0 for x in apart)} of {record['n']}",
        "batch.near": f"{record['near']} of {record['n']}", "batch.same": f"{record['same']} of {record['n']}",
        "batch.points": f"{record['points']} of {record['batches']}", "batch.mape": _percent(record["mape"]),
        "batch.predicted_mape": _percent(record["predicted_mape"]), "batch.slo_off": _percent(record["slo_off"]),
        "batch.again": _percent(record["again"]), "batch.slo_inside": f"{record['slo_inside']} of {record['n']}",
    }  # fmt: skip


def written(text: str, found: dict[str, str]) -> str:
    """`text` with every known figure in its place."""
    return _FIGURE.sub(lambda m: f"<!-- figure: {m[1]} -->{found.get(m[1], m[2])}<!-- /figure -->", text)


def with_table(document: str) -> str:
    """docs/datasheet.md with the tables of held-out errors in their places."""
    tables = {"held-out": held_out_table, "held-out-gpus": whole_gpus_table}

    def table(found: re.Match[str]) -> str:
        record = read_record(RECORDS, f"{found[2]}.json")
        return f"{found[1]}{tables[found[2]](record)}\n{found[3]}" if record else found[0]

    return _TABLE.sub(table, document)


def _truth(record: dict[str, Any]) -> dict[str, str]:
    everything = next(row for row in record["score"]["b"] if row["group"] == "all")
    worst = max((row for row in record["score"]["side"] if row["group"] != "all"), key=lambda row: row["mape"])
    return {
        "sign": _of(everything["sign_right"], everything["sign_n"]),
        "small": _of(everything["small_right"], everything["small_n"]),
        "flips": _of(everything["flips_right"], everything["flips_n"]),
        "small_flips": _of(everything["small_flips_right"], everything["small_flips_n"]),
        "mape": _percent(everything["mape"]), "worst_mape": f"{_percent(worst['mape'])} ({worst['group']})",
        "coverage": f"{100 * everything['coverage80']:.0f} %", "width": f"{100 * everything['width']:.0f} %",
        "roofline_mape": _whole(everything["roofline_mape"]), "roofline_sign": _whole(everything["roofline_sign"]),
        "n": str(everything["n"]),
    }  # fmt: skip


def _compiled(points: list[dict[str, Any]]) -> dict[str, str]:
    """What compiling took and gained, from the least to the most."""
    seconds = [p["compile_s"]["b"] for p in points if p["compile_s"]]
    gains = [p["measured_speedup"] for p in points if p["measured_speedup"]]
    return {
        "compile.seconds": f"{min(seconds):.0f} to {max(seconds):.0f}",
        "compile.gain": f"{min(gains):.2f}x to {max(gains):.2f}x",
    }


def _whole(share: float | None) -> str:
    return "–" if share is None else f"{100 * share:.0f} %"


def _pocket(answer: dict[str, Any] | None) -> dict[str, str]:
    """Verdict and accuracy of the small trained model."""
    from ridgepoint.report.accuracy_words import accuracy_lines

    if answer is None:
        return {}
    lines = "\n>\n> ".join(accuracy_lines(answer["accuracy"]))
    return {"pocket.verdict": answer["verdict"].replace("\n", "\n>\n> "), "pocket.accuracy": lines}


def _modules(record: dict[str, Any]) -> dict[str, str]:
    """Bets and tables of modules that are no decoder."""
    apart = [abs(table["rows_over_step"] - 1) for table in record["tables"]]
    return {f"modules.{name}": text for name, text in _bets(record).items()} | {
        "modules.rows": _percent(max(apart)), "modules.within": _of(sum(a <= 0.05 for a in apart), len(apart)),
    }  # fmt: skip


def _bets(record: dict[str, Any]) -> dict[str, str]:
    """The score of bets on modules."""
    everything = next(row for row in record["score"]["b"] if row["group"] == "all")
    worst = max((row for row in record["score"]["model"] if row["group"] != "all"), key=lambda row: row["mape"])
    return {
        "n": str(len({p["model"] for p in record["points"]})), "points": str(everything["n"]),
        "mape": _percent(everything["mape"]), "sign": _of(everything["sign_right"], everything["sign_n"]),
        "small": _of(everything["small_right"], everything["small_n"]),
        "worst": f"{_percent(worst['mape'])} ({worst['group'].rpartition('/')[2]})",
        "coverage": f"{100 * everything['coverage80']:.0f} %",
    }  # fmt: skip


def _of(right: int, n: int) -> str:
    return f"{right} of {n}"


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _machine(machine: dict[str, Any], versions: dict[str, str]) -> str:
    cache = float(machine["caches_bytes"]["L3"]) / 2**20
    return (
        f"{machine['cores_usable']} shared cores of an {machine['cpu']} ({', '.join(machine['flags'])}), {cache:.0f} MiB "
        f"last-level cache, {machine['memory_total_gib']} GiB, torch {versions['torch']}"
    )


def of_same(record: dict[str, Any]) -> dict[str, str]:
    """What `same.py` found, in words."""
    same, slow = record["same"], record["slow"]
    return {
        "same.called": _of(sum(r["verdict"] in ("faster", "slower") for r in same), len(same)),
        "same.narrow": _of(sum((r["half_width"] or 1.0) <= 0.05 for r in same), len(same)),
        "same.slow_called": _of(sum(r["verdict"] == "slower" for r in slow), len(slow)),
    }


def _operators(record: dict[str, Any]) -> dict[str, str]:
    rows = {row["group"]: row for row in record["score"]}
    linear = [row for group, row in rows.items() if group.startswith("linear ")]
    apart = [abs(step["memory"] - 1) for step in record["steps"]]
    return {
        "operators.n": str(rows["all"]["n"]),
        "operators.linear": _percent(sum(r["mape"] * r["n"] for r in linear) / sum(r["n"] for r in linear)),
        "operators.attention": _percent(next(r["mape"] for group, r in rows.items() if group.startswith("attention "))),
        "operators.median": _percent(rows["all"]["median_ape"]),
        "operators.mape": _percent(rows["all"]["mape"]),
        "operators.worst": "{} {:.0f} %".format(*_worst(rows)),
        "operators.coverage": f"{100 * rows['all']['coverage80']:.0f} %",
        "operators.memory": _percent(max(apart)),
    }


def _worst(rows: dict[str, Any]) -> tuple[str, float]:
    group, row = max(((g, r) for g, r in rows.items() if g != "all"), key=lambda pair: pair[1]["mape"])
    return group, 100 * row["mape"]


def of_linear(idle: list[dict[str, Any]], loaded: list[dict[str, Any]]) -> dict[str, str]:
    """How many points were measured under load, and how many of those turned the sign of a clear idle effect."""

    def measured(points: list[dict[str, Any]]) -> dict[tuple[Any, ...], float]:
        return {
            (p["layer"], p["a"], p["b"], p["batch"]): p["measured_speedup"] for p in points if p["measured_speedup"]
        }

    before, after = measured(idle), measured(loaded)
    clear = {key: value for key, value in before.items() if abs(value - 1) > 0.03}
    turned = [key for key, value in clear.items() if key in after and (after[key] > 1) != (value > 1)]
    return {"linear.load.measured": _of(len(after), len(loaded)), "linear.load.turned": _of(len(turned), len(clear))}


def main() -> None:
    """Write or check."""
    found = figures()
    before = {path: path.read_text(encoding="utf-8") for path in (*DOCUMENTS, DATASHEET)}
    after = {path: written(text, found) for path, text in before.items()} | {DATASHEET: with_table(before[DATASHEET])}
    missing = sorted({m[1] for text in after.values() for m in _FIGURE.finditer(text)} - set(found))
    if missing:
        sys.stdout.write(f"no record for: {', '.join(missing)}\n")
    if "--check" in sys.argv[1:]:
        raise SystemExit(int(after != before or bool(missing)))
    for path, text in after.items():
        path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
