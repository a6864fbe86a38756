"""What a new user sees: `make demo` timed from a calibration of its own to the report, and the verdicts that it printed.

    python benchmarks/demo.py --out DIR

Downloads are not in the figure: run `make demo` once before. Uses a data folder of its own.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from record import keep

from ridgepoint.store import Store

ROOT = Path(__file__).resolve().parent.parent


def main() -> None:
    """Run the demo, print its seconds, write them with its verdict."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        begin = time.monotonic()
        environment = {**os.environ, "RIDGEPOINT_HOME": folder}
        subprocess.run(["make", "demo", "FORCE=1"], cwd=ROOT, check=True, env=environment)
        seconds = time.monotonic() - begin
        with Store(Path(folder) / "ridge.db") as store:
            answers = {r.body["answer"]["bet"]["model"]: r.body["answer"] for r in store.records(kind="answer")}
    sys.stdout.write(f"make demo: {seconds:.0f} s (bound 360)\n")
    speed, pocket = answers["smollm2-135m"], answers["pocket"]
    found = {key: speed[key] for key in ("verdict", "flags", "points")}
    small = {key: pocket[key] for key in ("verdict", "flags", "points", "accuracy")}
    keep(options.out, "demo.json", {"seconds": seconds, **found, "pocket": small})


if __name__ == "__main__":
    main()
