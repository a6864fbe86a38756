"""Predictions: sums that add up, the same for one point and a sweep, monotone, with intervals, or refused."""

import itertools
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ridgepoint.choice import resolve
from ridgepoint.errors import NotSupported
from ridgepoint.hardware import decode_target
from ridgepoint.prediction import Z80, predict, predict_memory, ratio_sigma, roofline_seconds, step_time
from ridgepoint.prediction.residency import miss_share, working_set_bytes
from ridgepoint.prediction.roofline import bound_of, compute_dtype
from ridgepoint.workload import Attention, Linear, decode, forward, load_model, mixed, prefill, train
from ridgepoint.workload.families import from_config

DATA = Path(__file__).parent / "data" / "test-target.calibrated.toml"
TARGET = decode_target(DATA.name, DATA.read_bytes())
SMOL = load_model("smollm2-135m")
TINY = from_config(
    "tiny",
    {"hidden_size": 256, "intermediate_size": 768, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 512},
)
SIDES = ("fp32", "bf16", "fp16", "int8", "int8:naive", "int8:dyn", "int8:dyn:token", "fp32+int8:dyn:token", "int4",
         "int4:naive", "int8:head", "nf4")  # fmt: skip
STEPS = (decode(3, 100), prefill(2, 48), mixed([1, 1, 40], [77, 9, 0]), forward(1, 32), train(2, 16))
each_side = pytest.mark.parametrize("side", SIDES)


def miss_of(plan, target):
    return miss_share(plan, target, working_set_bytes(plan.ops, target))


def a_plan(side, step, workload=SMOL):
    return resolve(side, "bf16").plan(workload, step)


def changed(**fields):
    return msgspec.structs.replace(TARGET, **fields)


# Sums


@each_side
@pytest.mark.parametrize("step", STEPS, ids=str)
def test_a_result_is_the_sum_of_its_operators(side, step):
    plan = a_plan(side, step)
    result, time = predict(plan, TARGET), step_time(plan, TARGET)
    assert result.kind == "predicted" and result.target == "test-target" and result.side == plan.side
    assert [row.name for row in result.ops] == [op.name for op in plan.ops]
    assert result.latency_s == pytest.approx(sum(row.time_s for row in result.ops), rel=1e-12)
    assert result.latency_s == pytest.approx(float(time.seconds), rel=1e-12)
    assert all(0 < row.low_s < row.time_s < row.high_s for row in result.ops)
    assert sum(row.flops for row in result.ops) == pytest.approx(sum(op.count * op.flops for op in plan.ops))
    by_operator = [float(share) for (_, _, name), (share, _) in time.shares().items() if name]
    assert sum(by_operator) == pytest.approx(1, rel=1e-12)
    latency, tokens = result.metrics["latency_s"], result.metrics["tokens_per_s"]
    assert latency.low < latency.value < latency.high
    assert np.log(latency.high / latency.value) == pytest.approx(Z80 * float(time.sigma))
    assert tokens.value * latency.value == pytest.approx(float(step.tokens))
    assert tokens.low * latency.high == pytest.approx(float(step.tokens))
    assert result.metrics["energy_j"] is None and "power" in result.absent["energy_j"]


@each_side
def test_the_kernel_is_the_fastest_that_carries_out_the_choice(side):
    """It is of the weight's format and of the pinned rung: prediction picks the kernel, never the algorithm."""
    for batch in (1, 16, 300):
        plan = a_plan(side, decode(batch, 64))
        miss = miss_of(plan, TARGET)
        for time in step_time(plan, TARGET).ops:
            op = time.op
            if not isinstance(op, Linear):
                continue
            laws = [law for law in TARGET.linear if (law.format, law.act) == (op.weight, op.dtype)]
            laws = [law for law in laws if not op.kernel or law.rung == op.kernel]
            seconds = {law.kernel: float(law.seconds(op.m, op.n, op.k, miss)) for law in laws}
            assert time.kernel == min(seconds, key=seconds.get)
            calls = op.count * (seconds[time.kernel] + TARGET.correction.per_call_s)
            assert float(time.seconds) == pytest.approx(calls, rel=1e-12)


def test_both_rungs_of_int4_win_somewhere():
    """Else the tests of sweeps below would not meet a change of kernel."""
    kernels = {t.kernel for b in (1, 4096) for t in step_time(a_plan("int4", decode(b, 64)), TARGET).ops}
    assert {"torch._weight_int4pack_mm_for_cpu", "int4_dequantise_linear"} <= kernels


def test_a_mixed_step_of_like_sequences_is_that_step():
    for step, same in (
        (mixed([1] * 5, [64] * 5), decode(5, 64)),
        (mixed([32] * 3, [8] * 3), prefill(3, 32, 8)),
    ):
        assert float(step_time(a_plan("bf16", step), TARGET).seconds) == float(
            step_time(a_plan("bf16", same), TARGET).seconds
        )


