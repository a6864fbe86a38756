"""Does the comparison see what is there, and only that: A against itself, and A against A slowed down by 10 %.

    python benchmarks/same.py --out DIR [--runs 50] [--load 0]

`--load N` keeps N busy loops running beside it. Prints how often a difference was called and the half-widths.
"""

import argparse
import contextlib
import math
import multiprocessing
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from figures import of_same
from record import keep
from truth import config_file

from ridgepoint.measurement.memory import room_bytes
from ridgepoint.store import Store
from ridgepoint.study.provenance import provenance
from ridgepoint.study.question import Question, ask
from ridgepoint.study.why import Effort, why


def main() -> None:
    """Run both experiments and write what each run said."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--runs", type=int, default=50)
    parser.add_argument("--seconds", type=float, default=9.0)
    parser.add_argument("--load", type=int, default=0)
    parser.add_argument("--side", default="bf16")
    options = parser.parse_args()
    with busy_loops(options.load), tempfile.TemporaryDirectory() as folder, Store(Path(folder) / "ridge.db") as store:
        model = str(config_file("m27", Path(folder)))
        question = ask(model, f"{options.side}..{options.side}", batches=(4,), isl=64)
        same = [one(question, store, options.seconds, 1.0) for _ in range(options.runs)]
        slow = [one(question, store, options.seconds, 1.1) for _ in range(options.runs)]
    found = {"same": same, "slow": slow}
    said = of_same(found)
    sys.stdout.write(
        f"A against A: a difference called in {said['same.called']} (bound 1 of 50); half-width <= 5 % in "
        f"{said['same.narrow']} (bound 45); a 10 % slowdown called in {said['same.slow_called']} (bound 45)\n"
    )
    keep(options.out, f"same-load{options.load}.json", found)


def one(question: Question, store: Store, seconds: float, factor: float) -> dict[str, Any]:
    """One run of `ridge why`, which measures in a process of its own, so memory is laid out anew.

    Its bets go into a store that is thrown away: those that are slowed down on purpose are no record of our errors.
    """
    effort = Effort(seconds=seconds, slow_b=factor)
    point = why(question, store, provenance(), Quiet(), effort, room_bytes("cpu")).points[0]
    if not point.measured_speedup or not point.measured_low or not point.measured_high:
        sys.stdout.write(f"  x{factor}: {point.flags}\n")
        return {"speedup": None, "verdict": point.verdict, "n": 0, "half_width": None, "flags": list(point.flags)}
    low, high = point.measured_low, point.measured_high
    sys.stdout.write(f"  x{factor}: {point.measured_speedup:.3f} ({low:.3f}-{high:.3f}) {point.verdict}\n")
    sys.stdout.flush()
    return {
        "speedup": point.measured_speedup, "low": low, "high": high, "verdict": point.verdict, "n": point.rounds,
        "half_width": math.log(high / low) / 2, "load": point.load,
    }  # fmt: skip


class Quiet:
    """Says nothing while `why` works."""

    def bet(self, bet: Any, record: Any) -> None: ...
    def stage(self, text: str, done: int, total: int) -> None: ...
    def point(self, point: Any) -> None: ...


@contextlib.contextmanager
def busy_loops(count: int) -> Iterator[None]:
    """`count` processes that compute for as long as the block runs."""
    loops = [multiprocessing.Process(target=spin, daemon=True) for _ in range(count)]
    for loop in loops:
        loop.start()
    try:
        yield
    finally:
        for loop in loops:
            loop.terminate()


def spin() -> None:
    """Compute until the end."""
    until = time.monotonic() + 3600
    x = 1
    while time.monotonic() < until:
        for _ in range(10000):
            x = x * 1103515245 % 2147483647


if __name__ == "__main__":
    main()
