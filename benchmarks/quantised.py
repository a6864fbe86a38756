"""Held-out loss of trained models after quantisation by each algorithm, against rounding to nearest at equal bits.

    python benchmarks/quantised.py --out benchmarks/records [--stories ../shared/weights] [--formats int4:g32,int4:g128]

pocket on its own held-out text; with --stories also llama2.c's stories260K, on stories that it tells itself (another seed
than those that the algorithms look at). Weights are those that the codes stand for, computed in fp32: accuracy alone, no
time is taken. Differences are paired by window, with Student's 95 % interval.
"""

import argparse
import importlib.util
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from record import keep

from ridgepoint.engine.build import load_safetensors
from ridgepoint.engine.cache import KvCache
from ridgepoint.engine.quantise.algorithms import chosen_codes
from ridgepoint.engine.quantise.inputs import Walk
from ridgepoint.kernels.codes import INT3, INT4, INT8, Grid
from ridgepoint.study.accuracy import paired_difference
from ridgepoint.workload import Decoder, calibration_text, heldout_text, load_model

ROOT = Path(__file__).resolve().parent.parent
GRIDS: dict[str, Grid] = {
    "int8": INT8, "int4:g32": INT4, "int4:g128": INT4.grouped(128), "int4:row": INT4.grouped(0), "int3:g32": INT3,
}  # fmt: skip
ALGORITHMS = ("", "gptq", "awq")


def main() -> None:
    """Write quantised.json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--stories", type=Path)
    parser.add_argument("--formats", default=",".join(GRIDS), help="of pocket; an hour on one core for all of them")
    options = parser.parse_args()
    torch.set_num_threads(2)
    found: dict[str, Any] = {"pocket": of_pocket(tuple(options.formats.split(",")))}
    if options.stories:
        found["stories260K"] = of_stories()
    keep(options.out, "quantised.json", found)


def of_pocket(formats: tuple[str, ...]) -> dict[str, Any]:
    """All of its held-out text, by windows of 256 bytes."""
    heldout, shown = heldout_text("pocket"), calibration_text("pocket")
    assert heldout and shown, "pocket ships with both"
    decoder = load_model("pocket")
    assert isinstance(decoder, Decoder), "pocket is one"
    return table(decoder, heldout.parent, windows(heldout), windows(shown)[:128], formats)


def of_stories() -> dict[str, Any]:
    """256 stories of 200 tokens; 172 inputs take no group of 32 and are one group."""
    spec = importlib.util.spec_from_file_location("stories", ROOT / "tests" / "stories.py")
    assert spec and spec.loader
    stories = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(stories)
    with tempfile.TemporaryDirectory() as folder:
        path = stories.write_checkpoint(Path(folder) / "stories260K")
        decoder = load_model(str(path))
        assert isinstance(decoder, Decoder), "it is a Llama"
        model = load_safetensors(decoder, path, "fp32")
        heldout, shown = (stories.told(model, decoder, n, 200, seed) for n, seed in ((256, 0), (128, 1)))
        return table(decoder, path, heldout, shown, ("int8", "int4:g32", "int4:row", "int3:g32"))


def windows(path: Path) -> torch.Tensor:
    """Bytes of the file as [windows, 256]."""
    data = torch.frombuffer(bytearray(path.read_bytes()), dtype=torch.uint8).long()
    return data[: len(data) // 256 * 256].view(-1, 256)


def table(
    decoder: Decoder, folder: Path, heldout: torch.Tensor, shown: torch.Tensor, grids: tuple[str, ...]
) -> dict[str, Any]:
    """Losses by format and algorithm, over the unquantised model and over rounding to nearest."""
    reference = losses(load_safetensors(decoder, folder, "fp32"), decoder, heldout)
    rows = []
    for name in grids:
        by = {a: losses(converted(decoder, folder, shown, a, GRIDS[name]), decoder, heldout) for a in ALGORITHMS}
        for algorithm, seen in by.items():
            over, against = (paired_difference(x, seen, 0.01) for x in (reference, by[""]))
            rows.append({
                "format": name, "algorithm": algorithm or "nearest", "loss": sum(seen) / len(seen),
                "over_fp32": [over.mean, over.low, over.high], "over_nearest": [against.mean, against.low, against.high],
            })  # fmt: skip
            sys.stdout.write(f"{rows[-1]}\n")
            sys.stdout.flush()
    return {"windows": len(reference), "tokens": heldout.shape[1], "shown": len(shown),
            "fp32": sum(reference) / len(reference), "rows": rows}  # fmt: skip


def converted(
    decoder: Decoder, folder: Path, shown: torch.Tensor, algorithm: str, grid: Grid
) -> torch.nn.Module:  # fmt: skip
    """The model with the weights that codes stand for; groups where they divide the inputs, else whole rows."""
    walk = Walk(shown)

    def rewrite(module: torch.nn.Module, inputs: Any) -> torch.nn.Module:
        if inputs:
            sizes = {name: module.get_submodule(name).in_features for name in inputs}
            fits = {name: grid.group and k % grid.group == 0 for name, k in sizes.items()}
            grids = {name: grid if fits[name] else grid.grouped(0) for name in inputs}
            for name, codes in chosen_codes(algorithm, inputs)(module, grids).items():
                module.get_submodule(name).weight.copy_(codes.dequantised())
        return module

    convert: Callable[[torch.nn.Module, int | None], torch.nn.Module] = lambda module, layer: walk(module, rewrite)  # noqa: E731
    return load_safetensors(decoder, folder, "fp32", convert=convert)


def losses(model: torch.nn.Module, decoder: Decoder, tokens: torch.Tensor) -> list[float]:
    """Mean loss of each window, nats per token."""
    out = []
    for block in tokens.split(32):
        cache = KvCache(decoder, len(block), block.shape[1], "fp32")
        logits = model(block, cache, 0, "all")[:, :-1].log_softmax(-1)
        out.append(-logits.gather(-1, block[:, 1:, None])[..., 0].mean(-1))
    return torch.cat(out).double().tolist()


if __name__ == "__main__":
    main()
