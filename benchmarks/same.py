"""Does the comparison see what is there, and only that: A against itself, and A against A slowed down by 10 %.

    python benchmarks/same.py --out DIR [--runs 50] [--load 0]

`--load N` keeps N busy loops running beside it. Prints how often a difference was called and the half-widths.
"""

import argparse
import contextlib
import multiprocessing
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from record import keep

from ridgepoint.choice import resolve
from ridgepoint.measurement.request import PairRequest, SideRequest, step_request
from ridgepoint.measurement.session import Session
from ridgepoint.workload import AttentionSpec, Block, Decoder, MlpSpec, decode

SMALL = Decoder("same-30m", 384, 8192, (Block(AttentionSpec(6, 3, 64), MlpSpec(1024), 12),), True, 4096, "bf16")


def main() -> None:
    """Run both experiments and write what each run said."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--runs", type=int, default=50)
    parser.add_argument("--seconds", type=float, default=9.0)
    parser.add_argument("--load", type=int, default=0)
    parser.add_argument("--side", default="bf16")
    options = parser.parse_args()
    with busy_loops(options.load):
        same = [one(options, 1.0) for _ in range(options.runs)]
        slow = [one(options, 1.1) for _ in range(options.runs)]
    called = sum(r["verdict"] in ("faster", "slower") for r in same)
    narrow = sum(r["half_width"] <= 0.05 for r in same)
    seen = sum(r["verdict"] == "slower" for r in slow)
    n = options.runs
    print(
        f"A against A: a difference called in {called} of {n} (bound 1 of 50); half-width <= 5 % in {narrow} of {n} (bound 45)"
    )
    print(f"10 % slowdown: called in {seen} of {n} (bound 45 of 50)")
    keep(options.out, f"same-load{options.load}.json", {"same": same, "slow": slow})


def one(options: argparse.Namespace, factor: float) -> dict[str, Any]:
    """One comparison in a fresh process, so that memory is laid out anew."""
    side = SideRequest(spec=resolve(options.side, "bf16").spec, device="cpu")
    request = PairRequest(
        decoder=SMALL, a=side, b=side, step=step_request(decode(4, 64)), seconds=options.seconds, slow_b=factor
    )
    with Session() as session:
        message = [m for m in session.ask(request) if m["kind"] == "done"][-1]
    paired = message["paired"]
    result = {k: paired[k] for k in ("speedup", "low", "high", "verdict", "n")} | {"half_width": message["half_width"]}
    sys.stdout.write(
        f"  x{factor}: {paired['speedup']:.3f} ({paired['low']:.3f}-{paired['high']:.3f}) {paired['verdict']}\n"
    )
    sys.stdout.flush()
    return result


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
