"""Time of elementwise operators, norms and the like: known answers, the rules of physics, and what published tables say."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ridgepoint.errors import NotSupported
from ridgepoint.prediction.physics.device import Device
from ridgepoint.prediction.physics.parameters import parameters_of
from ridgepoint.prediction.physics.pointwise import POINTWISE, PointwiseParameters, pointwise_time
from ridgepoint.study.fitting.held_out import out_of_sample
from ridgepoint.study.published.cells import cells, measured_seconds
from ridgepoint.study.published.elementwise import ELEMENTWISE
from ridgepoint.study.published.spelling import our_dtypes
from ridgepoint.study.published.table import Table, read_table

V100 = Device("v100", "volta", 80, 1.38e9, 900e9, 6 * 2**20, 250.0, {"fp16": 112e12}, {"fp32": 14e12})
BIG = replace(V100, sm_count=1000, dram_bytes_per_s=1e12)
QUICK = PointwiseParameters(
    launch_s=1e-6, dram_share=0.8, l2_bytes_per_clock=64, issue_share=1.5, row_clocks=1, step_clocks=5
)

sizes = st.integers(1, 1 << 16)
operators = st.sampled_from(sorted(POINTWISE))


@st.composite
def parameters(draw: st.DrawFn) -> PointwiseParameters:
    values = {
        p.name: np.exp(draw(st.floats(np.log(p.low), np.log(p.high)))) for p in parameters_of(PointwiseParameters)
    }
    bounds = {p.name: (p.low, p.high) for p in parameters_of(PointwiseParameters)}
    return PointwiseParameters(**{name: float(np.clip(v, *bounds[name])) for name, v in values.items()})


@st.composite
def devices(draw: st.DrawFn) -> Device:
    return replace(
        V100, sm_count=draw(st.integers(8, 200)), clock_hz=draw(st.floats(8e8, 3e9)),
        dram_bytes_per_s=draw(st.floats(1e11, 1e13)), l2_bytes=draw(st.floats(1e6, 2e8)),
    )  # fmt: skip


def seconds(device: Device, p: PointwiseParameters, name: str, rows: float, cols: float, warm: bool = False) -> float:
    return float(pointwise_time(device, p, POINTWISE[name], 4.0, rows, cols, warm).seconds)


def test_a_large_stream_takes_its_bytes_at_what_dram_reaches() -> None:
    elements = 2**28
    assert seconds(BIG, QUICK, "add", 2**14, 2**14) == pytest.approx(elements * 12 / 0.8e12, rel=0.01)
    assert seconds(BIG, QUICK, "relu", 2**14, 2**14) == pytest.approx(elements * 8 / 0.8e12, rel=0.01)
    assert seconds(BIG, QUICK, "silu_mul", 2**14, 2**14) == pytest.approx(elements * 6 / 0.8e12, rel=0.01)


def test_the_smallest_operator_takes_the_launch_floor_of_its_stack() -> None:
    p = PointwiseParameters(launch_s=3e-5)
    assert seconds(V100, p, "add", 1, 1) == pytest.approx(3e-5, rel=0.01)
    assert seconds(V100, p, "layernorm", 1, 1) == pytest.approx(3e-5 * POINTWISE["layernorm"].host, rel=0.02)


def test_what_the_call_before_left_in_the_cache_is_not_read_from_dram() -> None:
    p = PointwiseParameters(launch_s=1e-6, resident=1.0)
    assert seconds(V100, p, "add", 512, 512, warm=True) < 0.7 * seconds(V100, p, "add", 512, 512)
    large = 2**13
    assert seconds(V100, p, "add", large, large, warm=True) == seconds(V100, p, "add", large, large)


def test_arithmetic_bounds_a_power_where_bandwidth_is_plenty() -> None:
    device = replace(V100, dram_bytes_per_s=1e14, sm_count=80)
    p = PointwiseParameters(launch_s=1e-6, issue_share=1.0, l2_bytes_per_clock=64, row_clocks=1, sharpness=8)
    lanes_per_s = 14e12 / 2
    expected = 2**26 * POINTWISE["pow"].instructions / lanes_per_s
    assert seconds(device, p, "pow", 2**13, 2**13) == pytest.approx(expected, rel=0.02)
    assert pointwise_time(device, p, POINTWISE["pow"], 4.0, 2**13, 2**13).bound() == "compute"


def test_rows_that_do_not_stay_in_the_cache_are_read_again() -> None:
    p = replace_all(QUICK, long_row=1.0)
    kept, lost = (seconds(V100, p, "softmax", rows, cols) for rows, cols in ((2**18, 2**8), (2**10, 2**16)))
    assert lost > 1.5 * kept


def test_rows_that_registers_do_not_hold_take_more_instructions() -> None:
    p = replace_all(QUICK, long_row=4.0, issue_share=0.05, row_clocks=1.0)
    short, long = (seconds(V100, p, "softmax", 2**14, cols) / cols for cols in (1024, 1025))
    assert long == pytest.approx(4 * short, rel=0.1)


def replace_all(p: PointwiseParameters, **values: float) -> PointwiseParameters:
    return PointwiseParameters(**{q.name: values.get(q.name, getattr(p, q.name)) for q in parameters_of(type(p))})


def test_a_device_without_an_fp32_rate_is_refused() -> None:
    with pytest.raises(NotSupported, match="v100 has no fp32 rate, which the time of relu needs"):
        seconds(replace(V100, vector_flops_per_s={}), QUICK, "relu", 8, 8)


@given(devices(), parameters(), operators, sizes, sizes, st.sampled_from([2.0, 4.0]))
def test_never_faster_than_the_bytes_that_must_move(
    device: Device, p: PointwiseParameters, name: str, rows: int, cols: int, width: float
) -> None:
    operator = POINTWISE[name]
    moved = rows * cols * (operator.reads + operator.writes) * width
    cold = pointwise_time(device, p, operator, width, rows, cols)
    assert cold.seconds >= moved / device.dram_bytes_per_s
    assert cold.memory_s == pytest.approx(moved / device.dram_bytes_per_s)
    warm = pointwise_time(device, p, operator, width, rows, cols, warm=True)
    cache_bytes_per_s = p.l2_bytes_per_clock * device.sm_count * device.clock_hz
    assert warm.seconds >= moved / cache_bytes_per_s * (1 - 1e-12)
    assert warm.seconds <= cold.seconds


@given(devices(), parameters(), operators, sizes, sizes, st.integers(0, 4096), st.integers(0, 4096), st.booleans())
def test_time_does_not_fall_when_the_tensor_grows(
    device: Device, p: PointwiseParameters, name: str, rows: int, cols: int, more_rows: int, more_cols: int, warm: bool
) -> None:
    before = seconds(device, p, name, rows, cols, warm)
    assert seconds(device, p, name, rows + more_rows, cols + more_cols, warm) >= before * (1 - 1e-12)


@given(devices(), parameters(), operators, st.lists(st.tuples(sizes, sizes), min_size=1, max_size=20), st.booleans())
def test_a_number_and_the_same_number_in_an_array_agree_bit_for_bit(
    device: Device, p: PointwiseParameters, name: str, shapes: list[tuple[int, int]], warm: bool
) -> None:
    rows, cols = np.array(shapes, dtype=np.float64).T
    time = pointwise_time(device, p, POINTWISE[name], 2.0, rows, cols, warm)
    for i, (row, col) in enumerate(shapes):
        alone = pointwise_time(device, p, POINTWISE[name], 2.0, row, col, warm)
        for part in ("seconds", "compute_s", "memory_s", "fixed_s"):
            assert float(getattr(alone, part)) == getattr(time, part)[i]


def test_numbers_and_arrays_agree_over_many_shapes() -> None:
    p = replace_all(QUICK, sharpness=2.7)
    rows = np.exp(np.random.default_rng(4).uniform(0, 12, 2000))
    together = np.asarray(pointwise_time(V100, p, POINTWISE["softmax"], 4.0, rows, 700).seconds)
    assert [seconds(V100, p, "softmax", float(one), 700) for one in rows] == together.tolist()


def table_of(tmp_path: Path, *rows: str) -> Table:
    path = tmp_path / "t.csv"
    path.write_text("\n".join(("gpu,op,dtype,rows,cols,latency_us,framework,version,suspect", *rows)) + "\n")
    return read_table(path)


def test_reading_spells_operators_as_we_do_and_leaves_out_what_has_no_model(tmp_path: Path) -> None:
    table = table_of(
        tmp_path,
        "v,addu,float32,4096,1024,30,pytorch,,0",
        "v,ln,float32,16,32,45,pytorch,,0",
        "v,compute_scale,fp8,8192,5120,0.13,vllm,,0",
        "v,sampler,bfloat16,8,4096,30,vllm,,0",
        "v,softmax,float32,16,32,33,pytorch,,1",
        "v,relu,float64,16,32,33,pytorch,,0",
    )
    assert ELEMENTWISE.usable(table).tolist() == [True, True, False, False, False, False]
    kept = table.take(ELEMENTWISE.usable(table))
    assert ELEMENTWISE.variant(kept).tolist() == ["elementwise", "norm"]
    assert ELEMENTWISE.shape(kept).tolist() == ["4096x1024", "16x32"]
    assert ELEMENTWISE.regime(kept).tolist() == ["elementwise, >1M elements", "norm, <=1M elements"]
    predicted = ELEMENTWISE.seconds(V100, QUICK, "fp32", kept).seconds
    expected = [seconds(V100, QUICK, "add_scalar", 4096, 1024, True), seconds(V100, QUICK, "layernorm", 16, 32, True)]
    assert np.asarray(predicted).tolist() == expected


def test_every_published_row_with_a_model_is_read(shared: Path) -> None:
    table = read_table(shared / "measurements" / "elementwise.csv")
    left_out = set(table.take(~ELEMENTWISE.usable(table)).text("op").tolist())
    assert left_out == {"compute_scale", "scale_matrix", "sampler"}
    assert ELEMENTWISE.usable(table).sum() == 11846 - 2302 - 13


@pytest.mark.slow
def test_shapes_that_a_fit_has_not_seen_are_within_a_few_per_cent(shared: Path) -> None:
    pytest.importorskip("scipy", reason="fitting needs SciPy")
    table = read_table(shared / "measurements" / "elementwise.csv")
    table = table.take(table.text("gpu") == "Tesla V100-PCIE-32GB")
    for cell, rows in cells(ELEMENTWISE, table, our_dtypes).items():
        unseen = out_of_sample(ELEMENTWISE, V100, cell[1], rows, folds=2, evaluations=30)
        misses = np.abs(unseen / measured_seconds(rows) - 1.0)
        assert np.median(misses) < 0.03, cell
        assert np.quantile(misses, 0.9) < 0.12, cell
