"""Small modules: what calls save in the second-level cache, what giving memory back costs, and other code for other layouts."""

from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from ridgepoint.choice import resolve
from ridgepoint.errors import BadInput, NotSupported
from ridgepoint.hardware import decode_target, encode_target
from ridgepoint.hardware.law_near import NearLaw
from ridgepoint.measurement.trace.load import Built
from ridgepoint.measurement.trace.trace import trace_built
from ridgepoint.prediction import step_time
from ridgepoint.prediction.near import near_seconds
from ridgepoint.prediction.residency import code_key
from ridgepoint.prediction.results import result_bytes
from ridgepoint.study.context_modules import _gaps, with_module_context
from ridgepoint.study.fit_cache import fit_near
from ridgepoint.workload import Conv, Pointwise, Traced, decode, forward, laid_out, load_model

TARGET = decode_target("t", (Path(__file__).parent / "data" / "test-target.calibrated.toml").read_bytes())
SOURCE = next(iter(TARGET.sources))
LAW = NearLaw(
    saved_s={"fp32 fp32": 9e-6, "relu fp32": 1e-6, "add fp32": 2e-6}, displaced_bytes=(1e5, 1e6, 4e6),
    lost=(0.0, 0.5, 1.0), source=SOURCE,
)  # fmt: skip
NEAR = msgspec.structs.replace(TARGET, near=LAW)


class Stack(nn.Module):
    """Six linear layers, the input of each added to its output."""

    def __init__(self, wide: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(wide, wide) for _ in range(6))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = x + layer(x)
        return x


def stack(wide: int) -> Traced:
    return trace_built("t:stack", Built(Stack(wide).eval(), (torch.randn(2, wide),), {}, 2), ("fp32",))


def test_savings_are_whole_where_little_passes_and_gone_where_much_does() -> None:
    passed = np.array([1.0, 1e5, 1e6, 4e6, 1e9])
    assert LAW.seconds("fp32", "fp32", passed) == pytest.approx([9e-6, 9e-6, 4.5e-6, 0.0, 0.0])
    assert LAW.seconds("gelu_erf", "fp32", 1.0) == pytest.approx(2e-6), "an operator that was not measured: the median"
    assert LAW.seconds("relu", "bf16", 1.0) == 0.0, "a dtype that was not: nothing"
    assert np.all(np.diff(LAW.seconds("add", "fp32", np.geomspace(1, 1e9, 50))) <= 0)


def test_a_small_module_saves_and_a_large_one_does_not() -> None:
    def saved(wide: int) -> float:
        plan = resolve("fp32", "fp32").plan(stack(wide), forward(1, 1))
        return float(step_time(plan, TARGET).seconds) - float(step_time(plan, NEAR).seconds)

    assert saved(64) == pytest.approx(6 * 9e-6 + 6 * 2e-6, rel=1e-6)  # 16 KB of weights a layer
    assert 0 < saved(320) < saved(64)
    assert saved(1024) == 0.0


def test_a_saving_has_an_interval_of_its_own() -> None:
    plan = resolve("fp32", "fp32").plan(stack(64), forward(1, 1))
    near, far = step_time(plan, NEAR), step_time(plan, TARGET)
    assert near.near_s == pytest.approx(far.seconds - near.seconds)
    share, sigma = near.shares()["near", "", ""]
    assert share == pytest.approx(near.near_s / near.seconds)
    bare = msgspec.structs.replace(NEAR, near=None)
    assert ("near", "", "") not in step_time(plan, bare).shares()
    assert sigma == 0.5
    assert near.sigma**2 >= (share * 0.5) ** 2
    without = msgspec.structs.replace(LAW, saved_s=dict.fromkeys(LAW.saved_s, 0.0))
    assert near.sigma > step_time(plan, msgspec.structs.replace(NEAR, near=without)).sigma
    large = step_time(resolve("fp32", "fp32").plan(stack(1024), forward(1, 1)), NEAR)
    assert ("near", "", "") not in large.shares()


def test_no_call_saves_more_than_four_fifths_of_itself() -> None:
    greedy = msgspec.structs.replace(
        NEAR, near=msgspec.structs.replace(LAW, saved_s={"fp32 fp32": 1.0, "add fp32": 1.0})
    )
    plan = resolve("fp32", "fp32").plan(stack(64), forward(1, 1))
    bare = msgspec.structs.replace(TARGET, correction=None)
    least = msgspec.structs.replace(greedy, correction=None)
    assert float(step_time(plan, least).seconds) == pytest.approx(0.2 * float(step_time(plan, bare).seconds))


def test_networks_of_decoders_and_compiled_modules_are_not_asked() -> None:
    plan = resolve("fp32", "fp32").plan(load_model("smollm2-135m"), decode(1, 64))
    assert near_seconds(plan, NEAR, plan.ops) == {}
    assert float(step_time(plan, NEAR).seconds) == float(step_time(plan, TARGET).seconds)
    compiled = resolve("fp32+compile", "fp32").plan(stack(64), forward(1, 1))
    assert near_seconds(compiled, NEAR, compiled.ops) == {}


