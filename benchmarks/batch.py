"""Batch curves: the knee of a third of the batches against that of the whole sweep, and the error of the step times between.

    python benchmarks/batch.py --out DIR [--models b34,b61,b111] [--sides fp32,int8] [--seconds 1]

Uses the machine's calibrated target (`ridge calibrate` first). Each curve is measured twice: adaptively as `ridge batch`
does it, then at every batch of the grid, anew. Every point is in the store; DIR gets `batch.json`.
"""

import argparse
import math
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from record import keep
from truth import config_file

from ridgepoint.measurement.memory import room_bytes
from ridgepoint.measurement.session import Session
from ridgepoint.store import Store, default_path
from ridgepoint.study.batch.bet import paper_of
from ridgepoint.study.batch.document import BatchAnswer
from ridgepoint.study.batch.knee import knee_of
from ridgepoint.study.batch.question import ask_batch
from ridgepoint.study.batch.run import BatchEffort, batch_curve
from ridgepoint.study.provenance import provenance

MODELS: dict[str, tuple[int, int, int, int, int, int]] = {
    # name: hidden, intermediate, layers, heads, kv_heads, vocab
    "b18": (320, 864, 11, 5, 5, 12288),
    "b34": (448, 1216, 10, 7, 7, 20480),
    "b61": (576, 1600, 13, 9, 3, 24576),
    "b111": (832, 2240, 12, 13, 13, 12800),
}
"""Llama shapes with tied heads whose layers are among neither those that calibration measures nor those of truth.py."""
SLO_SHARE = 0.45
"""The objective of each curve: this share of the way, in logarithms, from the shortest predicted step to the longest."""


class Quiet:
    """Prints a line per point."""

    def bet(self, bet: Any, record: Any) -> None: ...
    def stage(self, text: str, done: int, total: int) -> None: ...
    def point(self, point: Any) -> None:
        found = f"{1e3 * point.measured_s:.1f} ms" if point.measured_s else f"absent: {point.flags[0]}"
        sys.stdout.write(f"  batch {point.batch}: predicted {1e3 * point.predicted_s:.1f} ms, measured {found}\n")
        sys.stdout.flush()


