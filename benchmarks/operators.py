"""How right is each operator class: compares tables of operators on models that calibration never saw.

    python benchmarks/operators.py --out DIR [--models m42,m198] [--sides fp32,bf16]

Uses the machine's calibrated target; every comparison is in the store; DIR gets the score by operator class.
"""

import argparse
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

from record import keep
from truth import config_file

from ridgepoint.measurement.memory import room_bytes
from ridgepoint.store import Store, default_path
from ridgepoint.study.compare import compare_side
from ridgepoint.study.provenance import provenance
from ridgepoint.study.score_times import score_operators
from ridgepoint.workload import decode, prefill

SIDES = ("fp32", "bf16", "int8", "int8:dyn", "int8:dyn:token", "int4", "nf4")
STEPS = (decode(1, 128), decode(16, 128), prefill(1, 64))


def main() -> None:
    """Compare all, print and write the score and the memory of each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--models", default="m42,m198")
    parser.add_argument("--sides", default=",".join(SIDES))
    parser.add_argument("--seconds", type=float, default=2.0)
    options = parser.parse_args()
    bodies, memory = [], []
    with Store(default_path()) as store, tempfile.TemporaryDirectory() as folder:
        for name in options.models.split(","):
            model = str(config_file(name, Path(folder)))
            for side in options.sides.split(","):
                for step in STEPS:
                    predicted, measured, _ = compare_side(
                        model, side, step, "host", store, provenance(), room_bytes(), seconds=options.seconds
                    )
                    bodies.append({"predicted": asdict(predicted), "result": asdict(measured)})
                    ours, theirs = (r.metrics["memory_bytes"] for r in (predicted, measured))
                    assert ours and theirs, "both count memory"
                    row = {
                        "model": name,
                        "side": side,
                        "step": str(step),
                        "memory": round(ours.value / theirs.value, 4),
                    }
                    memory.append({**row, "latency": round(predicted.latency_s / measured.latency_s, 4)})
                    sys.stdout.write(f"  {memory[-1]}\n")
                    sys.stdout.flush()
    rows = score_operators(bodies)
    keep(options.out, "operators.json", {"score": [asdict(r) for r in rows], "steps": memory})
    from rich.console import Console

    from ridgepoint.report.terminal import score_table

    Console(width=150).print(score_table(rows))


if __name__ == "__main__":
    main()
