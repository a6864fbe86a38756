"""Which kind of published table of whole systems a file is, by its columns."""

from collections.abc import Mapping

from ridgepoint.study.published.table import Table

__all__ = ["SYSTEMS", "system_kind"]

SYSTEMS: Mapping[str, tuple[str, ...]] = {
    "serving": ("model_path", "system", "isl", "osl", "silicon_ttft_ms", "silicon_tpot_ms"),
    "serving_requests": ("gpu", "model", "arr_s", "input_toks", "output_toks", "ttft_ms", "tpot_ms"),
    "training_megatron": ("model", "hidden", "heads", "layers", "tp", "pp", "metric", "value"),
    "training": ("model", "gpu", "seq", "micro_batch", "metric", "value"),
    "inference": ("model", "gpu", "precision", "isl", "osl", "batch", "metric", "value"),
}
"""Columns that make a table one of these kinds; the first that fits."""


def system_kind(table: Table) -> str:
    """Name of the kind in `SYSTEMS`; "" for a table of single operators, or of nothing known."""
    return next((name for name, columns in SYSTEMS.items() if table.has(*columns)), "")
