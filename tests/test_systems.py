"""Published tables and result files of whole systems: names, formats, repeated rows, refusals, predictions beside them."""

import json
from pathlib import Path

import numpy as np
import pytest

from ridgepoint.errors import BadInput, NotSupported, RidgeError, UnknownName
from ridgepoint.hardware import arch_names, load_arch
from ridgepoint.study.published.systems import system_kind
from ridgepoint.study.published.systems_bench import bench_runs
from ridgepoint.study.published.systems_models import (
    catalogue_model,
    format_in_name,
    in_format,
    load_published,
    weight_format,
)
from ridgepoint.study.published.systems_names import parallel_named, published_target, stack_named
from ridgepoint.study.published.systems_serving import serving_runs
from ridgepoint.study.published.table import read_table
from ridgepoint.workload import Linear, Parallel, Plan, decode, load_model

HEAD = (
    "id,silicon_data_source,backend,backend_version,model_path,system,precision,mode,isl,osl,gemm_quant_mode,batch_size,"
    "tp_size,pp_size,attention_dp_size,moe_tp_size,moe_ep_size,silicon_ttft_ms,silicon_tpot_ms"
)
ROW = ("a", "x; silicon_concurrency=8", "trtllm", "1.0", "meta-llama/Llama-3.1-8B-Instruct", "h100_sxm", "", "agg", "1024",
       "128", "", "8", "2", "1", "", "1", "1", "190", "8")  # fmt: skip


def table_of(tmp_path: Path, *rows: tuple[str, ...], head: str = HEAD):
    path = tmp_path / "silicon.csv"
    path.write_text("\n".join([head, *(",".join(row) for row in rows)]) + "\n")
    return read_table(path)


def changed(**cells: str) -> tuple[str, ...]:
    names = HEAD.split(",")
    return tuple(cells.get(name, value) for name, value in zip(names, ROW, strict=True))


@pytest.mark.parametrize(
    ("published", "ours"),
    [
        ("meta-llama/Llama-3.1-8B-Instruct", "llama-3.1-8b"),
        ("nvidia/Llama-3.1-405B-Instruct-FP8", "llama-3.1-405b"),
        ("RedHatAI/Meta-Llama-3.1-70B-Instruct-FP8-dynamic", "llama-3.1-70b"),
        ("meta-llama/Llama-3.3-70B-Instruct", "llama-3.1-70b"),
        ("Qwen/Qwen3-235B-A22B-Instruct-2507-FP8", "qwen3-235b-a22b"),
        ("deepseek-ai/DeepSeek-V3-0324", "deepseek-v3"),
        ("DeepSeek-R1-0528-NVFP4-v2", "deepseek-v3"),
        ("mistralai/Mixtral-8x7B-Instruct-v0.1", "mixtral-8x7b-v0.1"),
        ("Mistral 7B", "mistral-7b-v0.1"),
        ("LLaMA 70B", "llama-2-70b"),
        ("Qwen2.5-0.5B", "qwen2.5-0.5b"),
    ],
)
def test_published_names_find_the_catalogue(published, ours):
    assert catalogue_model(published) == ours
    assert load_published(published).name == ours


def test_an_unknown_model_is_one_line_with_the_nearest():
    with pytest.raises(BadInput, match=r"no model of the catalogue.*nearest.*llama-3.1-8b") as error:
        catalogue_model("vendor/Llama-3.9-8B-Instruct")
    assert len(str(error.value)) < 250


def test_a_blank_column_and_a_name_with_a_format_is_that_format():
    assert weight_format("", "nvidia/Llama-3.1-8B-Instruct-FP8") == "fp8"
    assert weight_format("bfloat16", "nvidia/Llama-3.1-8B-Instruct-FP8") == "bf16"
    assert weight_format("int4_wo", "x") == "int4:g128"
    assert format_in_name("nvidia/DeepSeek-R1-NVFP4") == "nvfp4"
    assert format_in_name("deepseek-ai/DeepSeek-R1") == "fp8:block"
    assert format_in_name("deepseek-ai/DeepSeek-R1-Distill-Llama-70B") == ""
    with pytest.raises(UnknownName, match="weight format"):
        weight_format("fp7", "x")


