"""Truth: settle bets on models that calibration never saw, and score them beside the roofline.

    python benchmarks/truth.py --out DIR [--models small,large] [--bets fp32..bf16,int8,int4]

Uses the machine's calibrated target (`ridge calibrate` first). Every bet is in the store; DIR gets the score as JSON.
"""

import argparse
import json
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

from record import keep

from ridgepoint.measurement.memory import available_bytes
from ridgepoint.store import Store, default_path
from ridgepoint.study.document import Answer
from ridgepoint.study.provenance import provenance
from ridgepoint.study.question import ask
from ridgepoint.study.score import score_answers
from ridgepoint.study.why import Effort, why

MODELS: dict[str, tuple[int, int, int, int, int, int]] = {
    # name: hidden, intermediate, layers, heads, kv_heads, vocab
    "m27": (384, 1024, 12, 6, 6, 16384),
    "m42": (512, 1536, 8, 8, 4, 32000),
    "m97": (768, 2048, 12, 12, 12, 16000),
    "m111": (640, 1792, 18, 10, 2, 49152),
    "m198": (1024, 2816, 14, 16, 8, 32000),
    "m362": (960, 2560, 32, 15, 5, 49152),
    "m488": (1280, 3584, 24, 20, 4, 49152),
}
"""Llama shapes of 27M to 488M parameters (the name says how many), heads tied; none of their layers is among the shapes
that calibration measures."""

BETS = ("fp32..bf16,int8,int4", "bf16..int8:dyn,nf4", "fp32..fp16,int8:dyn:token")


class Quiet:
    """Prints a line per point."""

    def bet(self, bet: Any, record: Any) -> None: ...
    def stage(self, text: str, done: int, total: int) -> None: ...
    def point(self, point: Any) -> None:
        value = f"{point.measured_speedup:.2f}" if point.measured_speedup else "absent"
        a = point.predicted_a_s / point.measured_a_s - 1 if point.measured_a_s else 0
        b = point.predicted_b_s / point.measured_b_s - 1 if point.measured_b_s else 0
        line = f"  {point.a}..{point.b} @{point.batch}: predicted {point.predicted_speedup:.2f} measured {value}"
        sys.stdout.write(f"{line}  step errors {100 * a:+.0f} % {100 * b:+.0f} %\n")
        sys.stdout.flush()


def main() -> None:
    """Settle all bets, print and write the score."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--models", default=",".join(MODELS))
    parser.add_argument("--bets", nargs="*", default=BETS)
    parser.add_argument("--batch", default="1,4,16,64")
    parser.add_argument("--phase", default="decode")
    parser.add_argument("--isl", type=int, default=128)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--points", default="few")
    parser.add_argument("--name", default="", help="of the record; default: truth-PHASE")
    options = parser.parse_args()
    answers = settle_all(options)
    rows = {
        by: [asdict(r) for r in score_answers(answers, by)] for by in ("b", "side", "phase", "batch", "model", "regime")
    }
    found = {
        "command": " ".join(sys.argv[1:]).replace(str(options.out), "DIR"),
        "target_date": answers[0].bet.target_date, "score": rows, "flips": [f for a in answers for f in flips(a)],
        "points": [point(a, p) for a in answers for p in a.points],
    }  # fmt: skip
    keep(options.out, f"{options.name or 'truth-' + options.phase}.json", found)
    from rich.console import Console

    from ridgepoint.report.terminal import score_table

    Console(width=150).print(score_table(score_answers(answers)))


_POINT = (
    "a", "b", "batch", "predicted_speedup", "predicted_low", "predicted_high", "measured_speedup", "measured_low",
    "measured_high", "verdict", "predicted_a_s", "predicted_b_s", "measured_a_s", "measured_b_s", "roofline_a_s",
    "roofline_b_s", "compile_s", "load", "flags",
)  # fmt: skip


def point(answer: Answer, p: Any) -> dict[str, Any]:
    """What was predicted and measured at one point, rounded to what a reader can use."""
    values = {name: getattr(p, name) for name in _POINT}
    return {"model": answer.bet.model} | {
        k: float(f"{v:.5g}") if isinstance(v, float) else v for k, v in values.items()
    }


def flips(answer: Answer) -> list[dict[str, Any]]:
    """Predicted and measured flip of each curve."""
    seen = (
        answer.flip_measured
        if isinstance(answer.flip_measured, dict)
        else {answer.bet.curves[0].b: answer.flip_measured}
    )
    foretold = {b: f.batch if f else None for b, f in answer.bet.flips.items()}
    model, a = answer.bet.model, answer.bet.a.text
    return [{"model": model, "a": a, "b": b, "predicted": foretold[b], "measured": seen.get(b)} for b in foretold]


def settle_all(options: argparse.Namespace) -> list[Answer]:
    """One answer per model and bet."""
    batches = tuple(int(b) for b in options.batch.split(","))
    effort = Effort(seconds=options.seconds, every_point=options.points == "all")
    answers = []
    with Store(default_path()) as store, tempfile.TemporaryDirectory() as folder:
        for name in options.models.split(","):
            model = config_file(name, Path(folder))
            for bet in options.bets:
                sys.stdout.write(f"{name} {bet} {options.phase}\n")
                question = ask(str(model), bet, batches=batches, phase=options.phase, isl=options.isl)
                answers.append(why(question, store, provenance(), Quiet(), effort, float(available_bytes() or 2**62)))
    return answers


def config_file(name: str, folder: Path, models: dict[str, tuple[int, int, int, int, int, int]] = MODELS) -> Path:
    """The config.json of one of `models`, written into `folder`."""
    hidden, intermediate, layers, heads, kv_heads, vocab = models[name]
    path = folder / f"{name}.json"
    config = {
        "model_type": "llama", "hidden_size": hidden, "intermediate_size": intermediate, "num_hidden_layers": layers,
        "num_attention_heads": heads, "num_key_value_heads": kv_heads, "vocab_size": vocab, "max_position_embeddings": 8192,
        "tie_word_embeddings": True, "torch_dtype": "bfloat16",
    }  # fmt: skip
    path.write_text(json.dumps(config))
    return path


if __name__ == "__main__":
    main()
