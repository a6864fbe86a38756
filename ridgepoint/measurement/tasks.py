"""Tasks of lm-eval on metal: the same items under several sides of one model, scored item by item."""

import contextlib
import importlib.util
import io
import logging
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ridgepoint.errors import BadInput, NotSupported, RidgeError, UnknownName
from ridgepoint.measurement.request import TasksRequest
from ridgepoint.measurement.task_files import is_local, task_files
from ridgepoint.measurement.tokens import tokens_of
from ridgepoint.workload import Decoder, forward

if TYPE_CHECKING:
    from ridgepoint.measurement.task_model import EngineLM

__all__ = ["check_package", "task_items"]

_FEWSHOT_SEED = 1234
"""lm-eval's own default: which examples stand before the question."""


_MOST_POSITIONS = 4096
"""What is longer loses its beginning; part of a protocol's id."""


@dataclass(frozen=True)
class _Asked:
    """One entry of `--tasks` with what lm-eval made of it; a group or a folder has several leaves."""

    name: str
    leaves: dict[str, Any]
    sha256: str
    count: int
    """Items in all."""
    drawn: dict[str, list[int]]
    """Per leaf the numbers of the items that are asked, in ascending order."""


def check_package() -> None:
    """NotSupported where lm-eval is not installed; imports nothing."""
    if importlib.util.find_spec("lm_eval") is None:
        raise NotSupported("--tasks needs the package lm-eval; pip install 'ridgepoint[tasks]'")


def task_items(request: TasksRequest) -> Iterator[dict[str, Any]]:
    """Per entry of `tasks` a `task` message (its id, metric and number of items), then an `item` message per item with the
    score and, where it has one, the margin under each side; then `done`. All entries are looked up before a model is built.

    score: the task's first metric of a single item. margin, in nats: log p of the right choice less that of the best wrong
    one; for a task with one continuation, log p of it. The same request gives the same numbers.
    """
    check_package()
    import lm_eval

    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    if not request.allow_code:
        _in_sandbox()
    tokens = tokens_of(Path(request.directory), request.decoder.vocab_size)
    asked = [_asked(name, request) for name in request.tasks]
    models = _models(request, tokens)
    for entry in asked:
        yield {
            "kind": "task", "first_token": tokens.first_is, "positions": _positions(request),
            "lm_eval": lm_eval.__version__, **_described(entry),
        }  # fmt: skip
        columns = [list(_scored(model, entry)) for model in models]
        for row in zip(*columns, strict=True):
            leaf, doc = row[0][0], row[0][1]
            yield {
                "kind": "item",
                "task": entry.name,
                "leaf": leaf,
                "doc": doc,
                "sides": [figures for _, _, figures in row],
            }
    yield {"kind": "done"}


def _models(request: TasksRequest, tokens: Any) -> "list[EngineLM]":
    if not request.sides:
        return []
    from ridgepoint.measurement.runnable import build_weights
    from ridgepoint.measurement.task_model import EngineLM

    decoder = request.decoder
    positions = _positions(request)
    step = forward(1, positions)
    out = []
    for side in request.sides:
        weights = build_weights(
            decoder, side.side(), step, side.kernels, request.directory, calibration=request.calibration
        )
        plan = side.side().plan(decoder, step)
        assert isinstance(plan.workload, Decoder), "asked of language models only"
        out.append(EngineLM(weights.model, plan.workload, plan.dtype, tokens, positions))
    return out


def _positions(request: TasksRequest) -> int:
    return min(_MOST_POSITIONS, request.decoder.max_position_embeddings)


def _in_sandbox() -> None:
    """Templates of tasks are Jinja, which reaches Python from any object; this process renders them in Jinja's sandbox."""
    from jinja2.sandbox import SandboxedEnvironment
    from lm_eval import utils

    if isinstance(utils.env, SandboxedEnvironment):
        return
    sandbox = SandboxedEnvironment(undefined=utils.env.undefined, keep_trailing_newline=True)
    sandbox.filters.update(utils.env.filters)
    utils.env = sandbox


def _asked(name: str, request: TasksRequest) -> _Asked:
    leaves, sha256 = _local(name, request.allow_code) if is_local(name) else _own(name)
    pool = [(leaf, i) for leaf, task in leaves.items() for i in range(len(task.eval_docs))]
    if not pool:
        raise BadInput(f"--tasks {name}: it has no items")
    chosen = sorted(random.Random(request.seed).sample(range(len(pool)), min(request.items, len(pool))))
    drawn: dict[str, list[int]] = {}
    for at in chosen:
        leaf, i = pool[at]
        drawn.setdefault(leaf, []).append(i)
    return _Asked(name, {leaf: leaves[leaf] for leaf in drawn}, sha256, len(pool), drawn)


