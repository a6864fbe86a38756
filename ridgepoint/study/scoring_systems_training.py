"""Predictions of measured training runs: time of a step, tokens per second, memory of a device."""

from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np

from ridgepoint.errors import BadInput, NotSupported, RidgeError
from ridgepoint.hardware import Target
from ridgepoint.prediction.capacity_runtime import GIB, Runtime
from ridgepoint.prediction.capacity_split import Split
from ridgepoint.prediction.capacity_training import Recipe, training, training_needs
from ridgepoint.prediction.capacity_training_activations import Keeping
from ridgepoint.prediction.physics.spread import Z80
from ridgepoint.prediction.serving_steps import step_error
from ridgepoint.prediction.training import TrainingStep, training_time
from ridgepoint.study.published.systems_models import in_format, load_published, weight_format
from ridgepoint.study.published.systems_names import published_target, stack_named
from ridgepoint.study.published.table import Table
from ridgepoint.study.scoring import Scored
from ridgepoint.workload import AttentionSpec, Block, Decoder, MlpSpec, Parallel, Plan, decode, forward

__all__ = ["score_megatron", "score_training"]

_TIME_SIGMA = 0.15
"""Log error of a step's time beyond that of its operators: an assumption, the tables are too small to tell."""
_MEMORY_SIGMA = 0.05
_STATES = ("weights", "gradients", "optimizer")
_VOCABULARY = 51200
"""Of Megatron's GPT models (Narayanan et al. 2021, arXiv 2104.04473, section 5.1)."""
Row = dict[str, str]
Answer = tuple[str, float, float, float, float]
"""Metric, measured, predicted, roofline, sigma of the log error."""


def score_megatron(table: Table) -> Iterator["Scored | RidgeError"]:
    """Rows of GPT models on tensor- and pipeline-parallel devices, without replicas."""
    yield from _each(table, _megatron)


def score_training(table: Table) -> Iterator["Scored | RidgeError"]:
    """Rows of catalogue models on one device or on replicas that share the states (FSDP)."""
    yield from _each(table, _replicas)


def _each(table: Table, answer: Callable[[Row, Target], Answer]) -> Iterator["Scored | RidgeError"]:
    for i in range(len(table)):
        row = {name: str(column[i]).strip() for name, column in table.columns.items()}
        try:
            target = published_target(row["gpu"])
            metric, measured, predicted, roofline, sigma = answer(row, target)
        except RidgeError as error:
            yield error
            continue
        half = float(np.exp(Z80 * sigma))
        framework, version = stack_named(row.get("framework", "megatron"))
        yield Scored(
            file=table.path.name, kind="training", metric=metric, gpu=row["gpu"], dtype=row["precision"], framework=framework,
            version=version, regimes=np.array([row.get("recompute", "") or "none"]), models=np.array([row["model"]]),
            lines=table.lines[i : i + 1].astype(float), measured=np.array([measured]), predicted=np.array([predicted]),
            low=np.array([predicted / half]), high=np.array([predicted * half]), roofline=np.array([roofline]),
            basis="sum of operators by their time models; gradients and recomputation by their products", steps=(),
        )  # fmt: skip


def _whole(row: Row, name: str) -> int:
    """A whole number of at least 1 from a cell; BadInput that says which column is none."""
    try:
        value = float(row[name])
    except ValueError:
        value = 0.0
    if not 1 <= value <= 1e9 or value != int(value):
        raise BadInput(f"{name} is {row[name][:40]!r}; possible is a whole number of at least 1")
    return int(value)