def test_made_up_samples_are_found_again() -> None:
    samples = [
        {"probe": "near_code", "subject": "relu", "act": "fp32", "seconds": 5e-6, "seconds_near": 2e-6},
        {"probe": "near_code", "subject": "add", "act": "fp32", "seconds": 1.9e-6, "seconds_near": 2e-6},
    ]
    sizes = (32768.0, 262144.0, 4194304.0)
    for kind in ("rms_norm", "layer_norm"):
        for size, seconds in zip(sizes, (4e-6, 5e-6, 8e-6), strict=True):
            samples.append({"probe": "near_residency", "subject": kind, "bytes": size, "seconds": seconds})
    law = fit_near(samples, SOURCE)
    assert law is not None
    assert law.saved_s == {"relu fp32": pytest.approx(3e-6), "add fp32": 0.0}
    assert (law.displaced_bytes, law.lost) == (sizes, pytest.approx((0.0, 0.25, 1.0)))
    assert fit_near([], SOURCE) is None
    flat = [{**s, "seconds": 5e-6} if s["probe"] == "near_residency" else s for s in samples]
    assert fit_near(flat, SOURCE) is None, "a curve that shows nothing"


def test_targets_keep_the_law_and_refuse_a_broken_one() -> None:
    assert decode_target("t", encode_target(NEAR)) == NEAR
    for broken in (
        {"lost": (0.0, 0.5, 2.0)}, {"lost": (0.0, 0.5, 0.4)}, {"lost": (0.0, 0.0, 0.0)}, {"saved_s": {"relu fp32": -1.0}},
        {"saved_s": {"relu fp32": float("inf")}}, {"displaced_bytes": (1.0, 1.0, 2.0)},
    ):  # fmt: skip
        text = encode_target(msgspec.structs.replace(NEAR, near=msgspec.structs.replace(LAW, **broken)))
        with pytest.raises(BadInput, match="near"):
            decode_target("t", text)


def test_what_passes_between_calls_is_parted_into_calls_and_bytes() -> None:
    cells = []
    for wide, batch in ((64, 1), (64, 40), (320, 8), (320, 200)):
        time = step_time(resolve("fp32", "fp32").plan(stack(wide), forward(batch, 1)), TARGET)
        ops = {t.op.name: float(t.seconds) for t in time.ops}
        made = sum(t.op.count for t in time.ops) * 4 * batch * wide
        gap = 3e-6 * sum(t.op.count for t in time.ops) + 2e-11 * made
        cells.append(({"ops": ops, "seconds": sum(ops.values()) + gap}, time))
    assert _gaps(cells) == (pytest.approx(3e-6, rel=0.02), pytest.approx(2e-11, rel=0.02))


def test_a_factor_is_of_the_law_and_not_of_what_is_saved() -> None:
    traced, factor = stack(64), 1.4
    cells = []
    for batch in (1, 3, 17):
        plan = resolve("fp32", "fp32").plan(traced, forward(batch, 1))
        bare = msgspec.structs.replace(NEAR, module_call_s=0.0, near=None)
        saved = near_seconds(plan, NEAR, plan.ops)
        ops = {}
        for t in step_time(plan, bare).ops:
            alone = float(t.seconds) * (factor if t.op.kind == "add" else 1.0)
            ops[t.op.name] = alone - t.op.count * float(saved[code_key(t.op)])
        cells.append({
            "probe": "module net", "traced": msgspec.to_builtins(traced), "batch": batch, "act": "fp32", "ops": ops,
            "seconds": sum(ops.values()),
        })  # fmt: skip
    add = next(law for law in NEAR.pointwise if (law.kind, law.dtype) == ("add", "fp32"))
    bare = msgspec.structs.replace(
        NEAR, pointwise=tuple(msgspec.structs.replace(x, sigma_composed=0.0, composed=1.0) for x in NEAR.pointwise)
    )
    fitted = with_module_context(bare, cells)
    (law,) = (x for x in fitted.pointwise if (x.kind, x.dtype) == ("add", "fp32"))
    assert law.composed == pytest.approx((factor * add.composed) ** (3 / 4), rel=0.02)  # drawn towards 1 by a quarter


def test_pooling_and_group_norm_are_other_operators_with_channels_last() -> None:
    for kind in ("pool", "avg_pool"):
        pool = Pointwise("p", "other", kind, 100, 9, "fp32", pixels=25)
        assert laid_out(pool, last=True).kind == f"{kind}_last"
        assert laid_out(laid_out(pool, last=True), last=False) == pool
        assert result_bytes(pool) == result_bytes(laid_out(pool, last=True)) == 4 * 100
    for other in (Pointwise("a", "other", "add", 100, 9, "fp32"), Pointwise("p", "other", "pool", 100, 9, "fp32")):
        assert laid_out(other, last=True) == other  # an addition, and windows over something else than images