@given(st.lists(st.tuples(st.integers(1, 200), st.integers(0, 2000)), min_size=2, max_size=6))
@settings(max_examples=30)
def test_a_mixed_step_costs_no_more_than_its_sequences_one_by_one(pairs):
    whole = mixed([new for new, _ in pairs], [cached for _, cached in pairs])
    alone = sum(float(step_time(a_plan("bf16", prefill(1, *pair), TINY), TARGET).seconds) for pair in pairs)
    slack = 1.001 + 0.02 * len(pairs)  # residency of the larger working set
    assert 0 < float(step_time(a_plan("bf16", whole, TINY), TARGET).seconds) < slack * alone


# Sweeps


@each_side
@pytest.mark.parametrize("make", [decode, prefill, train])
def test_a_sweep_equals_its_points(side, make):
    """Also where another kernel becomes the fastest on the way: each point has its own."""
    batches, lengths = (1, 2, 5, 16, 40, 64, 300, 4096), (1, 33, 500)
    if make is train:  # of many more operators
        batches, lengths = (1, 5, 300), (33, 500)
    sweep = a_plan(side, make(np.array(batches)[:, None], np.array(lengths)[None, :]))
    times, shape = step_time(sweep, TARGET), (len(batches), len(lengths))
    base = step_time(a_plan("bf16", sweep.step), TARGET)
    roofline, memory = roofline_seconds(sweep, TARGET), predict_memory(sweep)
    for (i, b), (j, n) in itertools.product(enumerate(batches), enumerate(lengths)):
        plan = a_plan(side, make(b, n))
        point = step_time(plan, TARGET)
        for many, one in (
            (times.seconds, point.seconds),
            (times.sigma, point.sigma),
            (times.miss, point.miss),
            (ratio_sigma(times, base), ratio_sigma(point, step_time(a_plan("bf16", make(b, n)), TARGET))),
            (roofline, roofline_seconds(plan, TARGET)),
            (memory.total_bytes, predict_memory(plan).total_bytes),
        ):
            assert np.broadcast_to(many, shape)[i, j] == pytest.approx(float(one), rel=1e-12), f"batch {b}, length {n}"


@each_side
@pytest.mark.parametrize("make", [decode, prefill, forward, train])
def test_more_work_never_takes_less_time(side, make):
    """On this target, whose coefficients grow with m; threads stay at one."""
    many = np.unique(np.geomspace(1, 4096, 40).astype(int))
    for step in (make(many, 64), make(4, many)):
        seconds = np.asarray(step_time(a_plan(side, step), TARGET).seconds)
        assert seconds.shape == many.shape and (np.diff(seconds) >= -1e-12 * seconds[:-1]).all()
        assert (np.diff(np.asarray(roofline_seconds(a_plan(side, step), TARGET))) >= 0).all()
        assert (np.diff(np.asarray(predict_memory(a_plan(side, step)).total_bytes)) >= 0).all()


def test_two_threads_are_as_much_faster_as_the_target_says():
    one, two = a_plan("bf16", decode(16, 64)), a_plan("bf16+threads:2", decode(16, 64))
    free = changed(correction=None)
    assert float(step_time(two, free).seconds) == pytest.approx(float(step_time(one, free).seconds) / 1.8)


# Intervals


@given(st.sampled_from(SIDES), st.sampled_from(SIDES), st.integers(1, 64))
@settings(max_examples=60)
def test_what_both_sides_share_cancels(a, b, batch):
    left, right = (step_time(a_plan(side, decode(batch, 64)), TARGET) for side in (a, b))
    assert float(ratio_sigma(left, left)) == left.residual_sigma == TARGET.correction.sigma
    between, back = float(ratio_sigma(left, right)), float(ratio_sigma(right, left))
    assert between == pytest.approx(back, rel=1e-12)
    assert between >= TARGET.correction.sigma
    assert between <= np.hypot(float(left.sigma), float(right.sigma)) * (1 + 1e-9)


def test_a_noisier_law_widens_only_what_uses_it():
    noisy = [msgspec.structs.replace(x, sigma=0.5) if x.format == "nf4" else x for x in TARGET.linear]
    plans = {side: a_plan(side, decode(1, 64)) for side in ("bf16", "nf4")}
    before = {side: float(step_time(plan, TARGET).sigma) for side, plan in plans.items()}
    after = {side: float(step_time(plan, changed(linear=tuple(noisy))).sigma) for side, plan in plans.items()}
    assert after["bf16"] == before["bf16"] and after["nf4"] > 2 * before["nf4"]