def test_formats_spare_the_head_and_the_router():
    plan = in_format(Plan(load_model("qwen3-30b-a3b"), decode(1, 1), "bf16", device="cuda"), "fp8")
    of = {op.name: op.weight for op in plan.ops if isinstance(op, Linear)}
    assert of["lm_head"] == "bf16" and of["router"] == "bf16"
    assert of["q_proj"] == "fp8" and of["expert_up_proj"] == "fp8"
    with pytest.raises(NotSupported, match="bytes"):
        in_format(plan, "fp3")


def test_rows_that_repeat_in_all_but_their_source_count_once(tmp_path):
    again = changed(id="b", silicon_data_source="another dump; silicon_concurrency=8")
    other = changed(silicon_data_source="x; silicon_concurrency=16", batch_size="16")
    assert len(list(serving_runs(table_of(tmp_path, ROW, again, other)))) == 2


def test_a_row_as_a_run(tmp_path):
    (run,) = serving_runs(table_of(tmp_path, ROW))
    assert (run.model, run.gpu, run.weight, run.users, run.most_running) == ("llama-3.1-8b", "h100_sxm", "", 8, 8)
    assert run.parallel == Parallel(tp=2)
    assert run.measured == {"ttft": pytest.approx(0.19), "tpot": pytest.approx(0.008)}


def test_concurrency_is_not_always_the_batch(tmp_path):
    groups = changed(batch_size="16", tp_size="1", attention_dp_size="8", moe_ep_size="8",
                     silicon_data_source="silicon_concurrency=128")  # fmt: skip
    replicas = changed(batch_size="16", silicon_data_source="silicon_concurrency=64")
    unsaid = changed(batch_size="16", silicon_data_source="x")
    few = changed(batch_size="16", silicon_data_source="silicon_concurrency=4")
    found = [(run.users, run.most_running) for run in serving_runs(table_of(tmp_path, groups, replicas, unsaid, few))]
    assert found == [(128, 128), (16, 16), (16, 16), (4, 16)]
    first = next(iter(serving_runs(table_of(tmp_path, groups))))
    assert first.parallel == Parallel(tp=8, ep=8, attention_dp=8)


def test_rows_that_cannot_be_predicted_are_refused_one_by_one(tmp_path):
    rows = [changed(mode="disagg"), changed(model_path="vendor/unheard-of"), changed(osl="1"), ROW]
    found = list(serving_runs(table_of(tmp_path, *rows)))
    assert [isinstance(x, RidgeError) for x in found] == [True, True, True, False]
    assert "workers of their own" in str(found[0])


def test_kinds_by_columns(tmp_path, shared):
    kinds = {path.stem: system_kind(read_table(path)) for path in (shared / "measurements").glob("e2e_*.csv")}
    assert kinds == {
        "e2e_serving_silicon": "serving", "e2e_serving_requests": "serving_requests", "e2e_inference": "inference",
        "e2e_training": "training", "e2e_training_megatron": "training_megatron",
    }  # fmt: skip
    assert system_kind(read_table(shared / "measurements" / "collectives.csv")) == ""


def test_all_measured_servers_are_runs(shared):
    found = list(serving_runs(read_table(shared / "measurements" / "e2e_serving_silicon.csv")))
    assert len(found) == 98 and not any(isinstance(x, RidgeError) for x in found)


VLLM = {"backend": "vllm", "model_id": "meta-llama/Llama-3.1-8B-Instruct", "max_concurrency": 32, "completed": 320,
        "total_input_tokens": 320 * 512, "total_output_tokens": 320 * 128, "mean_ttft_ms": 120.0, "mean_tpot_ms": 11.0,
        "mean_e2el_ms": 1500.0, "output_throughput": 2700.0, "gpu": "h100-sxm", "tp": "2"}  # fmt: skip


def bench(tmp_path: Path, content: object, name: str = "bench.json") -> list[object]:
    path = tmp_path / name
    path.write_text(json.dumps(content))
    return list(bench_runs(path))


