"""What a new user sees: `make demo` timed from a calibration of its own to the report, and the verdict that it printed.

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
            answer = list(store.records(kind="answer"))[-1].body["answer"]
    sys.stdout.write(f"make demo: {seconds:.0f} s (bound 360)\n")
    keep(options.out, "demo.json", {"seconds": seconds, **{key: answer[key] for key in ("verdict", "flags", "points")}})


if __name__ == "__main__":
    main()
