"""Fit the classes of machines to published measurements: writes `hardware/data/arch/<class>.toml` and the held-out errors."""

import argparse
import fcntl
import hashlib
import json
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from ridgepoint.hardware import Arch, Fit, Transfer, decode_arch, load_arch, save_arch
from ridgepoint.hardware.arch import ARCH_SCHEMA
from ridgepoint.prediction.physics.parameters import read_parameters
from ridgepoint.study.fitting.baselines import fitted_roofline, roofline
from ridgepoint.study.fitting.classes import FittedCell, fit_group, fits_of, groups_of, transfers_of
from ridgepoint.study.fitting.power import FittedPower, fit_power, jobs_fits, power_fits, power_transfers
from ridgepoint.study.fitting.serving import add_serving, held_out_lines
from ridgepoint.study.published.cells import cells, measured_seconds
from ridgepoint.study.published.registry import kind_of
from ridgepoint.study.published.spelling import our_dtypes
from ridgepoint.study.published.table import Table, read_table
from ridgepoint.study.scoring import datasheet_device

ROOT = Path(__file__).resolve().parent.parent
OUT = ROOT / "ridgepoint" / "hardware" / "data" / "arch"
RECORD = ROOT / "benchmarks" / "records" / "held-out.json"
FILES = (
    "gemm.csv", "gemm_neusight.csv", "gemm_vidur.csv", "gemm_llmservingsim.csv", "gemm_llmcompass.csv",
    "attention_prefill.csv", "attention_decode.csv", "attention_encoder.csv", "attention_chunked_llmservingsim.csv",
    "moe.csv", "elementwise.csv", "collectives.csv",
)  # fmt: skip
_FROM = "published measurements, normalised"
CLASSES: dict[str, tuple[str, tuple[str, ...]]] = {
    "pascal": ("NVIDIA Pascal, compute capability 6.x", ("volta", "turing", "ampere")),
    "volta": ("NVIDIA Volta, 7.0", ("turing", "ampere")),
    "turing": ("NVIDIA Turing, 7.5", ("volta", "ampere")),
    "ampere": ("NVIDIA Ampere for data centres, 8.0", ("ada", "hopper")),
    "ampere-consumer": ("NVIDIA Ampere with GDDR6 or LPDDR5, 8.6 and 8.7", ("ampere", "ada")),
    "ada": ("NVIDIA Ada Lovelace, 8.9", ("ampere", "hopper")),
    "hopper": ("NVIDIA Hopper, 9.0", ("ampere", "ada", "blackwell")),
    "blackwell": ("NVIDIA Blackwell for data centres, 10.x", ("hopper", "ampere", "ada")),
    "blackwell-consumer": ("NVIDIA Blackwell with GDDR7 or LPDDR5X, 12.x", ("ada", "blackwell", "ampere", "hopper")),
    "cdna1": ("AMD CDNA, Instinct MI100", ("volta",)),
    "cdna2": ("AMD CDNA 2, Instinct MI200", ("cdna1", "ampere")),
    "cdna3": ("AMD CDNA 3, Instinct MI300", ("cdna2", "hopper")),
    "cdna4": ("AMD CDNA 4, Instinct MI350", ("cdna3", "blackwell")),
    "xe2": ("Intel Xe2, Arc B series and Arc Pro B series", ("ada", "ampere")),
    "apple": ("Apple M series GPUs", ("ampere",)),
    "tpu": ("Google TPU", ("ampere", "hopper")),
    "gaudi": ("Intel Gaudi", ("ampere", "hopper")),
    "neuron": ("AWS Trainium and Inferentia", ("ampere", "hopper")),
}
"""Meaning of each class, and where it takes parameters that were not fitted on it, the most alike first."""


@dataclass(frozen=True)
class HeldOut:
    """Errors of one cell whose shapes the parameters had not seen, beside two yardsticks on the same rows."""

    file: str
    operator: str
    gpu: str
    dtype: str
    framework: str
    version: str
    variant: str
    regime: str
    n: int
    median_ape: float
    mape: float
    p90_ape: float
    bias: float
    roofline_median_ape: float
    fitted_roofline_median_ape: float
    fitted_roofline_mape: float


