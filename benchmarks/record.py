"""Writes what a benchmark found as JSON, with the machine and the versions that it was found on."""

import json
from pathlib import Path
from typing import Any

from ridgepoint.study.provenance import provenance

__all__ = ["keep"]


def keep(folder: Path, name: str, found: dict[str, Any]) -> None:
    """`folder`/`name`, which are made if need be."""
    made = provenance()
    record = {"machine": dict(made.machine), "versions": dict(made.versions), **found}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(json.dumps(record, indent=1, default=str))
