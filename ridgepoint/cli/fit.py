"""`ridge fit`: what fits into a device's memory, to serve a model or to train it."""

import json
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ridgepoint.cli import options
from ridgepoint.errors import BadInput, UnknownName

if TYPE_CHECKING:
    from ridgepoint.prediction.capacity_split import Split
    from ridgepoint.study.fit_memory import Fit
    from ridgepoint.study.fit_request import Assumed

__all__ = ["fit"]

_SERVE, _TRAIN, _BOTH, _ASSUMED = "Serving", "Training (with --train)", "Devices", "Assumptions"


def _option(name: str, words: str, panel: str) -> Any:
    return typer.Option(name, help=words, show_default=False, rich_help_panel=panel)


On = Annotated[str, typer.Option("--on", help="Targets separated by commas; each gets a column.", show_default=False)]
Ctx = Annotated[int | None, _option("--ctx", "Tokens of each sequence, prompt and answer; default: all.", _SERVE)]
Users = Annotated[int | None, _option("--users", "Sequences at once; default 1.", _SERVE)]
KvDtype = Annotated[str | None, _option("--kv-dtype", "bf16, fp8, int8 or int4; default: the base dtype.", _SERVE)]
Chunk = Annotated[int | None, _option("--chunk", "Tokens of a prefill step; default 2048.", _SERVE)]
Train = Annotated[str, _option("--train", "full, lora:r=16 or qlora:r=16.", _TRAIN)]
Seq = Annotated[int | None, _option("--seq", "Tokens of each sequence; default 2048, or the model's limit.", _TRAIN)]
MicroBatch = Annotated[int | None, _option("--micro-batch", "Sequences of a micro-batch; default 1.", _TRAIN)]
OptimizerName = Annotated[str | None, _option("--optimizer", "adamw, sgd or adamw8bit; default adamw.", _TRAIN)]
Zero = Annotated[int | None, _option("--zero", "0 to 3: what ZeRO splits over --dp; default 0.", _TRAIN)]
RecomputeName = Annotated[
    str | None, _option("--recompute", "none, selective, selective-op or full; default none.", _TRAIN)
]
SequenceParallel = Annotated[bool, _option("--sequence-parallel", "Split the sequence where tp does not.", _TRAIN)]
ParamDtype = Annotated[
    str | None, _option("--param-dtype", "Of what is trained; default bf16 with an fp32 copy, adapters fp32.", _TRAIN)
]
GradDtype = Annotated[str | None, _option("--grad-dtype", "Of accumulated gradients; default fp32.", _TRAIN)]
NoMaster = Annotated[bool, _option("--no-master", "No fp32 copy beside 16-bit parameters.", _TRAIN)]
Interleave = Annotated[int | None, _option("--interleave", "Pipeline stages on each device; default 1.", _TRAIN)]
AttentionName = Annotated[str | None, _option("--attention", "flash or math (keeps the scores).", _TRAIN)]
Loss = Annotated[str | None, _option("--loss", "eager or fused cross-entropy; default eager.", _TRAIN)]
Dropout = Annotated[bool, _option("--dropout", "Keep masks of dropout.", _TRAIN)]
Tp = Annotated[int, _option("--tp", "Tensor-parallel devices.", _BOTH)]
Pp = Annotated[int, _option("--pp", "Pipeline stages.", _BOTH)]
Ep = Annotated[int, _option("--ep", "Devices of tp x dp that share out the experts.", _BOTH)]
Dp = Annotated[int, _option("--dp", "Replicas, each with its share of the users or of the batch.", _BOTH)]
Reserve = Annotated[float | None, _option("--reserve", "Share of the memory left free; default 0.08.", _ASSUMED)]
ContextGib = Annotated[float | None, _option("--context-gib", "GiB of context and kernels.", _ASSUMED)]
CollectivesGib = Annotated[float | None, _option("--collectives-gib", "GiB of communication buffers.", _ASSUMED)]
GraphsGib = Annotated[float | None, _option("--graphs-gib", "GiB of captured CUDA graphs; 0 for eager.", _ASSUMED)]


