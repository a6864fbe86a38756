"""Power and energy on paper: known answers, what physics forbids, what a sampler reads, and fits by what they had not seen."""

from dataclasses import replace
from datetime import date
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ridgepoint.errors import BadInput, RidgeError
from ridgepoint.hardware import Arch, Fit, Transfer, data_folder, save_arch
from ridgepoint.hardware.arch import ARCH_SCHEMA
from ridgepoint.prediction.physics.device import Device
from ridgepoint.prediction.physics.found import Found, Stack
from ridgepoint.prediction.physics.gemm import GemmParameters
from ridgepoint.prediction.physics.optime import PhysicalTime
from ridgepoint.prediction.physics.parameters import Parameters, parameters_of
from ridgepoint.prediction.physics.power import (
    LimitParameters,
    PowerParameters,
    find_power,
    idle_power,
    joules_per_byte,
    joules_per_flop,
    kernel_energy,
    kernel_power,
    limited_job,
    power_parameters,
)
from ridgepoint.study.fitting.classes import FittedCell
from ridgepoint.study.fitting.held_out import fit_rows
from ridgepoint.study.fitting.power import (
    fit_power,
    jobs_fits,
    jobs_out_of_sample,
    power_fits,
    power_transfers,
    score_jobs,
    score_power,
)
from ridgepoint.study.published.kind import Kind
from ridgepoint.study.published.moe import MOE
from ridgepoint.study.published.power import SWEEPS, ReadingParameters, Sweep, job_rows, power_case, power_reading
from ridgepoint.study.published.table import Table, read_table
from ridgepoint.study.scoring import datasheet_device

TODAY = date(2026, 1, 1)
CARD = Device("card", "class", 100, 1.5e9, 8e12, 1e8, 1000.0, {"bf16": 2e15}, {"fp32": 5e13})
ROUND = PowerParameters(idle_share=0.25, active_share=0.3, flop_share=0.4, byte_share=0.8, limit_share=1.0)


def time(seconds, compute, memory, fixed=0.0):
    return PhysicalTime(*(np.asarray(x, dtype=float) for x in (seconds, compute, memory, fixed)))


def parameters(model):
    """Any parameters within their bounds."""
    return st.builds(model, **{p.name: st.floats(p.low, p.high) for p in parameters_of(model)})


devices = st.builds(
    lambda tdp, per_watt: replace(CARD, tdp_w=tdp, dram_bytes_per_s=tdp * per_watt),
    st.floats(20, 1500), st.floats(1e9, 2e10),
)  # fmt: skip
shares = st.floats(0.0, 1.0)


# Kernels


def test_power_is_what_stands_and_what_work_adds():
    watts = kernel_power(CARD, ROUND, time(10e-6, 5e-6, 1e-6, 2e-6))
    assert float(watts) == pytest.approx(250 + 0.8 * 300 + 0.5 * 400 + 0.1 * 800)
    assert float(kernel_energy(CARD, ROUND, time(10e-6, 5e-6, 1e-6, 2e-6))) == pytest.approx(770 * 10e-6)
    assert float(kernel_power(CARD, ROUND, time(1e-6, 0, 0, 1e-6))) == pytest.approx(250)


def test_the_limit_holds_power_not_energy():
    assert float(kernel_power(CARD, ROUND, time(1e-3, 1e-3, 0.9e-3))) == 1000.0
    assert float(kernel_energy(CARD, ROUND, time(2e-3, 1.5e-3, 1.8e-3))) == pytest.approx(2.0)


def test_shares_are_energies_of_an_operation():
    assert joules_per_flop(CARD, ROUND, 2e15) == pytest.approx(0.2e-12)
    assert joules_per_byte(CARD, ROUND) == pytest.approx(100e-12)
    dynamic = float(kernel_power(CARD, ROUND, time(1.0, 0.25, 0.0))) - float(kernel_power(CARD, ROUND, time(1.0, 0, 0)))
    assert dynamic == pytest.approx(0.25 * 2e15 * joules_per_flop(CARD, ROUND, 2e15))


def test_a_higher_limit_of_the_same_chip_idles_less_than_in_proportion():
    assert idle_power(replace(CARD, tdp_w=4000.0), ROUND) == pytest.approx(2 * idle_power(CARD, ROUND))