@pytest.mark.parametrize(
    ("side", "kind", "rows", "cols"),
    [(31, "group_norm_last", 6 * 31**2, 4), (32, "group_norm_last_large", 6, 4 * 32**2)],
)
def test_group_norm_with_channels_last_is_another_algorithm_by_the_size_of_images(
    side: int, kind: str, rows: int, cols: int
) -> None:
    norm = Pointwise("n", "other", "group_norm", 6, 4 * side**2, "fp32", pixels=side**2)
    last = laid_out(norm, last=True)
    assert (last.kind, last.rows, last.cols) == (kind, rows, cols)
    assert laid_out(last, last=True) == last
    assert laid_out(last, last=False) == norm
    assert (last.flops, last.activation_bytes) == (norm.flops, norm.activation_bytes)


@pytest.mark.parametrize("module", [nn.InstanceNorm2d(8), nn.GroupNorm(2, 8), nn.AvgPool2d(2), nn.AdaptiveAvgPool2d(4)])
def test_what_a_trace_says_of_images_and_of_other_tensors(module: nn.Module) -> None:
    x = torch.randn(2, 8, 16, 16).to(memory_format=torch.channels_last)
    traced = trace_built("t:t", Built(module.eval(), (x,), {}, 2), ("fp32",))
    (op,) = (op for op in traced.forward_ops(forward(2, 1), "fp32") if op.kind not in ("view", "copy"))
    wanted = {nn.InstanceNorm2d: "instance_norm", nn.GroupNorm: "group_norm_last"}.get(type(module), "avg_pool_last")
    assert op.kind == wanted  # torch turns the input of an instance norm to channels first


def test_norms_of_groups_of_three_dimensions_have_no_order_of_pixels() -> None:
    traced = trace_built("t:t", Built(nn.GroupNorm(2, 8).eval(), (torch.randn(2, 8, 50),), {}, 2), ("fp32",))
    (op,) = traced.forward_ops(forward(2, 1), "fp32")
    turned = laid_out(op, last=True)
    assert (turned.kind, turned.rows, turned.cols) == ("group_norm", 4, 200)


@pytest.mark.parametrize("last", [False, True])
def test_a_trace_and_the_choice_agree_on_the_layout(last: bool) -> None:
    module = nn.Sequential(nn.Conv2d(3, 8, 3), nn.GroupNorm(2, 8), nn.MaxPool2d(2))
    order = torch.channels_last if last else torch.contiguous_format
    x = torch.randn(2, 3, 16, 16).to(memory_format=order)
    traced = trace_built("t:t", Built(module.eval().to(memory_format=order), (x,), {}, 2), ("fp32",))
    kinds = [op.kind for op in traced.forward_ops(forward(2, 1), "fp32")]
    assert kinds == (["conv", "group_norm_last", "pool_last"] if last else ["conv", "group_norm", "pool"])
    turned = resolve("fp32+channels-first" if last else "fp32+channels-last", "fp32").plan(traced, forward(2, 1))
    assert [op.kind for op in turned.ops] == (
        ["conv", "group_norm", "pool"] if last else ["conv", "group_norm_last", "pool_last"]
    )
    assert all(op.layout == ("" if last else "last") for op in turned.ops if isinstance(op, Conv))


def test_a_calibration_from_before_says_what_adds_it() -> None:
    module = nn.Sequential(nn.Conv2d(3, 8, 3), nn.MaxPool2d(2))
    traced = trace_built("t:t", Built(module.eval(), (torch.randn(2, 3, 16, 16),), {}, 2), ("fp32",))
    plan = resolve("fp32+channels-last", "fp32").plan(traced, forward(2, 1))
    only_pool = [op for op in plan.ops if op.kind == "pool_last"]
    from ridgepoint.prediction.optime import op_time

    with pytest.raises(NotSupported, match="ridge calibrate --modules"):
        op_time(only_pool[0], TARGET, 1.0, 0.0, 1)


def test_the_probes_run_on_a_machine_with_a_small_cache() -> None:
    from ridgepoint.measurement.calibrate.near_code import near_code_samples, near_residency_samples

    curve = list(near_residency_samples(2**20, 1))
    assert {s["bytes"] for s in curve} == {float(2**i) for i in range(15, 23)}
    saved = list(near_code_samples("fp32", 2**20, 1))
    assert {"relu", "softmax", "conv", "matmul", "attention", "fp32", "view"} <= {s["subject"] for s in saved}
    assert all(s["seconds"] > 0 and s["seconds_near"] > 0 for s in saved)


def test_memory_that_is_given_back_is_in_the_time_of_a_call() -> None:
    plan = resolve("fp32", "fp32").plan(stack(64), forward(50, 1))
    free = msgspec.structs.replace(TARGET, module_call_s=1e-6)
    paid = msgspec.structs.replace(free, module_byte_s=1e-9)
    more = float(step_time(plan, paid).seconds) - float(step_time(plan, free).seconds)
    assert more == pytest.approx(12 * 50 * 64 * 4 * 1e-9)
