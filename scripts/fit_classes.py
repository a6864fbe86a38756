"""Fit the classes of machines to published measurements: writes `hardware/data/arch/<class>.toml` and the held-out errors."""

import argparse
import fcntl
import hashlib
import json
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from ridgepoint.hardware import STEPS, Arch, Fit, Transfer, decode_arch, load_arch, save_arch
from ridgepoint.hardware.arch import ARCH_SCHEMA
from ridgepoint.prediction.physics.parameters import read_parameters
from ridgepoint.study.fitting.baselines import fitted_roofline, roofline
from ridgepoint.study.fitting.classes import FittedCell, Group, fit_group, fits_of, groups_of, transfers_of
from ridgepoint.study.fitting.coverage import Intervals, unseen_intervals
from ridgepoint.study.fitting.pairs import CLEAR, PAIRED, PredictedRows, pair_scores
from ridgepoint.study.fitting.power import FittedPower, fit_power, jobs_fits, power_fits, power_transfers
from ridgepoint.study.fitting.serving import add_serving, held_out_lines
from ridgepoint.study.published.cells import Cell, cells, measured_seconds
from ridgepoint.study.published.registry import kind_of
from ridgepoint.study.published.spelling import our_dtypes
from ridgepoint.study.published.table import Table, fingerprint, read_table
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
    "ampere": ("NVIDIA Ampere for data centres, 8.0", ("ada", "hopper", "volta")),
    "ampere-consumer": ("NVIDIA Ampere with GDDR6 or LPDDR5, 8.6 and 8.7", ("ampere", "ada")),
    "ada": ("NVIDIA Ada Lovelace, 8.9", ("ampere", "hopper")),
    "hopper": ("NVIDIA Hopper, 9.0", ("blackwell", "ampere", "ada")),
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
    coverage80: float
    """Share inside 80 % intervals whose widths, too, were fitted without the row's shape."""
    half_width80: float
    """Mean half-width of those intervals, as a logarithm."""
    band_coverage80: float
    """The same of a constant band for each regime of the cell, fitted likewise."""
    band_half_width80: float


def held_out(cell: FittedCell, intervals: Intervals) -> list[HeldOut]:
    """One line for all regimes, one for each."""
    measured, predicted = measured_seconds(cell.table), cell.unseen_s
    regime = cell.kind.regime(cell.table)
    flat, fitted = roofline(cell), fitted_roofline(cell)
    good = np.isfinite(predicted) & np.isfinite(fitted)
    out = []
    for name in ("all", *sorted(set(map(str, regime)))):
        rows = good & ((regime == name) | (name == "all"))
        if not rows.any():
            continue
        ape, flat_ape, fitted_ape = (np.abs(x[rows] / measured[rows] - 1) for x in (predicted, flat, fitted))
        gpu, dtype, framework, version, variant = cell.cell
        out.append(HeldOut(
            cell.table.path.name, cell.kind.name, gpu, dtype, framework, version, variant, name, int(rows.sum()),
            *(round(float(x), 4) for x in (
                np.median(ape), ape.mean(), np.quantile(ape, 0.9), np.median(predicted[rows] / measured[rows]),
                np.median(flat_ape), np.median(fitted_ape), fitted_ape.mean(), intervals.coverage(rows),
                intervals.half[rows].mean(), intervals.band_coverage(rows), intervals.band[rows].mean(),
            )),
        ))  # fmt: skip
    return out


_SAMPLE = 150
"""Rows of a cell on which others' parameters are tried."""
Task = tuple[Path, Group, Path | None]
Found = list[tuple[Cell, dict[str, float], list[float], list[int]]]
"""Cell, parameters, seconds predicted unseen, and lines of the file."""