def fit(
    model: options.Model,
    on: On,
    with_: options.With = "",
    ctx: Ctx = None,
    users: Users = None,
    kv_dtype: KvDtype = None,
    chunk: Chunk = None,
    train: Train = "",
    seq: Seq = None,
    micro_batch: MicroBatch = None,
    optimizer: OptimizerName = None,
    zero: Zero = None,
    recompute: RecomputeName = None,
    sequence_parallel: SequenceParallel = False,
    param_dtype: ParamDtype = None,
    grad_dtype: GradDtype = None,
    no_master: NoMaster = False,
    interleave: Interleave = None,
    attention: AttentionName = None,
    loss: Loss = None,
    dropout: Dropout = False,
    tp: Tp = 1,
    pp: Pp = 1,
    ep: Ep = 1,
    dp: Dp = 1,
    reserve: Reserve = None,
    context_gib: ContextGib = None,
    collectives_gib: CollectivesGib = None,
    graphs_gib: GraphsGib = None,
    as_json: options.Json = False,
) -> int:
    """What fits into a device's memory: itemised bytes, the most context and users, what to change; no weights needed."""
    from ridgepoint.prediction.capacity_split import Split
    from ridgepoint.study.fit_memory import fit_serving
    from ridgepoint.study.fit_request import Assumed

    split, assumed = Split(tp, pp, ep, dp), Assumed(reserve, context_gib, collectives_gib, graphs_gib)
    for_training = {
        "--seq": seq, "--micro-batch": micro_batch, "--optimizer": optimizer, "--zero": zero, "--recompute": recompute,
        "--sequence-parallel": sequence_parallel or None, "--param-dtype": param_dtype, "--grad-dtype": grad_dtype,
        "--no-master": no_master or None, "--interleave": interleave, "--attention": attention, "--loss": loss,
        "--dropout": dropout or None,
    }  # fmt: skip
    for_serving = {"--ctx": ctx, "--users": users, "--kv-dtype": kv_dtype, "--chunk": chunk, "--graphs-gib": graphs_gib}
    if train:
        _refuse(for_serving, "serving; with --train it is --seq and --micro-batch that count")
        answer = _training(model, on, with_, train, for_training, split, assumed)
    else:
        _refuse(for_training, "training; give --train full, lora:r=16 or qlora:r=16 as well")
        answer = fit_serving(
            model, on, context=ctx, users=1 if users is None else users, with_=with_, kv_dtype=kv_dtype or "",
            chunk=chunk, split=split, assumed=assumed,
        )  # fmt: skip
    _print(answer, as_json)
    return 0


def _refuse(given: dict[str, Any], why: str) -> None:
    wrong = [flag for flag, value in given.items() if value is not None]
    if wrong:
        raise BadInput(f"{', '.join(wrong)} {'is' if len(wrong) == 1 else 'are'} for {why}")


def _training(
    model: str, on: str, with_: str, train: str, given: dict[str, Any], split: "Split", assumed: "Assumed"
) -> "Fit":
    from ridgepoint.prediction.capacity_training import Recipe
    from ridgepoint.prediction.capacity_training_activations import RECOMPUTE, Keeping
    from ridgepoint.study.fit_memory import fit_training, recipe_named

    def word(flag: str, default: str, known: tuple[str, ...] = ()) -> Any:
        value = given[flag] or default
        if known and value not in known:
            raise UnknownName(flag.removeprefix("--"), value, known)
        return value

    def count(flag: str, default: int) -> int:
        return default if given[flag] is None else given[flag]

    keeping = Keeping(
        word("--recompute", "none", RECOMPUTE), bool(given["--sequence-parallel"]),
        word("--attention", "flash", ("flash", "math")) == "flash", bool(given["--dropout"]),
    )  # fmt: skip
    named = recipe_named(train, word("--optimizer", "adamw"), word("--param-dtype", ""), word("--grad-dtype", "fp32"))
    recipe = Recipe(
        **named, zero=count("--zero", 0), interleave=count("--interleave", 1), master=not given["--no-master"],
        loss=word("--loss", "eager", ("eager", "fused")), keeping=keeping,
    )  # fmt: skip
    return fit_training(
        model, on, seq=given["--seq"], micro_batch=count("--micro-batch", 1), recipe=recipe, with_=with_, split=split,
        assumed=assumed,
    )  # fmt: skip


def _print(answer: "Fit", as_json: bool) -> None:
    if as_json:
        from ridgepoint.study.fit_memory import document

        sys.stdout.write(json.dumps(document(answer), indent=1) + "\n")
        return
    from rich.console import Console

    from ridgepoint.report.fit_terminal import fit_table

    Console().print(fit_table(answer))
