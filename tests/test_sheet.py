"""Predictions from datasheets: never faster than physics on any target, alike for scalars and arrays, refusals in words."""

import json
import zlib
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ridgepoint import load_model, load_target
from ridgepoint.choice import resolve
from ridgepoint.errors import NotSupported, RidgeError
from ridgepoint.hardware import Target, target_names
from ridgepoint.prediction import predict, step_time
from ridgepoint.prediction.physics.device import device_of
from ridgepoint.prediction.served import Experts, served_ops
from ridgepoint.workload import (
    ALONE,
    Collective,
    Fused,
    Linear,
    Op,
    Parallel,
    Plan,
    Pointwise,
    decode,
    forward,
    mixed,
    prefill,
)

MODELS = ("llama-3.1-8b", "qwen3-8b", "gemma-2-9b", "mixtral-8x7b-v0.1", "deepseek-v2-lite", "opt-1.3b")


def predictable() -> list[str]:
    """Datasheet targets that have the figures which every time model needs."""
    names = []
    for name in target_names():
        target = load_target(name)
        if target.is_datasheet and target.kind == "gpu":
            try:
                device_of(target)
            except NotSupported:
                continue
            names.append(name)
    return names


TARGETS = predictable()


def plan_of(model: str, side: str, step, parallel: Parallel = ALONE, stack: str = "") -> Plan:
    workload = load_model(model)
    return replace(resolve(side, workload.dtype, "cuda").plan(workload, step), parallel=parallel, stack=stack)


def least_seconds(op: Op, target: Target) -> float:
    """Compulsory bytes of weights and cache over bandwidth, or FLOPs over the fastest dense peak of any dtype."""
    fastest = max(p.flops_per_s for p in target.peaks if not p.sparse)
    weights = (
        0.0 if isinstance(op, Experts) else float(np.asarray(op.weight_bytes))
    )  # skewed tokens touch fewer experts
    kept = 0.98 * (weights + float(np.asarray(op.kv_bytes)))
    return max(kept / target.memory_bytes_per_s(), float(np.asarray(op.flops)) / fastest) * op.count


@pytest.mark.parametrize("name", TARGETS)
def test_no_operator_of_any_target_is_faster_than_physics(name):
    """Every target, six families, random steps; weights and caches come from memory in a network."""
    target = load_target(name)
    generator = np.random.default_rng(zlib.crc32(name.encode()))
    checked = 0
    for model in MODELS:
        for step in (
            decode(int(generator.integers(1, 300)), int(generator.integers(1, 4000))),
            prefill(int(generator.integers(1, 8)), int(generator.integers(2, 1500))),
        ):
            dtype = "bf16" if any(p.dtype == "bf16" for p in target.peaks) else "fp16"
            try:
                time = step_time(plan_of(model, dtype, step), target)
            except RidgeError as error:
                assert name in str(error) or "multiplies no" in str(error) or "not" in str(error)
                continue
            for t in time.ops:
                assert float(t.seconds) >= least_seconds(t.op, target), (model, t.op.name)
                checked += 1
    if not checked:
        pytest.skip(f"{name}: no dtype of these models is predicted on it")


@settings(max_examples=40)
@given(st.sampled_from(MODELS), st.sampled_from(("h100-sxm", "l40s", "b200", "a100-sxm")), st.data())
def test_arrays_and_scalars_agree_bit_for_bit(model, name, data):
    target = load_target(name)
    batches = np.array(data.draw(st.lists(st.integers(1, 400), min_size=2, max_size=4, unique=True)), float)
    context = float(data.draw(st.integers(1, 3000)))
    many = np.broadcast_to(step_time(plan_of(model, "bf16", decode(batches, context)), target).seconds, batches.shape)
    for i, batch in enumerate(batches):
        assert step_time(plan_of(model, "bf16", decode(float(batch), context)), target).seconds == many[i]