def _megatron(row: Row, target: Target) -> Answer:
    tp, pp, dp, layers, seq = (_whole(row, name) for name in ("tp", "pp", "dp", "layers", "seq"))
    model, micro = (
        _gpt(row["model"], _whole(row, "hidden"), _whole(row, "heads"), layers, seq),
        _whole(row, "micro_batch"),
    )
    interleave = _whole(row, "pipeline_interleaving")
    if row["metric"] == "iteration_time":
        step = TrainingStep(
            seq,
            micro,
            max(1, _whole(row, "global_batch") // (dp * micro)),
            row["recompute"],
            interleave,
            flash=False,  # type: ignore[arg-type]
        )
        plan = Plan(model, decode(1, 1), model.dtype, device="cuda", parallel=Parallel(tp, pp), launch="graph")
        return _timed("latency", plan, target, step, float(row["value"]), lambda s: s)
    keeping = Keeping(row["recompute"], row["sequence_parallel"] == "1", flash=False, dropout=True)  # type: ignore[arg-type]
    recipe = Recipe(param_dtype="fp16", interleave=interleave, loss="fused", keeping=keeping)
    laid = training(model, Plan(model, decode(1, 1), "fp16"), Split(tp, pp, 1, dp), recipe, Runtime())
    need = training_needs(laid, seq, micro)[0]
    if row["metric"] == "activation_memory":
        ours = sum(float(x.bytes) for x in need.items if x.group == "activations" and x.name.endswith(" layers"))
    elif row["metric"] == "parameters_and_optimizer_memory":
        ours = sum(float(need.group_bytes(group)) for group in _STATES)
    else:
        raise NotSupported(f"{row['metric']} is a share of another row; activation_memory is scored")
    return "memory", float(row["value"]) * GIB, ours, ours, _MEMORY_SIGMA


def _replicas(row: Row, target: Target) -> Answer:
    model, devices = load_published(row["model"]), _whole(row, "n_gpus")
    seq, micro, batch = (_whole(row, name) for name in ("seq", "micro_batch", "global_batch"))
    recompute = "selective-op" if row["recompute"] == "selective" else row["recompute"] or "none"
    plan = Plan(model, decode(1, 1), "bf16", device="cuda", launch="graph")
    if row["metric"] == "peak_memory":
        recipe = Recipe(param_dtype="fp32", zero=3, keeping=Keeping(recompute))  # type: ignore[arg-type]
        laid = training(model, plan, Split(dp=devices), recipe, Runtime())
        ours = max(float(need.total_bytes) for need in training_needs(laid, seq, micro))
        return "memory", float(row["value"]) * GIB, ours, ours, _MEMORY_SIGMA
    plan = in_format(plan, weight_format(row["precision"], row["model"]))
    step = TrainingStep(seq, micro, max(1, batch // (devices * micro)), recompute)  # type: ignore[arg-type]
    tokens = seq * batch / (devices if row["metric"].endswith("per_gpu") else 1)
    return _timed("tokens_per_s", plan, target, step, float(row["value"]), lambda seconds: tokens / seconds)


def _timed(
    metric: str, plan: Plan, target: Target, step: TrainingStep, measured: float, value: Callable[[float], float]
) -> Answer:
    one = replace(plan, step=forward(step.micro_batch, step.seq))
    seconds = training_time(plan, target, step).seconds
    flops = sum(float(np.asarray(op.count * op.flops)) for op in one.ops)
    flat = 3 * flops * step.micro_batches / plan.parallel.pp / target.flops_per_s(plan.dtype)
    sigma = float(np.hypot(_TIME_SIGMA, step_error(one, target)))
    return metric, measured, value(seconds), value(flat), sigma


def _gpt(name: str, hidden: int, heads: int, layers: int, seq: int) -> Decoder:
    """The GPT of Megatron-LM: one projection for q, k, v, a feed-forward layer of four times the width, layer norms."""
    attention = AttentionSpec(heads, heads, hidden // heads, bias=True, rotary=False, fused=True)
    block = Block(attention, MlpSpec(4 * hidden, bias=True, gated=False, act="gelu"), layers, norm="layer_norm")
    return Decoder(name, hidden, _VOCABULARY, (block,), True, seq, "fp16", "gpt2", norm="layer_norm", positions=seq)
