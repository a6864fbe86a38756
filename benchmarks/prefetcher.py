"""Which shape of the prefetcher's term fits sparse rows best: u^p (1-u)^q, u the share of cache lines that a row reads.

    python benchmarks/prefetcher.py --out benchmarks/records

Reads the newest calibration of sparse rows on this machine (`ridge calibrate --sparse`) and gathers.json, and measures nothing.
Each weight shape in turn is predicted by a law that was fitted to the others; the shapes and densities of gathers.json, none of
which is the calibration's shape, by one that was fitted to all, their middle error taken off at each m. Writes prefetcher.json:
mean absolute log errors of both for each pair of exponents, for the law as it is and for the law without the term.
"""

import argparse
import json
import sys
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from record import keep

from ridgepoint.hardware.law import guesses, lines_used, sparse_terms
from ridgepoint.hardware.nonnegative import fit_nonnegative
from ridgepoint.store import Store, default_path
from ridgepoint.study.fit import fit_linear, merge_rounds
from ridgepoint.study.fit_sparse import beside_dense
from ridgepoint.study.journal import samples_of
from ridgepoint.study.provenance import provenance

Sample = Mapping[str, Any]
Shape = Callable[[npt.NDArray[np.float64]], npt.NDArray[np.float64]]
EXPONENTS = (1.0, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 6.0, 8.0)
RECORDS = Path(__file__).parent / "records"
_BEYOND = 3
"""The place of the term in `sparse_terms`."""


def main() -> None:
    """Sweep, print and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    calibration, samples = cold_samples()
    others = json.loads((RECORDS / "gathers.json").read_text())["points"]

    def errors(shape: Shape) -> dict[str, float]:
        return {"error": round(error(samples, shape), 4), "elsewhere": round(elsewhere(samples, others, shape), 4)}

    sweep = [{"p": p, "q": q, **errors(power(p, q))} for p in EXPONENTS for q in EXPONENTS]
    found = {
        "calibration": calibration, "points": len(samples), "shapes": len({(s["n"], s["k"]) for s in samples}),
        "law": errors(guesses), "without": errors(np.zeros_like),
        "best": min(sweep, key=lambda x: x["error"]), "sweep": sweep,
    }  # fmt: skip
    keep(options.out, "prefetcher.json", found)
    for name in ("points", "law", "without", "best"):
        sys.stdout.write(f"{name}: {found[name]}\n")


def cold_samples() -> tuple[str, list[Sample]]:
    """Its id and the merged samples from memory of the newest calibration of sparse rows here, scaled as for the laws."""
    machine = provenance().machine.get("machine_id")
    with Store(default_path()) as store:
        mine = [
            r for r in store.records(kind="calibration")
            if r.body.get("stage") == "sparse" and r.body["machine"].get("machine_id") == machine
        ]  # fmt: skip
        if not mine:
            sys.exit("no calibration of sparse rows on this machine: run ridge calibrate --sparse first")
        raw = samples_of(store, mine[-1])
    dense = fit_linear(merge_rounds(raw)[0], "calibration")
    merged, _ = merge_rounds(beside_dense(raw, dense))
    return mine[-1].id, [s for s in merged if s["probe"] == "sparse" and "absent" not in s and not s["hot"]]


def power(p: float, q: float) -> Shape:
    """u^p (1-u)^q over its greatest value, at p/(p+q)."""
    most = (p / (p + q)) ** p * (q / (p + q)) ** q
    return lambda used: used**p * (1.0 - used) ** q / most


def error(samples: Sequence[Sample], shape: Shape) -> float:
    """Mean absolute log error over all points, each predicted without its weight shape, at each m by a fit of its own."""
    by_rows: dict[int, list[Sample]] = defaultdict(list)
    for s in samples:
        by_rows[s["m"]].append(s)
    return float(np.mean([e for mine in by_rows.values() for e in _left_out(mine, shape)]))


def elsewhere(samples: Sequence[Sample], others: Sequence[Sample], shape: Shape) -> float:
    """The same over points of gathers.json (nanoseconds per stored weight), relative to the middle of their m."""
    errors: list[float] = []
    for m in sorted({p["m"] for p in others}):
        mine, asked = [s for s in samples if s["m"] == m], [_as_sample(p, samples[0]) for p in others if p["m"] == m]
        fit = fit_nonnegative(_terms(mine, shape), np.array([s["seconds"] for s in mine]))
        logs = np.log(_terms(asked, shape) @ fit / np.array([s["seconds"] for s in asked]))
        errors.extend(np.abs(logs - np.median(logs)))
    return float(np.mean(errors))


def _as_sample(point: Sample, like: Sample) -> Sample:
    stored = point["density"] * point["n"] * point["k"]
    return {**like, **point, "stored": stored, "seconds": 1e-9 * point["ns"] * stored}


def _left_out(samples: Sequence[Sample], shape: Shape) -> list[float]:
    terms, seconds = _terms(samples, shape), np.array([s["seconds"] for s in samples])
    shapes = np.array([s["n"] * 10**6 + s["k"] for s in samples])
    errors = []
    for one in np.unique(shapes):
        fitted, held = shapes != one, shapes == one
        predicted = terms[held] @ fit_nonnegative(terms[fitted], seconds[fitted])
        errors.extend(np.abs(np.log(seconds[held] / predicted)))
    return errors


def _terms(samples: Sequence[Sample], shape: Shape) -> npt.NDArray[np.float64]:
    m, n, k, stored = (np.array([float(s[name]) for s in samples]) for name in ("m", "n", "k", "stored"))
    near, first = float(samples[0]["near_bytes"]), float(samples[0]["first_bytes"])
    density = stored / (n * k)
    terms = np.stack(sparse_terms(m, n, k, density, near, first), axis=1)
    used = lines_used(m, density)
    with np.errstate(invalid="ignore"):
        terms[:, _BEYOND] = np.nan_to_num(terms[:, _BEYOND] / guesses(used)) * shape(used)
    return terms


if __name__ == "__main__":
    main()