def test_a_result_of_vllms_bench(tmp_path):
    (run,) = bench(tmp_path, VLLM)
    assert (run.gpu, run.model, run.users, run.isl, run.osl) == ("h100-sxm", "llama-3.1-8b", 32, 512, 128)
    assert run.parallel == Parallel(tp=2) and run.framework == "vllm" and run.most_running == 256
    assert run.measured == {"ttft": 0.12, "tpot": pytest.approx(0.011), "latency": 1.5, "tokens_per_s": 2700.0}


@pytest.mark.parametrize(
    ("change", "words"),
    [({"gpu": None}, "gpu"), ({"max_concurrency": None}, "max_concurrency"), ({"completed": 0}, "completed"),
     ({"model_id": "vendor/unheard-of"}, "nearest")],
)  # fmt: skip
def test_a_result_without_what_is_needed_is_refused(tmp_path, change, words):
    (error,) = bench(tmp_path, {**VLLM, **change})
    assert isinstance(error, BadInput) and words in str(error)


def test_a_guidellm_report(tmp_path):
    def mean(value):
        return {"successful": {"mean": value}}

    metrics = {
        "time_to_first_token_ms": mean(90.0), "inter_token_latency_ms": mean(9.0), "request_latency": mean(2.0),
        "output_tokens_per_second": mean(800.0), "prompt_token_count": mean(256.0), "output_token_count": mean(200.0),
    }  # fmt: skip
    streams = {"config": {"strategy": {"type_": "concurrent", "streams": 8}}, "metrics": metrics}
    by_rate = {"config": {"strategy": {"type_": "constant", "rate": 2}}, "metrics": metrics}
    report = {"benchmarks": [streams, by_rate], "gpu": "l40s", "model": "Qwen/Qwen3-8B"}
    run, error = bench(tmp_path, report)
    assert (run.users, run.isl, run.osl, run.measured["ttft"]) == (8, 256, 200, pytest.approx(0.09))
    assert isinstance(error, BadInput) and "closed loop" in str(error)


@pytest.mark.parametrize("text", ["", "[", "3", "[1]", '"x"'])
def test_other_json_is_refused(tmp_path, text):
    path = tmp_path / "x.json"
    path.write_text(text)
    with pytest.raises(BadInput):
        list(bench_runs(path))


def test_names_with_more_than_a_name():
    assert stack_named("TensorRT-LLM 0.9") == ("trtllm", "0.9")
    assert stack_named("pytorch torch.compile") == ("pytorch", "")
    assert parallel_named("tp4") == Parallel(tp=4)
    assert parallel_named("fsdp8 compile") == Parallel()
    limited = published_target("h100-sxm 500W")
    assert limited.name == "h100-sxm" and limited.figure("tdp_w") == 500
    with pytest.raises(UnknownName):
        published_target("no such card 500W")


def has_servers() -> bool:
    return "hopper" in arch_names() and any(fit.operator == "serving" for fit in load_arch("hopper").fits)


needs_fit = pytest.mark.skipif(
    not has_servers(), reason="needs the classes' fitted parameters (scripts/fit_classes.py)"
)


@needs_fit
@pytest.mark.parametrize(
    ("name", "metric", "median"),
    [("e2e_serving_silicon", "tpot", 0.12), ("e2e_serving_silicon", "ttft", 0.35), ("e2e_serving_requests", "tpot", 0.2),
     ("e2e_serving_requests", "ttft", 0.35)],
)  # fmt: skip
def test_measured_systems_are_near_their_predictions(shared, name, metric, median):
    from ridgepoint.study.scoring import Scored
    from ridgepoint.study.scoring_systems import score_systems

    found = [x for x in score_systems(read_table(shared / "measurements" / f"{name}.csv")) if isinstance(x, Scored)]
    errors = np.concatenate([np.abs(x.predicted / x.measured - 1) for x in found if x.metric == metric])
    assert np.median(errors) < median
    assert all(np.all(x.low < x.predicted) and np.all(x.predicted < x.high) for x in found)