def test_a_target_without_correction_is_less_sure():
    plan = a_plan("bf16", decode(1, 64))
    assert float(step_time(plan, changed(correction=None)).sigma) > float(step_time(plan, TARGET).sigma)


# Residency and memory


def test_residency_is_that_of_weights_and_cache():
    plan = a_plan("bf16", decode(3, 50), TINY)
    table = 2 * 512 * 256
    norms = 2 * 5 * 256
    assert float(
        working_set_bytes(plan.ops, TARGET)
    ) == plan.weight_bytes - table - norms + 3 * 51 * TINY.kv_bytes_per_token(2)
    small, large = miss_of(plan, TARGET), miss_of(a_plan("bf16", decode(1, 8)), TARGET)
    assert small == 0 and large == 1
    assert miss_of(plan, changed(residency=None)) == 1
    assert miss_of(a_plan("bf16", decode(1, 1), load_model("linear:64x64")), TARGET) == 1, "rotated weights are cold"


@pytest.mark.parametrize("side", ["bf16", "fp32", "int8"])
def test_memory_by_hand(side):
    width = 4 if side == "fp32" else 2
    need = predict_memory(a_plan(side, decode(5, 99), TINY))
    assert need.weights_bytes == a_plan(side, decode(5, 99), TINY).weight_bytes
    assert need.kv_cache_bytes == 5 * 100 * 2 * 2 * 256 * width
    assert need.activations_bytes == 5 * width * (256 + 2 * 768)  # one token's input, gate and up
    assert need.total_bytes == need.weights_bytes + need.kv_cache_bytes + need.activations_bytes


def test_training_holds_gradients_and_moments_too():
    need, bare = (
        predict_memory(a_plan("bf16", train(2, 64), TINY)),
        predict_memory(a_plan("bf16", forward(2, 64), TINY)),
    )
    assert need.weights_bytes == bare.weights_bytes
    assert need.optimizer_bytes == 2 * 2 * TINY.parameters, "torch's AdamW keeps its moments in the weights' dtype"
    small = predict_memory(a_plan("bf16", train(1, 1), TINY))  # the peak is then when all gradients are there
    assert small.gradients_bytes == 2 * (TINY.parameters + (2 * 512 * 256 if TINY.tie_word_embeddings else 0))
    assert need.activations_bytes > small.activations_bytes
    assert need.kv_cache_bytes == 0
    assert bare.kv_cache_bytes == 2 * 64 * 2 * TINY.blocks[0].count * 2 * 256, (
        "the engine writes its cache in forward too"
    )


# Roofline


@pytest.mark.parametrize(("n", "k", "m"), [(4096, 4096, 1), (4096, 4096, 4096), (64, 576, 7)])
def test_roofline_of_one_layer_by_hand(n, k, m):
    plan = a_plan("bf16", decode(m, 1), load_model(f"linear:{n}x{k}"))
    compute = 2 * m * n * k / TARGET.flops_per_s("bf16")
    memory = 2 * (n * k + m * (n + k)) / TARGET.memory_bytes_per_s()
    assert float(roofline_seconds(plan, TARGET)) == pytest.approx(max(compute, memory), rel=1e-12)
    assert bound_of(plan.ops[0], max(compute, memory), TARGET, 1.0) == ("compute" if compute > memory else "memory")


@each_side
@pytest.mark.parametrize("step", STEPS, ids=str)
def test_roofline_is_positive_and_below_what_bytes_and_flops_add_up_to(side, step):
    plan = a_plan(side, step)
    seconds = float(roofline_seconds(plan, TARGET))
    traffic = sum(float(op.count * op.bytes) for op in plan.ops) / TARGET.memory_bytes_per_s()
    work = sum(float(op.count * op.flops) / TARGET.flops_per_s(compute_dtype(op, TARGET)) for op in plan.ops)
    assert 0 < max(traffic, work) <= seconds * (1 + 1e-12) and seconds <= (traffic + work) * (1 + 1e-12)


def test_bounds_say_what_the_time_is_nearest_to():
    (linear,) = a_plan("bf16", decode(1, 1), load_model("linear:64x64")).ops
    assert bound_of(linear, 1e-3, TARGET, 1.0) == "memory"
    assert bound_of(linear, 1e-3, TARGET, 0.1) == "cache"
    assert bound_of(linear, 2 * TARGET.correction.per_call_s, TARGET, 1.0) == "dispatch"
    assert bound_of(linear, 1e-3, changed(peaks=()), 1.0) == ""


# Refusals


