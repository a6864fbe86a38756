"""Memory: every bet, point and calibration, appended as it comes and never changed."""

from ridgepoint.store.database import Store, default_path
from ridgepoint.store.lines import Imported, export_lines, import_lines
from ridgepoint.store.record import KINDS, Provenance, Record, canonical, digest, new_record

__all__ = [
    "KINDS", "Imported", "Provenance", "Record", "Store", "canonical", "default_path", "digest", "export_lines",
    "import_lines", "new_record",
]  # fmt: skip
