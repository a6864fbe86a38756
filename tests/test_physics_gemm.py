"""Time of matrix products: known answers, the rules of physics, loops of benchmarks, and what published tables say."""

from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ridgepoint.errors import BadInput, NotSupported
from ridgepoint.prediction.physics.device import Device
from ridgepoint.prediction.physics.gemm import COLD, GemmParameters, Loop, gemm_time
from ridgepoint.prediction.physics.gemm_format import FORMATS, GemmFormat
from ridgepoint.prediction.physics.parameters import parameters_of
from ridgepoint.study.fitting.held_out import out_of_sample
from ridgepoint.study.published.cells import cells, measured_seconds
from ridgepoint.study.published.gemm import GEMM, LOOPS
from ridgepoint.study.published.spelling import our_dtypes
from ridgepoint.study.published.table import Table, read_table

PEAKS = {"bf16": 1e15, "fp16": 1e15, "fp8": 2e15, "int8": 2e15, "fp4": 4e15}
CARD = Device("card", "toy", 128, 1.5e9, 3e12, 50 * 2**20, 700.0, PEAKS, {"fp32": 6e13})
SHARP = GemmParameters(
    tensor_share=0.8, l2_bytes_per_clock=128, step_clocks=20, step_sharpness=8, tile_clocks=20, dram_share=0.75,
    store_bytes_per_clock=400, launch_s=1e-6, write_cost=1.0, sharpness=8, split_s=1e-6, wave_steps=1.0, resident=1.0,
    joules_per_flop=1e-14,
)  # fmt: skip
CHEAP_WRITES = msgspec.structs.replace(SHARP, write_cost=0.5, dram_share=1.0)
SLOW_SUMS = msgspec.structs.replace(SHARP, l2_bytes_per_clock=4, split_s=1e-8, launch_s=2e-7, wave_steps=0.01)
BF16, ABOVE = FORMATS["bf16"], 1 + 1e-9

sizes = st.integers(1, 1 << 16)
formats = st.sampled_from([form for name, form in FORMATS.items()])


@st.composite
def parameters(draw: st.DrawFn) -> GemmParameters:
    return GemmParameters(
        **{
            p.name: float(np.clip(np.exp(draw(st.floats(np.log(p.low), np.log(p.high)))), p.low, p.high))
            for p in parameters_of(GemmParameters)
        }
    )


@st.composite
def devices(draw: st.DrawFn) -> Device:
    return replace(
        CARD, sm_count=draw(st.integers(1, 200)), clock_hz=draw(st.floats(8e8, 3e9)), tdp_w=draw(st.floats(50, 1500)),
        dram_bytes_per_s=draw(st.floats(1e11, 1e13)), l2_bytes=draw(st.floats(1e6, 2e8)),
    )  # fmt: skip


def seconds(
    m: float, n: float, k: float, p: GemmParameters = SHARP, device: Device = CARD, form: GemmFormat = BF16,
    loop: Loop = COLD, batch: float = 1,
) -> float:  # fmt: skip
    return float(gemm_time(device, p, form, m, n, k, loop, batch).seconds)


def test_a_huge_square_product_reaches_its_share_of_the_peak() -> None:
    time = gemm_time(CARD, SHARP, BF16, 32768, 32768, 32768)
    assert 2 * 32768**3 / float(time.seconds) == pytest.approx(0.8e15, rel=0.01)
    assert time.bound() == "compute"


def test_a_gigabyte_times_one_row_takes_its_bytes_at_what_dram_reaches() -> None:
    time = gemm_time(CARD, SHARP, BF16, 1, 16384, 32768)
    assert float(time.seconds) == pytest.approx(2**30 / (0.75 * 3e12) + 1e-6, rel=0.01)
    assert time.bound() == "memory"


def test_the_smallest_product_takes_the_launch() -> None:
    time = gemm_time(CARD, msgspec.structs.replace(SHARP, launch_s=3e-5), BF16, 1, 1, 1)
    assert float(time.seconds) == pytest.approx(3e-5, rel=0.02)
    assert time.bound() == "dispatch"