@given(devices, parameters(PowerParameters), st.floats(1e-7, 1.0), shares, shares, shares)
def test_power_lies_between_idle_and_the_limit(device, p, seconds, compute, memory, fixed):
    watts = float(kernel_power(device, p, time(seconds, compute * seconds, memory * seconds, fixed * seconds)))
    idle = idle_power(device, p)
    assert idle <= watts <= max(idle, device.tdp_w * p.limit_share)


@given(devices, parameters(PowerParameters), shares, shares, shares, shares)
def test_energy_grows_with_flops_and_bytes_at_fixed_time(device, p, compute, memory, more_compute, more_memory):
    less = kernel_energy(device, p, time(1e-3, compute * 1e-3, memory * 1e-3))
    more = kernel_energy(device, p, time(1e-3, max(compute, more_compute) * 1e-3, max(memory, more_memory) * 1e-3))
    assert more >= less
    small = PowerParameters(idle_share=0.1, active_share=0.01, flop_share=0.1, byte_share=0.1, limit_share=1.05)
    alone = kernel_energy(CARD, small, time(1e-3, 0.5e-3, 0.1e-3))
    assert kernel_energy(CARD, small, time(1e-3, 0.6e-3, 0.1e-3)) > alone
    assert kernel_energy(CARD, small, time(1e-3, 0.5e-3, 0.2e-3)) > alone


@given(parameters(PowerParameters), st.lists(st.tuples(st.floats(1e-7, 1), shares, shares, shares), min_size=2))
def test_an_array_gives_what_its_numbers_give(p, rows):
    columns = [np.array(x) for x in zip(*rows, strict=True)]
    whole = time(columns[0], *(columns[0] * share for share in columns[1:]))
    one_by_one = [kernel_power(CARD, p, time(s, *(s * x for x in rest))) for s, *rest in rows]
    assert kernel_power(CARD, p, whole).tolist() == [float(x) for x in one_by_one]


# Jobs under a limit


@given(parameters(LimitParameters), shares, st.lists(st.floats(20, 250), min_size=2, max_size=9))
def test_a_lower_limit_is_never_faster_nor_thirstier(p, known, limits):
    card = replace(CARD, tdp_w=250.0)
    limits = np.sort(np.array(limits))
    watts, slower = limited_job(card, p, 30 + known * 220, 250.0, limits)
    assert (slower >= 1.0 - 1e-12).all()
    assert (np.diff(slower) <= 1e-9 * slower[:-1]).all()
    assert (watts <= np.maximum(np.maximum(limits, 30 + known * 220), card.tdp_w * p.rest_share) * (1 + 1e-12)).all()
    again = [limited_job(card, p, 30 + known * 220, 250.0, float(limit)) for limit in limits]
    assert [(float(w), float(s)) for w, s in again] == list(zip(watts.tolist(), slower.tolist(), strict=True))


def test_the_known_limit_gives_back_what_is_known():
    p = LimitParameters(rest_share=0.2, standing_share=0.2, demand_share=0.9)
    watts, slower = limited_job(CARD, p, np.array([150.0, 500.0, 900.0]), 1000.0, 1000.0)
    assert watts == pytest.approx([150.0, 500.0, 900.0])
    assert slower == pytest.approx([1.0, 1.0, 1.0])


def test_a_job_that_computes_throughout_draws_the_limit_and_slows_by_the_clock():
    p = LimitParameters(
        rest_share=0.1, standing_share=0.2, demand_share=1.0, exponent=3.0, floor_clock=0.5, clock_share=1.0
    )
    watts, slower = limited_job(CARD, p, 1000.0, 1000.0, np.array([609.6, 300.0, 250.0]))
    assert watts == pytest.approx([609.6, 300.0, 250.0])
    assert slower == pytest.approx([1 / 0.8, 1 / 0.5, 1 / 0.25])


# What a sampler reads


def _times(device, p, dtype, table):
    seconds = table.number("us") * 1e-6 if not table.has("m") else table.number("m") * 1e-6
    return PhysicalTime(seconds, 0.9 * seconds, 0.0 * seconds, 0.0 * seconds)


TOY = Kind(
    name="gemm", columns=("m",), model=Parameters, seconds=_times, usable=lambda t: np.full(len(t), True),
    regime=lambda t: t.text("m"), shape=lambda t: t.text("m"), variant=lambda t: np.full(len(t), ""),
)  # fmt: skip