@settings(max_examples=40)
@given(st.sampled_from(("h100-sxm", "l40s", "b200", "a100-sxm", "rtx-4090")), st.integers(1, 200), st.integers(1, 4000))
def test_more_work_does_not_take_less_time(name, batch, context):
    target = load_target(name)
    one, wider, longer = (
        float(step_time(plan_of("llama-3.1-8b", "bf16", step), target).seconds)
        for step in (decode(batch, context), decode(batch + 16, context), decode(batch, context + 512))
    )
    assert wider >= one * (1 - 1e-9) and longer >= one * (1 - 1e-9)


def test_rows_add_up_to_the_step_and_name_their_bounds():
    result = predict(plan_of("llama-3.1-8b", "bf16", decode(8, 1024)), load_target("h100-sxm"))
    assert sum(row.time_s for row in result.ops) == pytest.approx(result.latency_s)
    assert {row.bound for row in result.ops} <= {"compute", "memory", "dispatch", "network"}
    assert all(row.low_s < row.time_s < row.high_s for row in result.ops)


def test_a_serving_stack_joins_projections_and_adds_residuals_in_norms():
    ops = served_ops(load_model("llama-3.1-8b").forward_ops(decode(4, 100), "bf16"))
    names = [op.name for op in ops]
    assert "qkv_proj" in names and "gate_up_proj" in names and "q_proj" not in names
    joined = next(op for op in ops if op.name == "qkv_proj")
    assert isinstance(joined, Linear) and joined.n == 4096 + 2 * 1024
    assert sum(isinstance(op, Fused) for op in ops) == 2
    assert not any(isinstance(op, Pointwise) and op.role == "residual" for op in ops)
    plain = load_model("llama-3.1-8b").forward_ops(decode(4, 100), "bf16")
    assert sum(op.count * op.flops for op in ops) == pytest.approx(sum(op.count * op.flops for op in plain))


def test_routed_experts_are_one_kernel_with_all_their_work():
    plain = load_model("mixtral-8x7b-v0.1").forward_ops(decode(16, 100), "bf16")
    ops = served_ops(plain)
    experts = [op for op in ops if isinstance(op, Experts)]
    assert len(experts) == 1 and experts[0].gated
    assert experts[0].flops == sum(op.flops for op in plain if isinstance(op, Linear) and op.experts > 1)


def test_tensor_parallel_is_faster_per_device_and_pays_for_its_collectives():
    one = step_time(plan_of("llama-3.1-70b", "bf16", decode(16, 2048)), load_target("h100-sxm"))
    four = step_time(plan_of("llama-3.1-70b", "bf16", decode(16, 2048), Parallel(tp=4)), load_target("h100-sxm"))
    spent = sum(float(t.seconds) for t in four.ops if isinstance(t.op, Collective))
    assert 0 < spent < float(four.seconds)
    assert float(one.seconds) / 4 < float(four.seconds) < float(one.seconds)


def test_a_mixed_step_costs_less_than_its_parts_apart_and_more_than_each():
    target = load_target("h100-sxm")
    both = float(step_time(plan_of("llama-3.1-8b", "bf16", mixed([512, 1, 1], [0, 900, 70])), target).seconds)
    prompt = float(step_time(plan_of("llama-3.1-8b", "bf16", prefill(1, 512)), target).seconds)
    tokens = float(step_time(plan_of("llama-3.1-8b", "bf16", decode(2, 485)), target).seconds)
    assert max(prompt, tokens) < both < prompt + tokens


def test_a_faster_memory_decodes_faster_by_about_its_ratio():
    """H200 is an H100 with 1.43 times the bandwidth: a decode step of few sequences gains most of it, a prompt nothing."""
    h100, h200 = load_target("h100-sxm"), load_target("h200")
    step = plan_of("llama-3.1-8b", "bf16", decode(1, 4096))
    gain = float(step_time(step, h100).seconds) / float(step_time(step, h200).seconds)
    assert 1.2 < gain < h200.memory_bytes_per_s() / h100.memory_bytes_per_s()
    prompt = plan_of("llama-3.1-8b", "bf16", forward(1, 4096))
    assert float(step_time(prompt, h100).seconds) / float(step_time(prompt, h200).seconds) == pytest.approx(
        1.0, abs=0.06
    )


