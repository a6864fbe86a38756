"""Calibrate a datasheet target from a sweep of operators in a CSV file: parameters of its own, the user's files win."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import numpy as np

from ridgepoint.errors import BadInput
from ridgepoint.hardware import Arch, Fit, Target, data_folder, encode_target, load_arch, load_target, save_arch
from ridgepoint.hardware.arch import ARCH_SCHEMA
from ridgepoint.study.fitting.classes import FittedCell, fit_kind, fits_of
from ridgepoint.study.published.cells import measured_seconds, plausible
from ridgepoint.study.published.registry import kind_of
from ridgepoint.study.published.table import fingerprint, read_table
from ridgepoint.study.scoring import datasheet_device

__all__ = ["CellError", "Swept", "calibrate_from"]

_FEWEST = 12
"""Rows of a cell below which nothing is fitted: a time model has up to 16 parameters, drawn to those of its class."""


_SHORTEST_US = 0.3
"""No kernel of a GPU is shorter: rows below it are left out."""
_WORST = 0.5
"""Median error from which parameters would mislead more than those of the class."""


@dataclass(frozen=True, slots=True)
class CellError:
    """What a cell's new parameters do on shapes that they have not seen."""

    target: str
    operator: str
    dtype: str
    stack: str
    rows: int
    median_ape: float


@dataclass(frozen=True, slots=True)
class Swept:
    """What a sweep gave: files written, and held-out errors of each cell."""

    paths: tuple[Path, ...]
    errors: tuple[CellError, ...]
    skipped: tuple[str, ...]


def calibrate_from(path: Path, progress: Callable[[str], None] = lambda _: None) -> Swept:
    """Fit every cell of the table that has enough rows, and write a class of its own for each machine in it.

    The class takes what the sweep has no rows of from the machine's class before. Raises BadInput for a table that is
    of no known kind or too small, UnknownName for a machine that no target describes.
    """
    table = read_table(path)
    kind = kind_of(table)
    usable = table.take(kind.usable(table) & plausible(kind, table) & (table.number("latency_us") >= _SHORTEST_US))
    if len(usable) < _FEWEST:
        raise BadInput(
            f"{path.name}: {len(usable)} usable rows are too few to fit; at least {_FEWEST} of each dtype and stack"
        )
    fitted = fit_kind(kind, usable, datasheet_device, progress)
    kept = [cell for cell in fitted if len(cell.table) >= _FEWEST]
    skipped = tuple(
        f"{' '.join(filter(None, c.cell))}: {len(c.table)} rows, too few" for c in fitted if len(c.table) < _FEWEST
    )
    if not kept:
        raise BadInput(f"{path.name}: no dtype and stack with at least {_FEWEST} rows")
    errors = tuple(_error(cell) for cell in kept)
    stacks = any(cell.cell[2] for cell in kept)  # then the cell without one is what they share, judged by none of them
    judged = [error for cell, error in zip(kept, errors, strict=True) if cell.cell[2] or not stacks]
    worst = next((x for x in judged if not x.median_ape <= _WORST), None)
    if worst is not None:
        raise BadInput(
            f"{path.name}: {worst.operator} {worst.dtype} {worst.stack} of {worst.target} cannot be fitted: median error "
            f"{worst.median_ape:.0%} on shapes left out, at most {_WORST:.0%} is possible; nothing was written"
        )
    paths: list[Path] = []
    for name in dict.fromkeys(cell.device.name for cell in kept):
        paths += _write(load_target(name), [cell for cell in kept if cell.device.name == name], path)
    return Swept(tuple(paths), errors, skipped)


def _write(target: Target, cells: Sequence[FittedCell], path: Path) -> list[Path]:
    own = f"{target.name}-swept"
    before = load_arch(target.arch)
    base = load_arch(before.pooled_from[0]) if before.name == own else before
    fits = tuple(fits_of(cells, datetime.now(UTC).date()))
    kept = tuple(fit for fit in before.fits if before.name == own and not any(_same(fit, new) for new in fits))
    arch = Arch(
        schema=ARCH_SCHEMA, name=own, meaning=f"{target.name}, fitted to a sweep of its owner",
        pooled_from=(base.name,), fits=(*kept, *fits), transfers=base.transfers,
        sources={file: before.sources.get(file, "a sweep of the user's") for fit in kept for file in fit.files}
        | {path.name: f"a sweep of the user's, {path}; {fingerprint(path)}"},
    )  # fmt: skip
    folder = data_folder() / "targets"
    folder.mkdir(parents=True, exist_ok=True)
    out = folder / f"{target.name}.toml"
    out.write_bytes(encode_target(msgspec.structs.replace(target, arch=own)))
    return [save_arch(arch, data_folder() / "arch"), out]


def _same(a: Fit, b: Fit) -> bool:
    return all(getattr(a, x) == getattr(b, x) for x in ("operator", "dtype", "framework", "version", "variant"))


def _error(cell: FittedCell) -> CellError:
    _, dtype, framework, version, variant = cell.cell
    good = np.isfinite(cell.unseen_s)
    ape = np.abs(cell.unseen_s[good] / measured_seconds(cell.table)[good] - 1)
    stack = " ".join(x for x in (framework or "all", version, variant) if x)
    median = float(np.median(ape)) if good.any() else float("nan")
    return CellError(cell.device.name, cell.kind.name, dtype, stack, len(cell.table), median)
