"""Options that several commands share, written once."""

import math
import re
from pathlib import Path
from typing import Annotated

import typer

from ridgepoint.errors import BadInput, UnknownName

__all__ = [
    "INTERRUPTED", "Assert", "AttentionDp", "Batches", "Calib", "Curve", "Device", "Dtype", "Ep", "Isl", "Json", "Model", "On",
    "Phase", "Points", "Pp", "PredictOnly", "Protocol", "Report", "Seconds", "Seed", "Stack", "Text", "Threads", "Tol", "Tp",
    "Windows", "With", "integers", "names", "tolerance",
]  # fmt: skip

INTERRUPTED = 130
"""Exit code after Ctrl-C, as of any process that SIGINT ends."""

Model = Annotated[
    str,
    typer.Argument(
        help="Catalogue name, directory, config.json, Hugging Face id, FILE.py:NAME, or linear:NxK.", show_default=False
    ),
]
With = Annotated[str, typer.Option("--with", help="Choices of every side that does not name them, as bf16+threads:2.")]


def _dtype(value: str) -> str:
    if not value:
        return value
    from ridgepoint.workload import DTYPES

    if value not in DTYPES:
        raise UnknownName("dtype", value, DTYPES, "--with takes other choices")
    return value


Dtype = Annotated[
    str, typer.Option("--dtype", help="Base dtype (fp32, bf16, fp16); default: the checkpoint's.", callback=_dtype)
]
On = Annotated[
    str,
    typer.Option(
        "--on", help="Target: a name, a file, or host (this machine, calibrated); predict, why: several, by commas."
    ),
]
Stack = Annotated[
    str, typer.Option("--stack", help="Datasheet targets: whose kernels, as vllm, sglang, trtllm, vllm:0.24.0.")
]
Tp = Annotated[int, typer.Option("--tp", help="Datasheet targets: devices that share each layer's matrices.")]
Pp = Annotated[int, typer.Option("--pp", help="Datasheet targets: stages of a pipeline.")]
Ep = Annotated[int, typer.Option("--ep", help="Datasheet targets: devices that share the experts.")]
AttentionDp = Annotated[
    int, typer.Option("--attention-dp", help="Datasheet targets: groups with sequences of their own.")
]


def of_target(target: str, error: object) -> str:
    """What was refused of one target among several, with its name, which many refusals begin with."""
    return str(error) if str(error).startswith(target) else f"{target}: {error}"


def _device(value: str) -> str:
    if value not in ("cpu", "cuda"):
        raise BadInput(f"--device is cpu or cuda, not {value[:40]!r}")
    return value


def _seconds(value: float) -> float:
    if not 0.05 <= value <= 3600:
        raise BadInput(f"--seconds is {value:g}; possible is 0.05 to 3600")
    return value


Device = Annotated[str, typer.Option("--device", help="cpu or cuda.", callback=_device)]
Isl = Annotated[
    int,
    typer.Option("--isl", help="Decode: cached tokens per sequence. Prefill, forward, train: new tokens per sequence."),
]
Phase = Annotated[str, typer.Option("--phase", "--step", help="decode, prefill, forward or train.")]
Threads = Annotated[
    int,
    typer.Option(
        "--threads", help="Threads of every side; one is timed in CPU time, more in wall time.", min=1, max=1024
    ),
]
Batches = Annotated[str, typer.Option("--batch", help="Batch sizes, separated by commas.")]
Seconds = Annotated[
    float, typer.Option("--seconds", help="Longest time to measure a point, in seconds.", callback=_seconds)
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document instead.")]

Points = Annotated[str, typer.Option("--points", help="few: those that decide; all: every batch of the grid.")]
Text = Annotated[
    Path | None,
    typer.Option("--text", help="Measure accuracy on this text; default: the one that ships with the model."),
]
Protocol = Annotated[
    str, typer.Option("--protocol", help="How the text is cut: windows (256 tokens) or gptq (2048, its perplexity).")
]
Windows = Annotated[int, typer.Option("--windows", help="At most so many windows of the text.", min=8, max=100_000)]
Seed = Annotated[int, typer.Option("--seed", help="Which windows and items are drawn.", min=0)]
Calib = Annotated[
    Path | None,
    typer.Option("--calib", help="Text by which int4:gptq, int4:awq, int8:dyn:smooth and …:wanda choose."),
]
Tol = Annotated[
    str, typer.Option("--tol", help="What may be lost: 1% of perplexity, or 0.01 nats per token; says what suffices.")
]
Curve = Annotated[
    int, typer.Option("--curve", help="--step train: show the loss of so many steps of each side, over 3 seeds.", min=0)
]
Tasks = Annotated[
    str,
    typer.Option(
        "--tasks",
        help="Measure accuracy on these tasks too, separated by commas: names of lm-eval, YAML files, folders of them.",
    ),
]
Items = Annotated[int, typer.Option("--items", help="At most so many items of each task.", min=8, max=1_000_000)]
AllowTaskCode = Annotated[
    bool, typer.Option("--allow-task-code", help="Let local tasks run Python of their own, as !function names it.")
]
Assert = Annotated[str, typer.Option("--assert", help="Exit 1 unless it holds: speedup>1.2 or speedup@16>1.2.")]
Report = Annotated[Path | None, typer.Option("--report", help="Write the report to this HTML file.")]
PredictOnly = Annotated[bool, typer.Option("--predict-only", help="Place the bet and stop: measure nothing.")]


def integers(option: str, text: str) -> tuple[int, ...]:
    """`"1,4,16"` -> (1, 4, 16), or BadInput."""
    words = [word.strip() for word in text.split(",")]
    if len(words) > 1000:
        raise BadInput(f"{option} takes up to 1000 numbers; got {len(words)}")
    if not all(word.isascii() and word.isdigit() for word in words):
        raise BadInput(f"{option} takes whole numbers separated by commas, as 1,4,16; got {text[:60]!r}")
    if any(len(word) >= 10 for word in words):
        raise BadInput(f"{option} takes numbers of up to 9 digits; got {max(words, key=len)[:60]!r}")
    return tuple(int(word) for word in words)


def names(option: str, text: str) -> tuple[str, ...]:
    """`"h100-sxm,l40s"` -> ("h100-sxm", "l40s"), each once, or BadInput."""
    found = tuple(dict.fromkeys(word.strip() for word in text.split(",")))
    if not all(found) or len(found) > 100:
        raise BadInput(f"{option} takes up to 100 names separated by commas, as h100-sxm,l40s; got {text[:60]!r}")
    return found


_TOLERANCE = re.compile(r"(\d+(?:\.\d+)?)(%?)")


def tolerance(text: str) -> float | None:
    """`1%` of perplexity, or nats per token, in nats; None where nothing was said."""
    if not text:
        return None
    match = _TOLERANCE.fullmatch(text)
    value = 0.0 if match is None else float(match[1])
    if match is None or not 0 < value < (100 if match[2] else 10):
        raise BadInput(f"--tol takes a share of perplexity, as 1%, or nats per token, as 0.01; got {text[:40]!r}")
    return math.log1p(value / 100) if match[2] else value