@pytest.mark.parametrize(
    ("side", "says"),
    [
        ("int4:g64", "int4:g64 with bf16 activations; with bf16 it has .*int4:g128, int4:g32"),
        ("int4:g64:naive", "int4:g64:naive"),
        ("threads:3", r"3 threads .* only for 1, 2$"),
    ],
)
def test_what_the_target_lacks_is_refused_with_what_it_has(side, says):
    with pytest.raises(NotSupported, match=says):
        predict(a_plan(side, decode(1, 64)), TARGET)


def test_each_missing_law_is_named():
    plan = a_plan("bf16", decode(1, 64))
    for fields, says in (
        ({"linear": ()}, "no kernel for bf16 with bf16 activations; with bf16 it has none"),
        ({"attention": tuple(x for x in TARGET.attention if x.dtype == "fp32")}, "it has flash fp32, math fp32"),
        ({"pointwise": ()}, "no embedding for bf16; it has none"),
    ):
        with pytest.raises(NotSupported, match=says):
            step_time(plan, changed(**fields))
    for fields, says in (({"peaks": ()}, "no peak rate"), ({"levels": ()}, "no DRAM")):
        with pytest.raises(NotSupported, match=says):
            roofline_seconds(plan, changed(**fields))


def test_attention_takes_the_law_of_its_phase():
    """One new token per sequence is decode, more are prefill; a gradient costs 2.5 forwards."""
    law = next(x for x in TARGET.attention if (x.kernel, x.dtype) == ("flash", "bf16"))
    bare = changed(correction=None)

    def seconds(step, sweep="forward"):
        times = step_time(a_plan("bf16", step, TINY), bare).ops
        (time,) = [t for t in times if isinstance(t.op, Attention) and t.op.sweep == sweep]
        return float(time.seconds) / time.op.count

    tasks, keys, d = 3 * 4, 101, 64
    by_hand = (1, tasks, tasks * keys, tasks * keys * d, 2 * tasks * keys * d, 2 * tasks * keys * d * d)
    assert seconds(decode(3, 100)) == pytest.approx(np.dot(law.decode, by_hand), rel=1e-12)
    pairs = tasks * 20 * (5 + 10.5)
    by_hand = (1, tasks * 20, tasks * 20 * d, pairs, pairs * d)
    assert seconds(prefill(3, 20, 5)) == pytest.approx(np.dot(law.prefill, by_hand), rel=1e-12)
    assert seconds(train(3, 20), "grad_input") == pytest.approx(2.5 * seconds(train(3, 20)), rel=1e-12)


def test_an_operator_that_no_calibration_measures_goes_by_its_bytes_with_a_wide_interval():
    unmeasured = changed(pointwise=tuple(x for x in TARGET.pointwise if x.kind != "adamw"))
    ops = {t.op.name: t for t in step_time(a_plan("bf16", train(1, 64)), unmeasured).ops}
    update = ops["adamw"]
    assert update.kernel == "bytes / bandwidth"
    assert update.seconds >= update.op.count * update.op.bytes / TARGET.memory_bytes_per_s()
    assert update.sigma > ops["rope"].sigma
    with pytest.raises(NotSupported, match="no DRAM read bandwidth"):
        step_time(a_plan("bf16", train(1, 64)), msgspec.structs.replace(unmeasured, levels=()))


def test_an_operator_that_a_calibration_should_have_measured_is_refused_without_its_law():
    without = changed(pointwise=tuple(x for x in TARGET.pointwise if (x.kind, x.dtype) != ("rope", "bf16")))
    with pytest.raises(NotSupported, match="no rope for bf16; it has fp"):
        step_time(a_plan("bf16", decode(1, 64)), without)


def test_a_shape_that_the_packed_kernel_does_not_take_goes_to_the_naive_one_or_is_refused():
    laws = tuple(msgspec.structs.replace(law, n_multiple=64 if law.rung == "packed" else 1) for law in TARGET.linear)
    picky, odd = changed(linear=laws), load_model("linear:100x256")
    kernels = {t.kernel for t in step_time(a_plan("int8", decode(1, 1), odd), picky).ops}
    assert kernels == {"int8_dequantise_linear"}
    with pytest.raises(NotSupported, match="100 x 256.*n x 64"):
        step_time(a_plan("nf4", decode(1, 1), odd), picky)


def test_multiples_are_what_the_kernels_check():
    from ridgepoint.kernels.linear import find
    from ridgepoint.measurement.calibrate.linear import multiples

    for form, group in (("int8", 0), ("int4", 32), ("nf4", 0), ("bf16", 0)):
        kernel = find(form, "cpu")[-1]
        n, k = multiples(kernel, group)
        assert not kernel.check(3 * n, 3 * k, group)
        assert n == 1 or kernel.check(n // 2, 1024, group)
        assert k == 1 or kernel.check(1024, k // 2, group)