def _local(name: str, allow_code: bool) -> tuple[dict[str, Any], str]:
    import lm_eval.api.metrics  # noqa: F401  # fills the registry
    from lm_eval.api.registry import METRIC_REGISTRY
    from lm_eval.api.task import ConfigurableTask

    leaves: dict[str, Any] = {}
    hashes = []
    for file in task_files(name, allow_code):
        for entry in file.config.get("metric_list") or ():
            metric = entry.get("metric") if isinstance(entry, dict) else entry
            if not allow_code and metric not in METRIC_REGISTRY:
                raise UnknownName("metric of lm-eval", str(metric), sorted(METRIC_REGISTRY))
        leaf = file.config["task"]
        if leaf in leaves:
            raise BadInput(f"--tasks {name}: two files in it are the task {leaf}")
        with _quiet():
            leaves[leaf] = _built(str(file.path), lambda config=file.config: ConfigurableTask(config=config))
        hashes.append(file.sha256)
    return leaves, "+".join(h[:16] for h in hashes)


def _quiet() -> "contextlib.redirect_stderr[io.StringIO]":
    """Bars of libraries would draw over the one of `ridge why`; downloads of lm-eval's own tasks keep theirs."""
    return contextlib.redirect_stderr(io.StringIO())


def _own(name: str) -> tuple[dict[str, Any], str]:
    from lm_eval.tasks import TaskManager

    manager = TaskManager()
    if name not in manager.all_tasks:
        raise UnknownName("task of lm-eval", name, manager.all_tasks)
    return _built(name, lambda: manager.load([name])["tasks"]), ""


def _built(name: str, build: Any) -> Any:
    """The task; whatever a library raises about its data or its YAML becomes one line."""
    try:
        return build()
    except RidgeError:
        raise
    except Exception as error:  # datasets and lm-eval raise bare exceptions of many kinds
        said = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        if isinstance(error, (ConnectionError, TimeoutError)) or "Offline" in said or "offline" in said:
            raise NotSupported(
                f"--tasks {name}: its data set is not on this machine and cannot be downloaded now; run it once with "
                f"network, or give a local task in YAML ({said})"
            ) from None
        raise BadInput(f"--tasks {name}: lm-eval cannot load it: {said}") from None


def _described(entry: _Asked) -> dict[str, Any]:
    first = next(iter(entry.leaves.values()))
    metric = _metric(first)
    return {
        "task": entry.name, "name": first.config.task if len(entry.leaves) == 1 else Path(entry.name).name,
        "version": str(first.VERSION), "leaves": len(entry.leaves), "num_fewshot": int(first.config.num_fewshot or 0),
        "output_type": first.OUTPUT_TYPE, "metric": metric, "higher_is_better": _higher(first, metric),
        "sha256": entry.sha256, "items": sum(map(len, entry.drawn.values())), "of": entry.count,
    }  # fmt: skip


def _metric(task: Any) -> str:
    """The task's first metric; of a whole text, its loss per byte."""
    if task.OUTPUT_TYPE == "loglikelihood_rolling":
        return "nats_per_byte"
    metrics = [m for m in task.higher_is_better() if m not in ("perplexity", "bypass")]
    if not metrics:
        raise NotSupported(f"the task {task.config.task} has no metric of single items")
    return str(metrics[0])


def _higher(task: Any, metric: str) -> bool:
    return metric != "nats_per_byte" and bool(task.higher_is_better()[metric])


def _scored(model: "EngineLM", entry: _Asked) -> Iterator[tuple[str, int, dict[str, float]]]:
    """(leaf, number of the item, its figures), in the order of leaves and items."""
    from lm_eval.evaluator import evaluate

    for leaf, task in entry.leaves.items():
        task.set_fewshot_seed(_FEWSHOT_SEED)
        with _quiet():
            found = evaluate(model, {"tasks": {leaf: task}}, samples={leaf: entry.drawn[leaf]}, bootstrap_iters=0)
        assert found is not None, "one process is rank 0"
        samples = found["samples"][leaf]
        kept = [s for s in samples if s["filter"] == samples[0]["filter"]]
        for number, sample in zip(entry.drawn[leaf], sorted(kept, key=lambda s: s["doc_id"]), strict=True):
            yield leaf, number, _figures(task, sample)


def _figures(task: Any, sample: dict[str, Any]) -> dict[str, float]:
    if task.OUTPUT_TYPE == "loglikelihood_rolling":
        text = sample["arguments"][0][0]
        return {"score": -_value(sample["filtered_resps"][0]) / max(1, len(text.encode()))}
    metric = _metric(task)
    score = sample.get(metric)
    if isinstance(score, bool) or not isinstance(score, (int, float)):
        if not hasattr(score, "item"):
            raise NotSupported(f"the task {task.config.task}: {metric} of one item is no number, so items do not pair")
        score = score.item()
    margin = _margin(task, sample)
    return {"score": float(score)} | ({} if margin is None else {"margin": margin})


def _margin(task: Any, sample: dict[str, Any]) -> float | None:
    found: Sequence[Any] = sample["filtered_resps"]
    if task.OUTPUT_TYPE == "loglikelihood":
        return _value(found[0])
    if task.OUTPUT_TYPE != "multiple_choice" or task.multiple_input:
        return None
    right = sample["target"]
    values = [_value(f) for f in found[: len(task.doc_to_choice(sample["doc"]))]]
    if not isinstance(right, int) or not 0 <= right < len(values) or len(values) < 2:
        return None
    return values[right] - max(v for i, v in enumerate(values) if i != right)


def _value(found: Any) -> float:
    return float(found[0] if isinstance(found, (tuple, list)) else found)