def held_out(cell: FittedCell) -> list[HeldOut]:
    """One line for all regimes, one for each."""
    measured, predicted = measured_seconds(cell.table), cell.unseen_s
    regime = cell.kind.regime(cell.table)
    flat, fitted = roofline(cell), fitted_roofline(cell)
    out = []
    for name in ("all", *sorted(set(map(str, regime)))):
        rows = np.isfinite(predicted) & np.isfinite(fitted) & ((regime == name) | (name == "all"))
        if not rows.any():
            continue
        ape, flat_ape, fitted_ape = (np.abs(x[rows] / measured[rows] - 1) for x in (predicted, flat, fitted))
        gpu, dtype, framework, version, variant = cell.cell
        out.append(HeldOut(
            cell.table.path.name, cell.kind.name, gpu, dtype, framework, version, variant, name, int(rows.sum()),
            *(round(float(x), 4) for x in (
                np.median(ape), ape.mean(), np.quantile(ape, 0.9), np.median(predicted[rows] / measured[rows]),
                np.median(flat_ape), np.median(fitted_ape), fitted_ape.mean(),
            )),
        ))  # fmt: skip
    return out


_SAMPLE = 150
"""Rows of a cell on which others' parameters are tried."""
Task = tuple[Path, tuple[str, str, str]]