def test_one_tile_more_than_the_machine_has_sms_costs_a_second_wave() -> None:
    full, more = 256 * 16, 256 * 16 + 1
    p = msgspec.structs.replace(SHARP, split_s=2e-5, l2_bytes_per_clock=60)
    assert seconds(more, 256 * 8, 2**14, p) > 1.2 * seconds(full, 256 * 8, 2**14, p)
    even = msgspec.structs.replace(p, wave_steps=0.01)
    assert seconds(more, 256 * 8, 2**14, even) < 1.1 * seconds(full, 256 * 8, 2**14, even)


def test_few_tiles_with_a_long_k_are_split() -> None:
    whole = msgspec.structs.replace(SHARP, split_s=2e-5, step_clocks=500)
    split = msgspec.structs.replace(whole, split_s=1e-7)
    assert seconds(16, 64, 2**16, split) < 0.1 * seconds(16, 64, 2**15, whole) + 3e-5
    assert seconds(16, 64, 2**16, split) < seconds(16, 64, 2**16, whole)
    assert seconds(4096, 4096, 256, split) == pytest.approx(seconds(4096, 4096, 256, whole))


def test_the_power_limit_bounds_large_products_alone() -> None:
    hungry = msgspec.structs.replace(SHARP, joules_per_flop=4e-12)
    assert 2 * 8192**3 / seconds(8192, 8192, 8192, hungry) == pytest.approx(700 / 4e-12, rel=0.02)
    assert 2 * 8192**3 / seconds(8192, 8192, 8192, hungry) < 700 / 4e-12
    assert seconds(1, 8192, 8192, hungry) == pytest.approx(seconds(1, 8192, 8192), rel=1e-3)
    assert seconds(8192, 8192, 8192, hungry, replace(CARD, tdp_w=1400.0)) < seconds(8192, 8192, 8192, hungry)


def test_results_cost_dram_what_the_class_says() -> None:
    dear = msgspec.structs.replace(SHARP, write_cost=2.0)
    more = 32768.0 * 65536 * 2 / (0.75 * 3e12)
    assert seconds(32768, 65536, 32, dear) - seconds(32768, 65536, 32) == pytest.approx(more, rel=0.05)


def test_weights_that_a_loop_leaves_in_the_cache_are_not_read_from_dram() -> None:
    p, mib = msgspec.structs.replace(SHARP, split_s=1e-7), 2**19
    for copies, fits in ((1, 48), (4, 12), (6, 8)):
        loop = Loop(weights=copies, acts=1)
        assert seconds(1, fits * mib / 4096, 4096, p, loop=loop) < 0.6 * seconds(1, fits * mib / 4096, 4096, p)
        assert seconds(1, 64 * mib / 4096, 4096, p, loop=loop) == seconds(1, 64 * mib / 4096, 4096, p)
    filling = Loop(weights=0, acts=1)
    assert seconds(1, 50 * mib / 4096, 4096, p, loop=filling) < 0.6 * seconds(1, 50 * mib / 4096, 4096, p)
    assert seconds(1, 30 * mib / 4096, 4096, p, loop=filling) == pytest.approx(
        seconds(1, 30 * mib / 4096, 4096, p), rel=1e-3
    )


def test_activations_stay_in_the_cache_where_the_weights_between_two_uses_fit() -> None:
    shape = (640, 1152, 4096)
    assert seconds(*shape, loop=Loop(6, 6)) == seconds(*shape)
    assert seconds(*shape, loop=Loop(6, 1)) < 0.995 * seconds(*shape)