def table(**columns):
    text = {name: np.array([str(x) for x in values]) for name, values in columns.items()}
    return Table(Path("toy.csv"), text, np.arange(len(next(iter(text.values())))) + 2)


def looping(runs):
    """A benchmark that repeats a kernel so often; 1000 of m microseconds each fill m milliseconds."""
    return msgspec.structs.replace(FULL, runs=runs)


def reading(p, framework, rows):
    return power_reading(CARD, p, power_case(TOY, CARD, Parameters(), "bf16", framework, rows))


FULL = ReadingParameters(
    idle_share=0.25, active_share=0.1, flop_share=0.5, byte_share=0.5, limit_share=1.0, runs=100.0 * 10, gap_s=0.01
)
WATTS = 250 + 100 + 0.9 * 500


@pytest.mark.parametrize(("m", "share"), [(400, 0.2), (1000, 0.5), (50000, 0.5)])
def test_a_loop_after_a_rest_reads_half_of_its_length(m, share):
    fresh = table(m=[4096 + m])
    p = looping(m / (4096 + m) * 1000)
    assert reading(p, "trtllm", fresh) == pytest.approx(250 + share * (WATTS - 250))


def test_a_short_kernel_reads_what_ran_before_it():
    rows = table(m=[1, 1000, 2000])
    falling = reading(looping(1000), "trtllm", rows)
    assert falling[0] == pytest.approx(250 + 0.99 * (WATTS - 250), rel=0.01)
    assert falling[2] == pytest.approx(250 + 0.5 * (WATTS - 250))


def test_a_sweep_that_wraps_begins_after_the_largest_of_the_group_before():
    rows = table(k=[32, 4096], m=[1000, 1000])
    alone = reading(looping(300), "vllm", rows.take([1]))
    both = reading(looping(300), "vllm", rows)
    assert both[1] == pytest.approx(alone[0])
    assert both[1] > 250 + 0.15 * (WATTS - 250) + 1


def test_cases_that_begin_at_rest_have_nothing_before_them(monkeypatch):
    monkeypatch.setitem(SWEEPS, ("other", "gemm"), Sweep("m", fresh_from=1500.0))
    rows = table(m=[900, 1000, 2000])
    first, second, fresh = reading(looping(500), "other", rows)
    assert first == pytest.approx(250 + 0.225 * (WATTS - 250))
    assert second > 250 + 0.45 * (WATTS - 250)
    assert fresh == pytest.approx(250 + 0.5 * (WATTS - 250))
    below, _ = reading(looping(500), "trtllm", table(m=[1000, 5000]))
    assert below == pytest.approx(250 + 0.25 * (WATTS - 250))


def test_a_case_after_a_slow_one_reads_less():
    rows = table(k=[64, 64], m=[1001, 1000])
    odd, stalled = reading(looping(300), "vllm", rows)
    assert stalled < odd - 50


@given(parameters(ReadingParameters), st.lists(st.integers(1, 40000), min_size=1, max_size=6, unique=True))
def test_readings_lie_between_idle_and_the_limit(p, sizes):
    watts = reading(p, "trtllm", table(m=sizes))
    idle = idle_power(CARD, p)
    assert (watts >= idle * (1 - 1e-9)).all()
    assert (watts <= max(idle, CARD.tdp_w * p.limit_share) * (1 + 1e-9)).all()


# Fits


def toy_cell(p):
    sizes = sorted({int(x) for x in np.geomspace(2, 3000, 60)})
    rows = table(m=sizes, latency_us=sizes, gpu=["card"] * len(sizes), dtype=["bf16"] * len(sizes))
    watts = reading(p, "trtllm", rows)
    rows = replace(rows, columns={**rows.columns, "power_w": np.array([str(w) for w in watts])})
    return FittedCell(TOY, ("card", "bf16", "trtllm", "1", ""), CARD, rows, Parameters(), np.array(sizes) * 1e-6)


def test_a_fit_finds_what_made_the_readings():
    pytest.importorskip("scipy")
    made = ReadingParameters(
        idle_share=0.25, active_share=0.15, flop_share=0.4, byte_share=0.5, limit_share=0.98, runs=6000, gap_s=0.05
    )
    fitted, shared = fit_power([toy_cell(made)])
    assert shared is not None
    assert float(np.median(np.abs(np.exp(fitted[0].log_errors) - 1))) < 0.02
    assert fitted[0].parameters.idle_share == pytest.approx(0.25, rel=0.15)
    assert fitted[0].parameters.runs == pytest.approx(6000, rel=0.35)
    rows = list(power_fits(fitted, shared, TODAY))
    assert [(fit.operator, fit.dtype, fit.variant) for fit in rows] == [("power", "bf16", "gemm"), ("power", "", "")]
    assert {t.step: t.pairs for t in power_transfers(fitted)} == {"gpu": 0, "class": 0}


