"""Held-out loss of pocket after pruning: by sparsity, by what goes, by the weights alone or with what they are given on a text.

    python benchmarks/pruned.py --out benchmarks/records

Accuracy alone, in fp32; no time is taken. Differences are paired by window of 256 bytes, with Student's 95 % interval.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

import torch
from quantised import losses, windows
from record import keep

from ridgepoint.choice import resolve
from ridgepoint.engine.build import load_safetensors
from ridgepoint.engine.prune.masks import kept_of_rows, kept_of_whole, scores
from ridgepoint.engine.quantise.inputs import Walk
from ridgepoint.measurement.request import TextRequest
from ridgepoint.measurement.runnable import build_weights
from ridgepoint.study.accuracy import paired_difference
from ridgepoint.workload import Decoder, calibration_text, forward, heldout_text, load_model, weights_directory

SIDES = (
    *(f"sparse:{s}" for s in ("0.2", "0.3", "0.5", "0.7")), "2:4",
    *(f"channels:{s}" for s in ("0.1", "0.25")), "heads:0.5",
)  # fmt: skip
"""Each without and with `:wanda`."""
DEPTHS = ("layers:0.2", "layers:0.5")
SHOWN, WINDOWS = 128, 192


def main() -> None:
    """Write pruned.json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    torch.set_num_threads(2)
    heldout, shown = heldout_text("pocket"), calibration_text("pocket")
    assert heldout and shown, "pocket ships with both"
    decoder = load_model("pocket")
    assert isinstance(decoder, Decoder), "pocket is one"
    tokens, step = windows(heldout)[:WINDOWS], forward(1, 256)
    text = TextRequest(path=str(shown), protocol="windows", windows=SHOWN)

    def loss_of(side: str) -> list[float]:
        settled = resolve(f"fp32+{side}", "fp32")
        model = build_weights(decoder, settled, step, {}, str(heldout.parent), calibration=text).model
        smaller = settled.plan(decoder, step).workload
        assert isinstance(smaller, Decoder), "it stays one"
        return losses(model, smaller, tokens)

    dense, rows = loss_of("dense"), []
    for name in (*SIDES, *DEPTHS):
        by = {side: loss_of(side) for side in ((name,) if name in DEPTHS else (name, f"{name}:wanda"))}
        for side, seen in by.items():
            over, against = (paired_difference(x, seen, 0.01) for x in (dense, by[name]))
            rows.append(found(side, seen, over, against))
            sys.stdout.write(f"{rows[-1]}\n")
            sys.stdout.flush()
    keep(
        options.out, "pruned.json",
        {"windows": len(dense), "shown": SHOWN, "dense": sum(dense) / len(dense), "rows": rows,
         "outputs": output_errors(decoder, windows(shown)[:SHOWN])},
    )  # fmt: skip


def output_errors(decoder: Decoder, shown: torch.Tensor, sparsity: float = 0.5) -> dict[str, dict[str, float]]:
    """By linear layer: mean share of the output's energy on the text that pruning takes away, by score and by what competes."""
    found: dict[str, dict[str, list[float]]] = {}

    def note(module: torch.nn.Module, inputs: Any) -> torch.nn.Module:
        for name, given in inputs.items():
            weight = module.get_submodule(name).weight.float()
            own, both = scores(weight, None), scores(weight, given)
            ways = {
                "|w|, whole layer": kept_of_whole(own, sparsity), "|w|, row": kept_of_rows(own, sparsity),
                "wanda, whole layer": kept_of_whole(both, sparsity), "wanda, row": kept_of_rows(both, sparsity),
            }  # fmt: skip
            for way, kept in ways.items():
                lost = _energy(weight * ~kept, given.hessian) / _energy(weight, given.hessian)
                found.setdefault(name, {}).setdefault(way, []).append(lost)
        return module

    walk = Walk(shown)
    load_safetensors(decoder, weights_directory("pocket"), "fp32", convert=lambda module, layer: walk(module, note))
    return {name: {way: sum(x) / len(x) for way, x in ways.items()} for name, ways in found.items()}


def _energy(weight: torch.Tensor, hessian: torch.Tensor) -> float:
    return float(((weight @ hessian) * weight).sum())


def found(side: str, seen: list[float], over: Any, against: Any) -> dict[str, Any]:
    """Loss, over the dense model, and over the same side by the weights alone."""
    return {
        "side": side, "loss": sum(seen) / len(seen), "over_dense": [over.mean, over.low, over.high],
        "over_magnitude": [against.mean, against.low, against.high],
    }  # fmt: skip


if __name__ == "__main__":
    main()