def test_formats_change_bytes_unit_and_passes() -> None:
    assert seconds(1, 2**14, 2**15, form=FORMATS["int8_wo"]) == pytest.approx(
        seconds(1, 2**14, 2**15) / 2 + 0.5e-6, rel=0.02
    )
    free = msgspec.structs.replace(SHARP, quantise_bytes=0.05)
    assert seconds(2**14, 2**14, 2**14, free, form=FORMATS["fp8"]) == pytest.approx(
        seconds(2**14, 2**14, 2**14) / 2, rel=0.02
    )
    slow = msgspec.structs.replace(SHARP, quantise_s=1e-4)
    assert seconds(1, 64, 64, slow, form=FORMATS["fp8"]) > 1e-4 > seconds(1, 64, 64, slow)
    unpacking = msgspec.structs.replace(SHARP, unpack_per_clock=1)
    assert seconds(1, 2**14, 2**15, unpacking, form=FORMATS["int4_wo"]) > 2**29 / 128 / 1.5e9
    assert seconds(1, 2**14, 2**15, unpacking) == seconds(1, 2**14, 2**15)


def test_a_dtype_that_the_device_lacks_is_refused_with_what_it_has() -> None:
    old = replace(CARD, tensor_flops_per_s={"fp16": 1e14})
    with pytest.raises(NotSupported, match="no fp8; it has fp16, fp32"):
        seconds(1, 1, 1, device=old, form=FORMATS["fp8"])
    assert seconds(64, 64, 64, device=old) > 0


@given(devices(), parameters(), formats, sizes, sizes, sizes, st.integers(1, 64))
@example(CARD, SHARP, BF16, 8192, 8192, 8192, 1)
@example(CARD, SHARP, BF16, 1, 65536, 65536, 1)
@example(CARD, CHEAP_WRITES, BF16, 65536, 65536, 1, 1)
def test_never_faster_than_physics(device, p, form, m, n, k, batch) -> None:
    time = float(gemm_time(device, p, form, m, n, k, COLD, batch).seconds) * ABOVE
    assert time >= 2.0 * batch * m * n * k / form.peak(device)
    bytes_moved = batch * (n * k * form.weight_bytes + m * k * form.act_bytes + m * n * form.out_bytes)
    assert time >= bytes_moved / device.dram_bytes_per_s
    assert time >= 2.0 * batch * m * n * k * p.joules_per_flop / device.tdp_w


@given(devices(), parameters(), formats, sizes, sizes, sizes, st.integers(1, 64), st.sampled_from("mnkb"), sizes)
@example(replace(CARD, sm_count=108), SLOW_SUMS, BF16, 16, 9 * 64, 512, 1, "n", 64)
def test_never_falls_as_a_size_grows(device, p, form, m, n, k, batch, grows, by) -> None:
    small = {"m": m, "n": n, "k": k, "b": batch}
    large = {**small, grows: small[grows] + by}
    for loop in (COLD, LOOPS["vllm"], LOOPS["sglang"], LOOPS["pytorch"]):
        before, after = (
            seconds(s["m"], s["n"], s["k"], p, device, form, loop, s["b"]) for s in (small, large)
        )  # fmt: skip
        assert after * ABOVE >= before


@given(devices(), parameters(), formats, st.lists(st.tuples(sizes, sizes, sizes, st.integers(1, 9)), min_size=1))
def test_a_scalar_and_the_same_value_in_an_array_agree_bit_for_bit(device, p, form, shapes) -> None:
    m, n, k, batch = (np.array(x, dtype=float) for x in zip(*shapes, strict=True))
    for loop in (COLD, LOOPS["trtllm"]):
        together = gemm_time(device, p, form, m, n, k, loop, batch)
        for i, shape in enumerate(shapes):
            alone = gemm_time(device, p, form, *shape[:3], loop, shape[3])
            for name in ("seconds", "compute_s", "memory_s", "fixed_s"):
                assert getattr(alone, name) == getattr(together, name)[i]


def test_inputs_broadcast_and_many_are_cut_into_pieces() -> None:
    m, n = np.arange(1.0, 101)[:, None], np.arange(64.0, 64 * 51, 64)
    together = gemm_time(CARD, SHARP, BF16, m, n, 4096).seconds
    rows = [gemm_time(CARD, SHARP, BF16, row, n, 4096).seconds for row in range(1, 101)]
    assert together.shape == (100, 50) and np.array_equal(together, rows)