def fitted_group(task: Task) -> Found:
    """One group of cells, in a process of its own; what was found before for the same file is read from the cache."""
    path, key, cache = task
    stem = hashlib.sha256("|".join((fingerprint(path), *key, _code(key[0]))).encode()).hexdigest()[:20]
    kept = cache / f"{stem}.json" if cache else None
    if kept and kept.is_file():
        return [(tuple(cell), *rest) for cell, *rest in json.loads(kept.read_text(encoding="utf-8"))]
    table = read_table(path)
    cells = fit_group(kind_of(table).as_shipped(), table, key, datasheet_device)
    found: Found = [
        (c.cell, msgspec.structs.asdict(c.parameters), c.unseen_s.tolist(), c.table.lines.tolist()) for c in cells
    ]
    if kept:
        kept.parent.mkdir(parents=True, exist_ok=True)
        partial = kept.with_suffix(".partial")
        partial.write_text(json.dumps(found), encoding="utf-8")
        partial.replace(kept)
    return found


def _code(gpu: str) -> str:
    """Fingerprint of all that a group's fit comes from besides its table: the models, what fits and reads, the device."""
    digest = hashlib.sha256(repr(datasheet_device(gpu)).encode())
    for folder in ("prediction/physics", "study/published"):
        for file in sorted((ROOT / "ridgepoint" / folder).glob("*.py")):
            digest.update(file.read_bytes())
    for name in ("classes", "held_out", "robust"):
        digest.update((ROOT / "ridgepoint" / "study" / "fitting" / f"{name}.py").read_bytes())
    return digest.hexdigest()