def fitted_group(task: Task) -> list[tuple[Any, ...]]:
    """One group of cells, in a process of its own; a kind cannot be sent back, so its name is."""
    path, key = task
    table = read_table(path)
    cells = fit_group(kind_of(table), table, key, datasheet_device)
    return [(path, c.cell, c.device, c.table, c.parameters, c.unseen_s) for c in cells]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="where the CSV files are, with their README.md")
    parser.add_argument("--files", nargs="*", default=FILES)
    parser.add_argument("--gpus", nargs="*", default=(), help="names of the gpu column; default: all")
    parser.add_argument(
        "--only", choices=("transfers", "power", "serving", "yardsticks"), help="what builds on the operators' fits"
    )
    parser.add_argument("--jobs", type=int, default=2)
    arguments = parser.parse_args()
    if arguments.only:
        return _afterwards(arguments.only, arguments.folder)
    tables = {path: read_table(path) for path in (arguments.folder / name for name in arguments.files)}
    tasks: list[Task] = [
        (path, key)
        for path, t in tables.items()
        for key in groups_of(kind_of(t), t)
        if not arguments.gpus or key[0] in arguments.gpus
    ]
    fitted: list[FittedCell] = []
    columns = (TextColumn("{task.description:60}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar, ProcessPoolExecutor(arguments.jobs) as pool:
        line = bar.add_task("", total=len(tasks))
        for task, rows in zip(tasks, pool.map(fitted_group, tasks), strict=True):
            kind = kind_of(tables[task[0]])
            fitted += [FittedCell(kind, cell, device, table, p, unseen) for _, cell, device, table, p, unseen in rows]
            bar.update(line, advance=1, description=" ".join((task[0].name, *task[1]))[:60])
    sources = _sources(list(tables.values()))
    with (OUT.parent / ".fitting").open("w") as lock:  # runs on other files may end at the same moment
        fcntl.flock(lock, fcntl.LOCK_EX)
        write(fitted, sources)
        record(fitted, sources)
    return 0


def _afterwards(what: str, folder: Path) -> int:
    if what == "serving":
        write_serving(read_table(folder / "e2e_serving_silicon.csv"), read_table(folder / "e2e_serving_requests.csv"))
        return 0
    tables = [read_table(folder / name) for name in FILES]
    if what == "yardsticks":
        return write_yardsticks(tables)
    if what == "transfers":
        write_transfers(tables)
    else:
        write_power(tables, read_table(folder / "energy.csv"))
    return 0


def write(fitted: list[FittedCell], sources: dict[str, str]) -> None:
    """Every class, those without a fit of their own too; fits of files and machines that were not read stay."""
    today = datetime.now(UTC).date()
    unknown = {cell.device.arch for cell in fitted} - set(CLASSES)
    if unknown:
        sys.exit(f"no meaning for {', '.join(sorted(unknown))} in CLASSES")
    for name, (meaning, pooled) in CLASSES.items():
        before = _before(name)
        kept = [fit for fit in before.fits if not _refitted(fit, fitted)] if before else []
        fits = (*kept, *fits_of([cell for cell in fitted if cell.device.arch == name], today))
        known = {**(before.sources if before else {}), **sources}
        arch = Arch(
            schema=ARCH_SCHEMA, name=name, meaning=meaning, pooled_from=pooled, fits=fits,
            transfers=before.transfers if before else (),
            sources={file: known[file] for file in sorted({file for fit in fits for file in fit.files})},
        )  # fmt: skip
        print(save_arch(arch, OUT).relative_to(ROOT), len(fits), "fits")


def _before(name: str) -> Arch | None:
    path = OUT / f"{name}.toml"
    return decode_arch(name, path.read_bytes()) if path.is_file() else None


def write_transfers(tables: Sequence[Table]) -> None:
    """How far off each cell's stored parameters are on the rows of cells one step away: into every class's file."""
    fitted = [cell for table in tables for cell in _stored(table)]
    everywhere, operators = transfers_of(fitted), {cell.kind.name for cell in fitted}
    for name in CLASSES:
        before = _before(name)
        if before is not None:
            own = transfers_of([cell for cell in fitted if cell.device.arch == name])
            kept = [t for t in before.transfers if t.operator not in operators]
            after = msgspec.structs.replace(before, transfers=(*kept, *_transfers(own, everywhere)))
            print(save_arch(after, OUT).relative_to(ROOT), len(after.transfers), "transfers")


def write_power(tables: Sequence[Table], jobs: Table) -> None:
    """Power of kernels, by the stored times of the tables that have readings, and of jobs under power limits."""
    fitted, shared = fit_power([c for t in tables if t.has("power_w") for c in _stored(t, rows_each=10**9)])
    today, sources = datetime.now(UTC).date(), _sources([*tables, jobs])
    new: dict[str, list[Fit]] = {}
    if shared is not None:
        new[fitted[0].device.arch] = list(power_fits(fitted, shared, today))
    for device, fit in jobs_fits(jobs, today):
        new.setdefault(device.arch, []).append(fit)
    steps = power_transfers(fitted)
    for name in CLASSES:
        before = load_arch(name)
        fits = new.get(name, [])
        operators = {fit.operator for fit in fits}
        kept = tuple(fit for fit in before.fits if fit.operator not in operators)
        others = tuple(t for t in before.transfers if t.operator != "power")
        known = {**before.sources, **{f: sources[f] for fit in fits for f in fit.files}}
        after = msgspec.structs.replace(before, fits=(*kept, *fits), transfers=(*others, *steps), sources=known)
        print(save_arch(after, OUT).relative_to(ROOT), len(fits), "fits of power")
    _record_power(fitted)


def _record_power(fitted: Sequence[FittedPower]) -> None:
    rows = []
    for one in fitted:
        gpu, dtype, framework, version, _ = one.cell
        ape = np.abs(np.exp(-one.log_errors) - 1)
        ape = ape[np.isfinite(ape)]
        values = (np.median(ape), ape.mean(), np.quantile(ape, 0.9))
        rows.append(dict(zip(("file", "gpu", "dtype", "framework", "version", "variant", "n", "median_ape", "mape", "p90_ape"),
                             (one.table.path.name, gpu, dtype, framework, version, one.variant, len(ape),
                              *(round(float(x), 4) for x in values)), strict=True)))  # fmt: skip
    path = RECORD.with_name("held-out-power.json")
    path.write_text(
        json.dumps({"schema": 1, "protocol": "leave-shape-out", "rows": rows}, indent=1) + "\n", encoding="utf-8"
    )
    print(path.relative_to(ROOT), len(rows), "rows")


def write_yardsticks(tables: Sequence[Table]) -> int:
    """Both rooflines of the record of held-out errors, anew; what the time models did there stays."""
    body = json.loads(RECORD.read_text(encoding="utf-8"))
    names = ("file", "gpu", "dtype", "framework", "version", "variant", "regime")
    flat = {
        tuple(line[name] for name in names): line
        for table in tables
        for cell in _stored(table, rows_each=10**9)
        for line in map(asdict, held_out(cell))
    }
    changed = 0
    for row in body["rows"]:
        anew = flat.get(tuple(row[name] for name in names))
        if anew is not None:
            row |= {name: value for name, value in anew.items() if "roofline" in name}
            changed += 1
    RECORD.write_text(json.dumps(body, indent=1) + "\n", encoding="utf-8")
    print(RECORD.relative_to(ROOT), changed, "rows")
    return 0


def write_serving(silicon: Table, requests: Table) -> None:
    """A loaded server's host, by the stored times of its kernels."""
    fitted = add_serving(silicon, OUT, datetime.now(UTC).date(), requests=requests)
    rows = [line for one in fitted for line in held_out_lines(one)]
    path = RECORD.with_name("held-out-serving.json")
    path.write_text(json.dumps({"schema": 1, "rows": rows}, indent=1) + "\n", encoding="utf-8")
    print(path.relative_to(ROOT), len(rows), "rows")


def _sources(tables: Sequence[Table]) -> dict[str, str]:
    return {
        t.path.name: f"{_FROM}; sha256 {hashlib.sha256(t.path.read_bytes()).hexdigest()[:16]}; {len(t)} rows"
        for t in tables
    }


def _stored(table: Table, rows_each: int = 0) -> list[FittedCell]:
    """Cells with the parameters that their class's file has for them, on a sample of their rows."""
    kind, out = kind_of(table), []
    for cell, rows in cells(kind, table, our_dtypes).items():
        gpu, dtype, framework, version, variant = cell
        device = datasheet_device(gpu)
        for fit in load_arch(device.arch).of(kind.name):
            if (fit.dtype, fit.framework, fit.version, fit.variant) == (dtype, framework, version, variant):
                p = read_parameters(kind.model, fit.values, device.arch)
                some = rows.take(list(range(0, len(rows), max(1, len(rows) // (rows_each or _SAMPLE)))))
                seconds = np.asarray(kind.seconds(device, p, dtype, some).seconds)
                out.append(FittedCell(kind, cell, device, some, p, seconds))
                break
    return out


def _refitted(fit: Fit, fitted: list[FittedCell]) -> bool:
    return any(cell.table.path.name in fit.files and cell.device.name in fit.gpus for cell in fitted)


def _transfers(own: list[Transfer], everywhere: list[Transfer]) -> list[Transfer]:
    """Those seen in the class itself, then, for steps that it has no pair of, those seen in any class.

    Where no two machines of the class were measured, another machine adds `_OTHER_MACHINE` (no pairs).
    """
    known = {(t.operator, t.step) for t in own}
    out = [*own, *(t for t in everywhere if t.step != "gpu" and (t.operator, t.step) not in known)]
    without = {t.operator for t in out} - {t.operator for t in out if t.step == "gpu"}
    return [*out, *(Transfer(operator=x, step="gpu", sigma=_OTHER_MACHINE, pairs=0) for x in sorted(without))]


_OTHER_MACHINE = 0.1
"""Assumed. Attained memory bandwidth of cards of one class lies between 0.77 and 0.92 of the datasheet's (README of the
tables), a standard deviation of 7 % between two of them; power limits come on top. L40S and RTX 4090, the one pair that the
tables have, are the two ends of that range: their class keeps what was seen of them."""


def record(fitted: list[FittedCell], sources: dict[str, str]) -> None:
    """Held-out errors, for the README, docs and anybody who wants to check; rows of other files stay as they are."""
    before = json.loads(RECORD.read_text(encoding="utf-8")) if RECORD.is_file() else {"rows": [], "sources": {}}
    anew = {(cell.table.path.name, cell.cell[0]) for cell in fitted}
    rows = [row for row in before["rows"] if (row["file"], row["gpu"]) not in anew]
    rows += [asdict(line) for cell in fitted if cell.cell[2] for line in held_out(cell)]
    body = {
        "schema": 1, "date": datetime.now(UTC).date().isoformat(), "sources": {**before["sources"], **sources},
        "protocol": "leave-shape-out, 4 turns",
        "rows": sorted(rows, key=lambda r: (r["file"], r["gpu"], r["dtype"], r["framework"], r["version"], r["variant"])),
    }  # fmt: skip
    RECORD.write_text(json.dumps(body, indent=1) + "\n", encoding="utf-8")
    print(RECORD.relative_to(ROOT), len(rows), "rows")


if __name__ == "__main__":
    sys.exit(main())