def test_without_readings_nothing_is_fitted():
    cell = toy_cell(FULL)
    columns = {name: column for name, column in cell.table.columns.items() if name != "power_w"}
    assert fit_power([replace(cell, table=replace(cell.table, columns=columns))]) == ([], None)


# Scores


def stored(power, name="blackwell", gpu="b200"):
    """An architecture class in the user's folder, with one fit of times and one of power."""

    def fit(operator, values, dtype="bf16", variant="", framework="vllm"):
        return Fit(
            operator=operator, dtype=dtype, framework=framework, version="1", variant=variant, spread=(-2.0, 0, 0, 0, 0),
            values=msgspec.structs.asdict(values), files=("other.csv",), gpus=(gpu,), rows=9, date=TODAY.isoformat(),
        )  # fmt: skip

    fits = (fit("gemm", GemmParameters()), fit("power", power, variant="gemm"), fit("power", power, "", framework=""))
    wide = tuple(Transfer(operator="power", step=step, sigma=0.3, pairs=0) for step in ("gpu", "class"))
    save_arch(Arch(schema=ARCH_SCHEMA, name=name, meaning="m", fits=fits, transfers=wide), data_folder() / "arch")


GEMMS = """gpu,dtype,m,n,k,latency_us,power_w,framework,version
{gpu},bfloat16,4095,8192,8192,400,900,vllm,1
{gpu},bfloat16,1,64,64,2,,vllm,1
{gpu},bfloat16,4095,8192,64,20,700,vllm,1
"""


def gemms(tmp_path, gpu):
    path = tmp_path / "mine.csv"
    path.write_text(GEMMS.format(gpu=gpu), encoding="utf-8")
    return read_table(path)


def test_scores_are_watts_of_rows_with_a_reading(tmp_path):
    stored(ReadingParameters())
    (scored,) = score_power(gemms(tmp_path, "b200_sxm"))
    assert (scored.metric, scored.kind, scored.steps, scored.in_sample) == ("power", "gemm", (), False)
    assert scored.lines.tolist() == [2, 4]
    assert scored.roofline.tolist() == [1000, 1000]
    assert scored.measured.tolist() == [900, 700]
    assert (scored.low <= scored.predicted).all()
    assert (scored.predicted <= scored.high).all()
    assert "model" in scored.basis
    assert (scored.predicted > 240).all()
    assert (scored.predicted <= 1000).all()


def test_a_gpu_whose_power_nobody_read_gets_a_wider_interval(tmp_path):
    stored(ReadingParameters())
    (known,) = score_power(gemms(tmp_path, "b200_sxm"))
    (never,) = score_power(gemms(tmp_path, "b300"))
    assert never.steps == ("gpu",)
    assert (never.high / never.low > 1.1 * known.high / known.low).any()


def test_a_table_without_power_has_no_scores_and_an_unknown_gpu_is_refused(tmp_path):
    plain = tmp_path / "plain.csv"
    plain.write_text("gpu,dtype,m,n,k,latency_us\nb200_sxm,bf16,1,2,3,4\n", encoding="utf-8")
    assert list(score_power(read_table(plain))) == []
    (refused,) = score_power(gemms(tmp_path, "b2000"))
    assert isinstance(refused, RidgeError)


def test_an_operator_that_nobody_sampled_takes_what_all_kernels_share():
    stored(ReadingParameters())
    card = replace(CARD, name="b200", arch="blackwell")
    assert find_power(card, "gemm", ("bf16",), Stack()).fit.variant == "gemm"
    assert find_power(card, "pointwise", ("bf16",), Stack("vllm")).fit.variant == ""
    assert find_power(card, "gemm", ("int8",), Stack("vllm")).fit.dtype == ""
    found = find_power(card, "gemm", ("bf16",), Stack("vllm"))
    assert power_parameters(found) == PowerParameters()
    broken = Found(replace_values(found.fit), (), 0.0, "blackwell")
    with pytest.raises(BadInput, match="idle_share"):
        power_parameters(broken)