def _cells(table: Table, found: Found) -> Iterator[FittedCell]:
    kind, where = kind_of(table), {line: i for i, line in enumerate(table.lines.tolist())}
    for cell, values, unseen, lines in found:
        p = read_parameters(kind.model, values, " ".join(cell))
        rows = table.take([where[line] for line in lines])
        yield FittedCell(kind, cell, datasheet_device(cell[0]), rows, p, np.array(unseen))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="where the CSV files are, with their README.md")
    parser.add_argument("--files", nargs="*", default=FILES)
    parser.add_argument("--gpus", nargs="*", default=(), help="names of the gpu column; default: all")
    parser.add_argument(
        "--only", choices=("transfers", "power", "serving", "yardsticks"), help="what builds on the operators' fits"
    )
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--cache", type=Path, help="a folder that keeps each group, for runs that stop or are repeated")
    arguments = parser.parse_args()
    if arguments.only:
        return _afterwards(arguments.only, arguments.folder)
    tables = {path: read_table(path) for path in (arguments.folder / name for name in arguments.files)}
    tasks: list[Task] = [
        (path, key, arguments.cache)
        for path, t in tables.items()
        for key in groups_of(kind_of(t), t)
        if not arguments.gpus or key[0] in arguments.gpus
    ]
    fitted: list[FittedCell] = []
    columns = (TextColumn("{task.description:60}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar, ProcessPoolExecutor(arguments.jobs) as pool:
        line = bar.add_task("", total=len(tasks))
        for task, found in zip(tasks, pool.map(fitted_group, tasks), strict=True):
            fitted += _cells(tables[task[0]], found)
            bar.update(line, advance=1, description=" ".join((task[0].name, *task[1]))[:60])
    sources = _sources(list(tables.values()))
    with (OUT.parent / ".fitting").open("w") as lock:  # runs on other files may end at the same moment
        fcntl.flock(lock, fcntl.LOCK_EX)
        write(fitted, sources)
        record(fitted, sources)
        record_pairs(fitted)
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
    anew = list(zip(fitted, fits_of(fitted, today), strict=True))
    for name, (meaning, pooled) in CLASSES.items():
        before = _before(name)
        kept = [fit for fit in before.fits if not _refitted(fit, fitted)] if before else []
        fits = (*kept, *(fit for cell, fit in anew if cell.device.arch == name))
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
            after = msgspec.structs.replace(before, transfers=(*kept, *_transfers(own, everywhere, operators)))
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
        for line in map(asdict, held_out(cell, Intervals(cell.log_errors, cell.log_errors, cell.log_errors)))
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
    return {t.path.name: f"{_FROM}; {fingerprint(t.path)}; {len(t)} rows" for t in tables}


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


def _transfers(own: list[Transfer], everywhere: list[Transfer], operators: set[str]) -> list[Transfer]:
    """Those seen in the class itself, then, for steps that it has no pair of, those seen in any class.

    Without any pair: another machine of the class adds `_OTHER_MACHINE`, any other step what it adds to most operators.
    """
    known = {(t.operator, t.step) for t in own}
    out = [*own, *(t for t in everywhere if t.step != "gpu" and (t.operator, t.step) not in known)]
    known = {(t.operator, t.step) for t in out}
    usual = {step: float(np.median([t.sigma for t in everywhere if t.step == step] or [0.0])) for step in STEPS}
    usual["gpu"] = _OTHER_MACHINE
    without = [(x, step) for x in sorted(operators) for step in STEPS if (x, step) not in known]
    return [*out, *(Transfer(operator=x, step=step, sigma=round(usual[step], 4), pairs=0) for x, step in without)]


_OTHER_MACHINE = 0.08
"""Assumed. Attained memory bandwidth of cards of one class lies between 0.77 and 0.92 of the datasheet's (README of the
tables), a standard deviation of 7 % between two of them, of which inline error correction explains a part; power limits
come on top. A tile model of six parameters went from 8 % at the median on the GPUs that it was fitted on to 9 % on an H200
(ibid.), as an added error of 6 % does. What L40S and RTX 4090 showed, the one pair of the tables, their class keeps."""


def record(fitted: list[FittedCell], sources: dict[str, str]) -> None:
    """Held-out errors, for the README, docs and anybody who wants to check; rows of other files stay as they are."""
    before = json.loads(RECORD.read_text(encoding="utf-8")) if RECORD.is_file() else {"rows": [], "sources": {}}
    anew = {(cell.table.path.name, cell.cell[0]) for cell in fitted}
    rows = [row for row in before["rows"] if (row["file"], row["gpu"]) not in anew]
    for cell, intervals in _with_intervals(fitted):
        rows += [asdict(line) for line in held_out(cell, intervals)]
    body = {
        "schema": 1, "date": datetime.now(UTC).date().isoformat(), "sources": {**before["sources"], **sources},
        "protocol": "leave-shape-out, 4 turns",
        "rows": sorted(rows, key=lambda r: (r["file"], r["gpu"], r["dtype"], r["framework"], r["version"], r["variant"])),
    }  # fmt: skip
    RECORD.write_text(json.dumps(body, indent=1) + "\n", encoding="utf-8")
    print(RECORD.relative_to(ROOT), len(rows), "rows")


def _with_intervals(fitted: list[FittedCell]) -> Iterator[tuple[FittedCell, Intervals]]:
    """Cells of single stacks with intervals that did not see their rows."""
    for kind in dict.fromkeys(cell.kind.name for cell in fitted):
        cells = [cell for cell in fitted if cell.kind.name == kind and cell.cell[2]]
        yield from zip(cells, unseen_intervals(cells), strict=True)


def record_pairs(fitted: list[FittedCell]) -> None:
    """Signs of the speed-ups of formats over 16 bits, by predictions that saw no row of the shape on that machine."""
    cells = [c for c in fitted if c.kind.name == "gemm" and c.cell[2] and c.table.path.name == PAIRED]
    if not cells:
        return
    rows = [PredictedRows(c.device, *c.cell[:4], c.table, c.unseen_s) for c in cells]
    path = RECORD.with_name("held-out-pairs.json")
    before = json.loads(path.read_text(encoding="utf-8"))["rows"] if path.is_file() else []
    gpus = {c.cell[0] for c in cells}
    lines = [r for r in before if r["gpu"] not in gpus] + [asdict(line) for line in pair_scores(rows)]
    body = {"schema": 1, "protocol": "leave-shape-out, 4 turns", "file": PAIRED, "clear": CLEAR, "rows": lines}
    path.write_text(json.dumps(body, indent=1) + "\n", encoding="utf-8")
    print(path.relative_to(ROOT), len(lines), "rows")


if __name__ == "__main__":
    sys.exit(main())
