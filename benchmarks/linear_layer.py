"""A linear layer 4096x4096 by format and batch, and whether a busy machine turns any sign.

    python benchmarks/linear_layer.py --out DIR [--load 0] [--layers 4096x4096] [--seconds 3]

Every bet goes through `ridge why`'s own path; run it once idle and once with `--load 2`, then it compares the signs.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

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
    options.out.mkdir(parents=True, exist_ok=True)
    batches = tuple(int(b) for b in options.batch.split(","))
    points: list[dict[str, Any]] = []
    with busy_loops(options.load), Store(default_path()) as store:
        for layer in options.layers.split(","):
            for bet in BETS:
                question = ask(f"linear:{layer}", bet, batches=batches)
                effort = Effort(seconds=options.seconds, every_point=True)
                answer = why(question, store, provenance(), Quiet(), effort, float(available_bytes() or 2**62))
                points += [{**p, "layer": layer} for p in plain(answer)["points"]]
    (options.out / f"linear-load{options.load}.json").write_text(json.dumps(points, indent=1))
    idle = options.out / "linear-load0.json"
    if options.load and idle.is_file():
        compare(json.loads(idle.read_text()), points)


def compare(idle: list[dict[str, Any]], loaded: list[dict[str, Any]]) -> None:
    """How many points were measured under load, and how many of those turned the sign of a clear idle effect."""
    clear = {
        key(p): p["measured_speedup"] for p in idle if p["measured_speedup"] and abs(p["measured_speedup"] - 1) > 0.03
    }
    measured = {key(p): p["measured_speedup"] for p in loaded if p["measured_speedup"]}
    turned = [k for k, value in clear.items() if k in measured and (measured[k] > 1) != (value > 1)]
    print(
        f"{len(measured)} of {len(loaded)} points measured under load; {len(turned)} of {len(clear)} signs turned: {turned}"
    )


def key(point: dict[str, Any]) -> tuple[Any, ...]:
    """What makes two points the same question."""
    return point["layer"], point["a"], point["b"], point["batch"]


if __name__ == "__main__":
    main()
