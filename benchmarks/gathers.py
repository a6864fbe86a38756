"""What a stored weight costs a kernel of sparse rows, by density and rows: where prefetchers guess wrong.

    python benchmarks/gathers.py --out benchmarks/records [--rounds 5]

Random masks; weights come round after all the others, as in a network. Writes gathers.json: the middle round in nanoseconds per
stored weight, and the lowest and highest. Nothing is predicted here.
"""

import argparse
import random
import sys
from collections import defaultdict
from pathlib import Path

import numpy as np
import torch
from record import keep

from ridgepoint.kernels.csr import CsrLinear
from ridgepoint.measurement.calibrate.linear import neighbours
from ridgepoint.measurement.calibrate.pool import Pool, filler

SHAPES = ((3072, 768), (1024, 4096))
DENSITIES = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.75)
ROWS = (1, 8, 16, 32)


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    pool = Pool(_members())
    found: dict[tuple[int, int, int, float], list[float]] = defaultdict(list)
    with torch.inference_mode():
        for _ in range(options.rounds):
            for m in ROWS:
                for (n, k, density, stored), seconds in _times(pool, m).items():
                    found[m, n, k, density].append(1e9 * seconds / stored)
    points = [
        {"m": m, "n": n, "k": k, "density": d, "ns": float(f"{np.median(t):.4g}"), "between": [min(t), max(t)]}
        for (m, n, k, d), t in sorted(found.items())
    ]
    keep(options.out, "gathers.json", {"rounds": options.rounds, "points": points})
    for p in points:
        sys.stdout.write(f"m={p['m']} {p['n']}x{p['k']} density {p['density']}: {p['ns']:.2f} ns a stored weight\n")


def _members() -> list[tuple[tuple[int, int, float, int], CsrLinear]]:
    generator = torch.Generator().manual_seed(0)
    members = []
    for n, k in SHAPES:
        for density in DENSITIES:
            kept = torch.rand(n, k, generator=generator) < density
            members.append(((n, k, density, int(kept.sum())), CsrLinear(filler(n, k) * kept, None)))
    random.Random(0).shuffle(members)
    return members


def _times(pool: Pool, m: int) -> dict[tuple[int, int, float, int], float]:
    inputs: dict[int, torch.Tensor] = {}

    def call(key: tuple[int, int, float, int], module: CsrLinear):  # type: ignore[no-untyped-def]
        x = inputs.setdefault(key[1], torch.randn(m, key[1]))
        return lambda: module(x)

    # `neighbours` looks inputs up by the second entry of the key, which is k here too
    timings = pool.passes(call, 0.02, 3, neighbours(torch.float32, inputs, None))
    return {key: timing.seconds for key, timing in timings.items()}


if __name__ == "__main__":
    main()
