"""How fast predictions from datasheets are: a grid through the vectorised path, and one at a time beside it.

python benchmarks/datasheet.py            prints and stores benchmarks/records/datasheet.json
"""

import json
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

from ridgepoint import load_model, load_target
from ridgepoint.choice import resolve
from ridgepoint.prediction import step_time
from ridgepoint.workload import Parallel, Plan, decode

RECORD = Path(__file__).resolve().parent / "records" / "datasheet.json"
MODEL, TARGET = "llama-3.1-8b", "h100-sxm"
BATCHES = np.arange(1.0, 257.0)[:, None]
CONTEXTS = np.linspace(128.0, 32768.0, 256)[None, :]
PRECISIONS = ("bf16", "fp8", "int4")
DEVICES = (1, 2, 4, 8)
REPEATS = 5
SINGLES = 200


def plan(precision: str, tp: int, batch: "float | np.ndarray", context: "float | np.ndarray") -> Plan:
    """One side over a step that may hold arrays."""
    model = load_model(MODEL)
    side = resolve(precision, model.dtype, "cuda")
    made = side.plan(model, decode(batch, context))
    return replace(made, parallel=Parallel(tp=tp))


def main() -> None:
    """CPU time of one thread; the best of a few repeats of the grid, the mean of single predictions."""
    target = load_target(TARGET)
    grid = [(precision, tp) for precision in PRECISIONS for tp in DEVICES]
    step_time(plan("bf16", 1, 1.0, 128.0), target)
    best = min(_grid_seconds(grid, target) for _ in range(REPEATS))
    points = len(grid) * BATCHES.size * CONTEXTS.size
    start = time.process_time()
    for i in range(SINGLES):
        precision, tp = grid[i % len(grid)]
        step_time(plan(precision, tp, float(1 + i), 1024.0), target)
    single = (time.process_time() - start) / SINGLES
    record = {
        "model": MODEL, "target": TARGET, "points": points, "configurations_per_s": points / best,
        "single_prediction_ms": 1e3 * single, "single_per_s": 1 / single,
    }  # fmt: skip
    RECORD.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    sys.stdout.write(json.dumps(record, indent=1) + "\n")


def _grid_seconds(grid: list[tuple[str, int]], target: object) -> float:
    start = time.process_time()
    for precision, tp in grid:
        step_time(plan(precision, tp, BATCHES, CONTEXTS), target)  # type: ignore[arg-type]
    return time.process_time() - start


if __name__ == "__main__":
    main()
