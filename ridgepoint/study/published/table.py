"""A CSV of measurements as columns: text as it stands, numbers as floats, with errors that name the file and the line."""

import csv
import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ridgepoint.errors import BadInput

__all__ = ["Floats", "Mask", "Table", "Texts", "fingerprint", "read_table"]

Floats = npt.NDArray[np.float64]
Texts = npt.NDArray[np.str_]
Mask = npt.NDArray[np.bool_]

_MAX_BYTES = 512 * 2**20


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of one file; `take` selects some of them."""

    path: Path
    columns: Mapping[str, Texts]
    lines: npt.NDArray[np.int64]
    """Line of the file that each row stands on; the header is 1."""

    def __len__(self) -> int:
        return len(self.lines)

    def has(self, *names: str) -> bool:
        """Whether all these columns are there."""
        return all(name in self.columns for name in names)

    def text(self, name: str, absent: str = "") -> Texts:
        """A column as text; a column that is not there is `absent` throughout."""
        return self.columns[name] if name in self.columns else np.full(len(self), absent)

    def number(self, name: str, empty: float = math.nan) -> Floats:
        """A column as floats, an empty cell as `empty`; raises BadInput naming the line of anything else."""
        out = np.empty(len(self))
        for i, cell in enumerate(self.text(name)):
            try:
                out[i] = float(cell) if cell.strip() else empty
            except ValueError:
                where = f"{self.path.name}: line {self.lines[i]}"
                raise BadInput(f"{where}: {name} is {str(cell)!r}; possible is a number") from None
        return out

    def take(self, mask: Mask | Sequence[int]) -> "Table":
        """The rows of a mask or of indices."""
        return Table(self.path, {k: v[mask] for k, v in self.columns.items()}, self.lines[mask])


def fingerprint(path: Path) -> str:
    """What tells a file's content from any other's, as classes keep it of the files that they were fitted to."""
    state = path.stat()
    return _fingerprint(path, state.st_mtime_ns, state.st_size)


@cache
def _fingerprint(path: Path, _changed: int, _size: int) -> str:
    return f"sha256 {hashlib.sha256(path.read_bytes()).hexdigest()[:16]}"


def read_table(path: Path) -> Table:
    """All rows of a CSV with a header; raises BadInput where it cannot be read or a row has other columns than the header."""
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise BadInput(f"{path}: larger than {_MAX_BYTES >> 20} MiB")
        with path.open(encoding="utf-8-sig", newline="") as file:
            return _parsed(path, file)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise BadInput(f"{path}: cannot be read as CSV: {error}") from None


def _parsed(path: Path, file: object) -> Table:
    reader = csv.reader(file)  # type: ignore[arg-type]
    header = next(reader, [])
    if len(set(header)) != len(header) or not header:
        raise BadInput(f"{path}: needs a first line with a name for each column, no name twice")
    rows, lines = [], []
    for row in reader:
        if not row:
            continue
        if len(row) != len(header):
            raise BadInput(f"{path}: line {reader.line_num} has {len(row)} cells; the header has {len(header)}")
        rows.append(row)
        lines.append(reader.line_num)
    columns = {name: np.array([row[i] for row in rows], dtype=np.str_) for i, name in enumerate(header)}
    return Table(path, columns, np.array(lines, dtype=np.int64))
