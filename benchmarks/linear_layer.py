"""A linear layer 4096x4096 by format and batch, and whether a busy machine turns any sign.

    python benchmarks/linear_layer.py --out DIR [--load 0] [--layers 4096x4096] [--seconds 3]

Every bet goes through `ridge why`'s own path; run it once idle and once with `--load 2`, then it compares the signs.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from figures import of_linear
from record import keep
from same import busy_loops

from ridgepoint.measurement.memory import available_bytes
from ridgepoint.store import Store, default_path
from ridgepoint.study.document import plain
from ridgepoint.study.provenance import provenance
from ridgepoint.study.question import ask
from ridgepoint.study.why import Effort, why

BETS = ("fp32..bf16,int8,int4,int8:naive", "bf16..int4,int8:dyn,nf4")


class Quiet:
    """Says nothing while `why` works."""

    def bet(self, bet: Any, record: Any) -> None: ...
    def stage(self, text: str, done: int, total: int) -> None: ...
    def point(self, point: Any) -> None:
        measured = "absent" if point.measured_speedup is None else f"{point.measured_speedup:6.2f}"
        sys.stdout.write(
            f"  {point.a}..{point.b:10s} @{point.batch:3d} predicted {point.predicted_speedup:6.2f} measured {measured}\n"
        )
        sys.stdout.flush()


def main() -> None:
    """Settle the bets and write the points; with an idle record beside, count turned signs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--load", type=int, default=0)
    parser.add_argument("--layers", default="4096x4096")
    parser.add_argument("--batch", default="1,2,4,8,16,32,64")
    parser.add_argument("--seconds", type=float, default=3.0)
    options = parser.parse_args()
    batches = tuple(int(b) for b in options.batch.split(","))
    points: list[dict[str, Any]] = []
    with busy_loops(options.load), Store(default_path()) as store:
        for layer in options.layers.split(","):
            for bet in BETS:
                question = ask(f"linear:{layer}", bet, batches=batches)
                effort = Effort(seconds=options.seconds, every_point=True)
                answer = why(question, store, provenance(), Quiet(), effort, float(available_bytes() or 2**62))
                points += [{**p, "layer": layer} for p in plain(answer)["points"]]
    keep(options.out, f"linear-load{options.load}.json", {"points": points})
    idle = options.out / "linear-load0.json"
    if options.load and idle.is_file():
        said = of_linear(json.loads(idle.read_text())["points"], points)
        sys.stdout.write(
            f"under load {said['linear.load.measured']} points measured, {said['linear.load.turned']} signs turned\n"
        )


if __name__ == "__main__":
    main()
