"""Do two calibrations back to back predict alike: the median difference of predicted steps on models never calibrated.

    python benchmarks/repeat.py --out DIR

The second calibration stays as the machine's target.
"""

import argparse
import itertools
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from record import keep
from truth import MODELS, config_file

from ridgepoint.choice import resolve
from ridgepoint.hardware import Target
from ridgepoint.prediction import step_time
from ridgepoint.store import Store, default_path
from ridgepoint.study.calibrate import calibrate, host_name
from ridgepoint.study.provenance import provenance
from ridgepoint.workload import decode, load_model, prefill

SIDES = ("fp32", "bf16", "fp16", "int8", "int8:dyn", "int8:dyn:token", "fp32+int8:dyn:token", "int4", "nf4")
STEPS = (*(decode(batch, 128) for batch in (1, 4, 16, 64)), prefill(1, 64), prefill(4, 64))


def main() -> None:
    """Calibrate twice, compare the predictions, write both times and all differences."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    targets, seconds = [], []
    with Store(default_path()) as store:
        for _ in range(2):
            begin = time.monotonic()
            targets.append(calibrate(store, provenance(), lambda title, done: None, name=host_name(), fresh=True)[0])
            seconds.append(time.monotonic() - begin)
    rows = differences(*targets)
    apart = np.abs([row["second_over_first"] - 1 for row in rows])
    median, worst = float(np.median(apart)), float(np.max(apart))
    sys.stdout.write(
        f"two calibrations of {seconds[0]:.0f} and {seconds[1]:.0f} s (bound 90): {len(rows)} predicted steps differ by "
        f"{100 * median:.1f} % at the median (bound 3), {100 * worst:.0f} % at worst\n"
    )
    checks = [dict(t.checks) for t in targets]
    found = {"calibrate_s": seconds, "median": median, "worst": worst, "checks": checks, "steps": rows}
    keep(options.out, "repeat.json", found)


def differences(first: Target, second: Target) -> list[dict[str, Any]]:
    """Predicted time of each step by the second calibration over that by the first."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        models = {name: load_model(str(config_file(name, Path(folder)))) for name in MODELS}
    for (name, model), side, step in itertools.product(models.items(), SIDES, STEPS):
        plan = resolve(side, "bf16").plan(model, step)
        one, two = (float(step_time(plan, target).seconds) for target in (first, second))
        rows.append({"model": name, "side": side, "step": str(step), "second_over_first": round(two / one, 5)})
    return rows


if __name__ == "__main__":
    main()
