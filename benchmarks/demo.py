"""What a new user sees: `make demo` timed from a calibration of its own to the report, and the verdict that it printed.

    python benchmarks/demo.py --out DIR

Downloads are not in the figure: run `make demo` once before. Uses a data folder of its own.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from ridgepoint.store import Store
from ridgepoint.study.provenance import provenance

ROOT = Path(__file__).resolve().parent.parent


def main() -> None:
    """Run the demo, print its seconds, write them with its verdict."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        begin = time.monotonic()
        environment = {**os.environ, "RIDGEPOINT_HOME": folder}
        subprocess.run(["make", "demo", "FORCE=1"], cwd=ROOT, check=True, env=environment)
        seconds = time.monotonic() - begin
        with Store(Path(folder) / "ridge.db") as store:
            answer = list(store.records(kind="answer"))[-1].body["answer"]
    sys.stdout.write(f"make demo: {seconds:.0f} s (bound 360)\n")
    made = provenance()
    record = {
        "machine": dict(made.machine), "versions": dict(made.versions), "seconds": seconds,
        "verdict": answer["verdict"], "flags": answer["flags"], "points": answer["points"],
    }  # fmt: skip
    (options.out / "demo.json").write_text(json.dumps(record, indent=1, default=str))


if __name__ == "__main__":
    main()
