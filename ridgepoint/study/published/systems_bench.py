"""Result files of serving benchmarks (vLLM's `bench serve`, GuideLLM) as runs that can be predicted."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec

from ridgepoint.errors import BadInput, RidgeError
from ridgepoint.study.published.systems_models import catalogue_model, weight_format
from ridgepoint.study.published.systems_serving import ServingRun
from ridgepoint.workload import Parallel

__all__ = ["bench_runs", "is_bench_file"]

_MOST_BYTES = 256 * 2**20
_UNLIMITED = 256.0
"""Sequences that vLLM runs at most at once where nobody says otherwise (vllm/config/scheduler.py: max_num_seqs)."""


def is_bench_file(path: Path) -> bool:
    """Whether the name is that of a JSON file; what it holds shows on reading."""
    return path.suffix.lower() in (".json", ".jsonl")


def bench_runs(path: Path) -> Iterator["ServingRun | RidgeError"]:
    """Every closed loop in the file. Neither tool knows the machine: the file has to say `gpu` (vLLM: `--metadata
    gpu=h100-sxm tp=2`; GuideLLM: a key `gpu` beside `benchmarks`)."""
    for number, result in enumerate(_documents(path), 1):
        try:
            yield from _guidellm(path, result) if "benchmarks" in result else _vllm(path, number, result)
        except RidgeError as error:
            yield error


def _documents(path: Path) -> list[dict[str, Any]]:
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise BadInput(f"{path}: larger than {_MOST_BYTES >> 20} MiB; save it without the details of each request")
        text = path.read_bytes()
        lines = text.splitlines() if path.suffix.lower() == ".jsonl" else [text]
        found = [msgspec.json.decode(line) for line in lines if line.strip()]
    except (OSError, msgspec.DecodeError, RecursionError) as error:
        raise BadInput(f"{path}: cannot be read as JSON: {error}") from None
    found = [result for one in found for result in (one if isinstance(one, list) else [one])]
    if not found or not all(isinstance(result, dict) for result in found):
        raise BadInput(f"{path}: needs an object with the results of a benchmark")
    return found


def _vllm(path: Path, number: int, result: Mapping[str, Any]) -> Iterator[ServingRun]:
    where = f"{path.name}: result {number}"
    users = _number(where, result, "max_concurrency")
    done = _number(where, result, "completed")
    measured = {
        "ttft": _seconds(result, "mean_ttft_ms"), "tpot": _seconds(result, "mean_tpot_ms"),
        "latency": _seconds(result, "mean_e2el_ms"), "tokens_per_s": _positive(result.get("output_throughput")),
    }  # fmt: skip
    yield _run(
        where, number, result, str(result.get("model_id", "")), str(result.get("backend", "vllm")), users,
        _number(where, result, "total_input_tokens") / done, _number(where, result, "total_output_tokens") / done, measured,
    )  # fmt: skip


def _guidellm(path: Path, report: Mapping[str, Any]) -> Iterator["ServingRun | RidgeError"]:
    """A benchmark of fixed concurrency has `streams`; one by rate is no closed loop."""
    for number, bench in enumerate(report["benchmarks"], 1):
        where = f"{path.name}: benchmark {number}"
        strategy = _inside(bench, ("config", "strategy")) or _inside(bench, ("args", "strategy")) or {}
        streams = 1 if strategy.get("type_") == "synchronous" else strategy.get("streams")
        metrics = bench.get("metrics", {}) if isinstance(bench, dict) else {}
        if not streams:
            yield BadInput(f"{where}: no fixed number of streams, so no closed loop; --profile concurrent has one")
            continue
        measured = {
            "ttft": _mean(metrics, "time_to_first_token_ms", 1e-3), "tpot": _mean(metrics, "inter_token_latency_ms", 1e-3),
            "latency": _mean(metrics, "request_latency", 1.0),
            "tokens_per_s": _mean(metrics, "output_tokens_per_second", 1.0),
        }  # fmt: skip
        lengths = [_mean(metrics, name, 1.0) for name in ("prompt_token_count", "output_token_count")]
        if None in lengths:
            yield BadInput(f"{where}: needs prompt_token_count and output_token_count among its metrics")
            continue
        model = str(
            report.get("model") or _inside(bench, ("config", "model")) or _inside(report, ("args", "model")) or ""
        )
        isl, osl = (float(x or 0.0) for x in lengths)
        yield _run(where, number, report, model, str(report.get("backend", "vllm")), float(streams), isl, osl, measured)


def _run(
    where: str, line: int, said: Mapping[str, Any], model: str, framework: str, users: float, isl: float, osl: float,
    measured: Mapping[str, float | None],
) -> ServingRun:  # fmt: skip
    gpu = str(said.get("gpu") or said.get("system") or "")
    if not gpu or not model:
        raise BadInput(
            f"{where}: does not say its {'model' if gpu else 'gpu'}; add the key, as --metadata gpu=h100-sxm tp=1"
        )
    if not (users >= 1 and isl >= 1 and osl > 1):
        raise BadInput(f"{where}: {users:g} users with prompts of {isl:g} and answers of {osl:g} tokens are no load")
    tp, pp, ep = (int(float(said.get(name) or 1)) for name in ("tp", "pp", "ep"))
    version = str(said.get("version") or "")
    return ServingRun(
        line=line, gpu=gpu, model=catalogue_model(model), weight=weight_format(str(said.get("dtype") or ""), model),
        framework=_framework(framework), version=version, parallel=Parallel(tp, pp, ep), users=users, isl=isl, osl=osl,
        most_running=float(said.get("max_num_seqs") or max(users, _UNLIMITED)),
        measured={metric: value for metric, value in measured.items() if value is not None},
    )  # fmt: skip


def _framework(backend: str) -> str:
    """The stack behind a client's backend, whose names also say the protocol, as openai-chat."""
    known = next(
        (name for name in ("sglang", "trtllm", "vllm") if name in backend.replace("tensorrt_llm", "trtllm")), ""
    )
    return known or "vllm"


def _number(where: str, result: Mapping[str, Any], name: str) -> float:
    value = _positive(result.get(name))
    if value is None:
        raise BadInput(f"{where}: {name} is {result.get(name)!r}; a closed loop needs a positive number there")
    return value


def _positive(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) and value > 0 else None


def _seconds(result: Mapping[str, Any], name: str) -> float | None:
    value = _positive(result.get(name))
    return None if value is None else value * 1e-3


def _mean(metrics: Mapping[str, Any], name: str, scale: float) -> float | None:
    value = _positive((_inside(metrics, (name, "successful")) or {}).get("mean"))
    return None if value is None else value * scale


def _inside(value: Any, keys: tuple[str, ...]) -> Any:
    for key in keys:
        value = value.get(key) if isinstance(value, dict) else None
    return value