def replace_values(fit):
    return msgspec.structs.replace(fit, values={k: v for k, v in fit.values.items() if k != "idle_share"})


JOBS = """model,gpu,n_gpus,precision,task,batch,metric,value,unit,notes
net,v100,1,fp32,train,8,time_per_epoch,10,s,opt=a power_limit=250W
net,v100,1,fp32,train,8,average_power,200,W,opt=a power_limit=250W
net,v100,1,fp32,train,8,time_per_epoch,12,s,opt=a power_limit=150W
net,v100,1,fp32,train,8,average_power,140,W,opt=a power_limit=150W
net,v100,1,fp32,train,8,average_power,90,W,opt=a power_limit=100W
net,v100,1,fp32,train,16,average_power,90,W,opt=a power_limit=100W
"""


def test_jobs_are_told_from_their_row_at_the_highest_limit(tmp_path):
    path = tmp_path / "jobs.csv"
    path.write_text(JOBS, encoding="utf-8")
    (jobs,) = job_rows(read_table(path))
    assert (jobs.gpu, jobs.limit_w.tolist(), jobs.watts.tolist(), jobs.seconds.tolist()) == ("v100", [150], [140], [12])
    assert (jobs.known_limit_w.tolist(), jobs.known_w.tolist(), jobs.known_s.tolist()) == ([250], [200], [10])
    assert jobs.lines.tolist() == [5]


def test_a_table_without_limits_is_refused(tmp_path):
    path = tmp_path / "jobs.csv"
    path.write_text(JOBS.replace("power_limit", "limit"), encoding="utf-8")
    with pytest.raises(BadInput, match="power_limit=100W"):
        list(job_rows(read_table(path)))
    with pytest.raises(BadInput, match="needs"):
        list(job_rows(table(m=[1])))


# Against published readings


def test_power_and_time_under_a_limit_of_models_never_seen(shared):
    pytest.importorskip("scipy")
    (jobs,) = job_rows(read_table(shared / "measurements" / "energy.csv"))
    watts, seconds = jobs_out_of_sample(datasheet_device(jobs.gpu), jobs)
    assert len(watts) == 408
    assert float(np.mean(np.abs(watts / jobs.watts - 1))) < 0.04
    assert float(np.mean(np.abs(seconds / jobs.seconds - 1))) < 0.055
    assert float(np.mean(np.abs(jobs.limit_w / jobs.watts - 1))) > 0.5


def test_jobs_are_scored_by_the_stored_fit(shared):
    pytest.importorskip("scipy")
    source = read_table(shared / "measurements" / "energy.csv")
    ((device, fit),) = jobs_fits(source, TODAY)
    save_arch(Arch(schema=ARCH_SCHEMA, name=device.arch, meaning="m", fits=(fit,)), data_folder() / "arch")
    power, seconds = score_jobs(source)
    assert (power.metric, seconds.metric, power.in_sample) == ("power", "time", True)
    for scored in (power, seconds):
        inside = (scored.low <= scored.measured) & (scored.measured <= scored.high)
        assert 0.7 < float(inside.mean()) < 0.92
    assert float(np.mean(np.abs(power.predicted / power.measured - 1))) < 0.04


def test_readings_of_shapes_never_seen(shared):
    pytest.importorskip("scipy")
    rows = read_table(shared / "measurements" / "moe.csv")
    mine = (rows.text("kernel") == "moe_torch_flow_cutlass") & (rows.text("dtype") == "nvfp4")
    rows = rows.take(mine & (rows.text("power_w") != ""))
    assert len(rows) > 80
    device = datasheet_device("b200_sxm")
    p = fit_rows(MOE, device, "nvfp4", rows, evaluations=20)
    seconds = np.asarray(MOE.seconds(device, p, "nvfp4", rows).seconds)
    cell = FittedCell(MOE, ("b200_sxm", "nvfp4", "trtllm", "1.3.0rc15", "cutlass"), device, rows, p, seconds)
    (fitted,), _ = fit_power([cell])
    error = np.abs(fitted.unseen_w / fitted.table.number("power_w") - 1)
    assert float(error.mean()) < 0.13
    tdp = np.abs(fitted.device.tdp_w / fitted.table.number("power_w") - 1)
    assert float(tdp.mean()) > 5 * float(error.mean())