def test_intervals_widen_with_what_lies_between_question_and_fit():
    """The machine and stack that were measured, another machine of the class, a class that nobody measured."""
    step = decode(8, 1024)
    near, other, far = (
        float(step_time(plan_of("llama-3.1-8b", "bf16", step), load_target(name)).sigma)
        for name in ("h100-sxm", "h200", "mi300x")
    )
    assert near < other < far


@pytest.mark.parametrize(
    ("target", "side", "said"),
    [
        ("a100-sxm", "fp8", "multiplies no fp8; it has"),
        ("v100-pcie", "bf16", "multiplies no bf16"),
        ("h100-sxm", "nf4", "no kernel for nf4 was measured"),
    ],
)
def test_a_dtype_that_the_target_lacks_is_refused_with_what_it_has(target, side, said):
    with pytest.raises(NotSupported, match=said):
        step_time(plan_of("llama-3.1-8b", side, decode(1, 10)), load_target(target))


def test_more_devices_than_a_node_joins_are_refused():
    with pytest.raises(NotSupported, match="16 devices are more than the 8 of dgx-h100"):
        step_time(plan_of("llama-3.1-70b", "bf16", decode(1, 10), Parallel(tp=16)), load_target("h100-sxm"))


def test_the_command_compares_machines(ridge):
    ran = ridge("predict", "llama-3.1-8b", "--on", "h100-sxm,l40s", "--batch", "4", "--isl", "512")
    assert ran.code == 0 and "h100-sxm" in ran.out and "l40s" in ran.out and "fastest" in ran.out
    ran = ridge("why", "llama-3.1-8b", "bf16..fp8", "--on", "h100-sxm,a100-sxm", "--batch", "1,64")
    assert ran.code == 0 and "h100-sxm" in ran.out and "multiplies no fp8" in ran.err
    ran = ridge("why", "llama-3.1-8b", "bf16..fp8,nvfp4", "--on", "h100-sxm,b200", "--batch", "1")
    assert ran.code == 0 and "refused, see below" in ran.out and "h100-sxm multiplies no fp4" in ran.err
    assert "1.0" not in next(x for x in ran.out.split("nvfp4:")[1].splitlines() if x.startswith("h100-sxm"))
    ran = ridge("predict", "llama-3.1-8b", "--on", "h100-sxm,l40s,m3-max")
    assert ran.code == 0 and "l40s" in ran.out and "m3-max: " in ran.err and "absent from its figures" in ran.err
    assert "no target named 'h100-smx'; did you mean h100-sxm" in ridge("predict", "gpt2", "--on", "h100-smx").complaint


def test_where_parameters_come_from_other_machines_it_is_said():
    near, far = (
        predict(plan_of("llama-3.1-8b", "bf16", decode(1, 512)), load_target(x)).flags for x in ("l40s", "mi300x")
    )
    assert not any("linear" in flag or "attention" in flag for flag in near)
    assert any("linear" in flag and "never validated on mi300x" in flag for flag in far)


def test_experts_move_the_bytes_of_those_that_the_tokens_reach():
    """Never more bytes a second than the memory has: not all experts that an even draw would reach are read."""
    target = load_target("h100-sxm")
    for batch in (1, 4, 64):
        result = predict(plan_of("mixtral-8x7b-v0.1", "bf16", decode(batch, 512), Parallel(tp=2)), target)
        (experts,) = (row for row in result.ops if row.kind == "moe")
        assert experts.bytes / experts.time_s <= target.memory_bytes_per_s()


def test_nodes_are_listed_and_shown_with_their_sources(ridge):
    listed = ridge("targets", "--nodes")
    assert listed.code == 0 and "gb300-nvl72" in listed.out and "infiniband-ndr" in listed.out
    shown = ridge("targets", "dgx-h100")
    assert shown.code == 0 and "8 x h100-sxm" in shown.out and "450 GB/s" in shown.out and "absent" in shown.out
    assert "http" in ridge("targets", "dgx-h100", "--source").out
    assert json.loads(ridge("targets", "gb200-nvl72", "--json").out)["count"] == 72
    assert "no node named 'dgx-h10'; did you mean dgx-h100" in ridge("targets", "dgx-h10", "--nodes").complaint