def main() -> None:
    """Measure all curves, print and write what was found."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--models", default=",".join(MODELS))
    parser.add_argument("--sides", default="fp32,int8")
    parser.add_argument("--isl", type=int, default=128)
    parser.add_argument("--grid", default="", help="batches, as 1,2,4; default: what `ridge batch` takes")
    parser.add_argument("--seconds", type=float, default=1.0)
    options = parser.parse_args()
    grid = tuple(int(b) for b in options.grid.split(",")) if options.grid else ()
    curves = []
    with Store(default_path()) as store, tempfile.TemporaryDirectory() as folder:
        for name in options.models.split(","):
            model = str(config_file(name, Path(folder), MODELS))
            for side in options.sides.split(","):
                sys.stdout.write(f"{name} {side}\n")
                curves.append(one(model, side, options.isl, grid, options.seconds, store))
    found = {"command": " ".join(sys.argv[1:]).replace(str(options.out), "DIR"), "curves": curves, **summary(curves)}
    sys.stdout.write(
        f"{found['near']} of {found['n']} knees within one step of the whole sweep's, with {found['points']} of "
        f"{found['batches']} batches; step times not measured off by {100 * found['mape']:.1f} % (predicted alone: "
        f"{100 * found['predicted_mape']:.1f} %); SLO's batch within {100 * found['slo_off']:.0f} % in the middle\n"
    )
    keep(options.out, "batch.json", found)


def one(model: str, side: str, isl: int, grid: tuple[int, ...], seconds: float, store: Store) -> dict[str, Any]:
    """One curve: a third of its batches, then all of them."""
    room = room_bytes("cpu")
    first = ask_batch(model, side, isl=isl, grid=grid, room_bytes=room)
    few, whole = (run(model, side, isl, first.grid, seconds, store, every, room) for every in (False, True))
    swept = {p.batch: p.measured_s for p in whole.points if p.measured_s}
    once = {p.batch: p.measured_s for p in few.points if p.measured_s}
    chosen = list(once)
    left = [b for b in first.grid if b in swept and b not in chosen]
    known = {p.batch: p.seconds for p in few.curve}
    alone = dict(zip(first.grid, few.bet.curve.seconds, strict=True))
    assert few.slo is not None, "an objective was asked for"
    knee = knee_of(list(swept), list(swept.values())).batch
    return {
        "model": few.bet.model, "side": few.bet.side, "grid": list(first.grid), "chosen": chosen, "swept_s": swept,
        "known_s": known, "predicted_s": alone, "knee": few.knee.batch, "knee_low": few.knee.low, "knee_high": few.knee.high,
        "knee_swept": knee, "knee_predicted": few.bet.knee.batch,
        "steps_apart": abs(first.grid.index(few.knee.batch) - first.grid.index(knee)),
        "again": mape(once, swept, [b for b in chosen if b in swept]),
        "mape": mape(known, swept, left), "predicted_mape": mape(alone, swept, left), "slo_s": few.slo.bound_s,
        "slo_batch": few.slo.batch, "slo_low": few.slo.low, "slo_high": few.slo.high,
        "slo_swept": crossing(swept, few.slo.bound_s),
    }  # fmt: skip


def run(
    model: str, side: str, isl: int, grid: tuple[int, ...], seconds: float, store: Store, every: bool, room: float
) -> BatchAnswer:
    """`ridge batch` with an objective in the middle of the predicted curve."""
    asked = ask_batch(model, side, isl=isl, grid=grid, room_bytes=room)
    ends = np.log(paper_of(asked).seconds[[0, -1]])
    bound = math.exp(float(ends[0] + SLO_SHARE * (ends[1] - ends[0])))
    asked = ask_batch(model, side, isl=isl, grid=grid, slo=f"tpot={1e6 * bound:.0f}us", room_bytes=room)
    with Session() as session:
        return batch_curve(asked, store, provenance(), Quiet(), BatchEffort(seconds, every), room, session)


def crossing(swept: dict[int, float], bound_s: float) -> int:
    """The largest batch that keeps the bound by what was measured alone, interpolated in log batch and log time; 0: none does."""
    batches, seconds = np.array(list(swept)), np.array(list(swept.values()))
    keeps = np.nonzero(seconds <= bound_s)[0]
    if not len(keeps) or keeps[-1] == len(seconds) - 1:
        return int(batches[-1]) if len(keeps) else 0
    beside = slice(keeps[-1], keeps[-1] + 2)
    return int(np.exp(np.interp(math.log(bound_s), np.log(seconds[beside]), np.log(batches[beside]))))


def mape(found: dict[int, float], swept: dict[int, float], batches: list[int]) -> float | None:
    """Mean of |found / swept - 1| over those batches."""
    return float(np.mean([abs(found[b] / swept[b] - 1) for b in batches])) if batches else None


def summary(curves: list[dict[str, Any]]) -> dict[str, Any]:
    """What the README quotes."""
    both = [c for c in curves if c["slo_batch"] and c["slo_swept"]]
    return {
        "n": len(curves), "near": sum(c["steps_apart"] <= 1 for c in curves),
        "same": sum(c["steps_apart"] == 0 for c in curves), "points": sum(len(c["chosen"]) for c in curves),
        "batches": sum(len(c["grid"]) for c in curves),
        "mape": float(np.mean([c["mape"] for c in curves if c["mape"] is not None])),
        "predicted_mape": float(np.mean([c["predicted_mape"] for c in curves if c["predicted_mape"] is not None])),
        "again": float(np.mean([c["again"] for c in curves if c["again"] is not None])),
        "slo_off": float(np.median([abs(c["slo_batch"] / c["slo_swept"] - 1) for c in both])) if both else math.nan,
        "slo_inside": sum(c["slo_low"] <= c["slo_swept"] <= c["slo_high"] for c in curves),
    }  # fmt: skip


if __name__ == "__main__":
    main()