def table(rows: list[tuple[object, ...]], *more: str) -> Table:
    names = ("framework", "m", "n", "k", "latency_us", "suspect", *more)
    columns = {name: np.array([str(row[i]) for row in rows]) for i, name in enumerate(names)}
    return Table(Path("a.csv"), columns, np.arange(2, 2 + len(rows)))


def test_each_framework_has_its_loop() -> None:
    shape = (320, 1024, 4096)
    loops = {"vllm": (6, 1), "sglang": (6, 6), "trtllm": (0, 1), "pytorch": (1, 1), "unheard of": (np.inf, 1)}
    found = GEMM.seconds(CARD, SHARP, "bf16", table([(name, *shape, 5, 0) for name in loops])).seconds
    expected = [seconds(*shape, loop=Loop(weights, acts)) for weights, acts in loops.values()]
    assert found.tolist() == expected and len(set(expected)) == 4


def test_layers_inside_a_running_model_find_no_weights_in_the_cache() -> None:
    rows = table(
        [("vllm", 1, 1024, 1024, 5, 0, "o_proj", ""), ("vllm", 1, 1024, 1024, 5, 0, "o_proj", 4)], "layer", "batch"
    )
    found = GEMM.seconds(CARD, SHARP, "bf16", rows).seconds
    never = Loop(weights=np.inf, acts=1)
    assert found.tolist() == [seconds(1, 1024, 1024, loop=never, batch=batch) for batch in (1, 4)]


def test_a_dtype_without_a_format_is_refused_with_what_is_possible() -> None:
    with pytest.raises(BadInput, match="no matrix product in 'int3'; possible are fp32, fp16, bf16"):
        GEMM.seconds(CARD, SHARP, "int3", table([("vllm", 1, 1, 1, 1, 0)]))
    with pytest.raises(BadInput, match="'int3'"):
        GEMM.fixed("int3")


def test_rows_are_told_apart() -> None:
    rows = table(
        [("vllm", 64, 32, 16, 5, 0, "linear"), ("vllm", 65, 32, 16, 0, 0, "bmm"), ("vllm", 1, 32, 16, 5, 1, "")], "op"
    )
    assert GEMM.usable(rows).tolist() == [True, False, False]
    assert GEMM.regime(rows).tolist() == ["m<=64", "m>64", "m<=64"]
    assert GEMM.variant(rows).tolist() == ["", "bmm", ""]
    assert GEMM.shape(rows).tolist() == ["32x16"] * 3


def test_parameters_of_what_a_format_does_not_do_are_not_fitted() -> None:
    quantising = {"quantise_s", "quantise_row_s", "quantise_bytes"}
    assert set(GEMM.fixed("bf16")) == {*quantising, "unpack_per_clock"}
    assert set(GEMM.as_shipped().fixed("bf16")) == {*quantising, "unpack_per_clock", "tensor_share"}
    assert GEMM.as_shipped().fixed("nvfp4") == GEMM.fixed("nvfp4")
    assert set(GEMM.fixed("fp8")) == {"unpack_per_clock"}
    assert set(GEMM.fixed("int4_wo")) == {"quantise_s", "quantise_row_s", "quantise_bytes"}


H100 = Device("h100", "hopper", 132, 1.98e9, 3.35e12, 50 * 2**20, 700.0, {"bf16": 989.4e12}, {})


@pytest.mark.slow
def test_shapes_that_a_fit_had_not_seen_are_predicted_within_what_is_promised(shared: Path) -> None:
    rows = read_table(shared / "measurements" / "gemm.csv")
    found = cells(GEMM, rows.take(rows.text("gpu") == "h100_sxm"), our_dtypes)
    seen = found["h100_sxm", "bf16", "trtllm", "1.3.0rc20", ""]
    error = np.abs(out_of_sample(GEMM, H100, "bf16", seen, folds=2, evaluations=15) / measured_seconds(seen) - 1)
    assert len(seen) > 400
    assert np.median(error) < 0.06 and np.percentile(error, 90) < 0.18
