"""Results, comparisons, device cards and scores as tables: they fit, rates are right, absent figures are dashes."""

import io
from dataclasses import dataclass, replace

import msgspec
import pytest
from rich.cells import cell_len
from rich.console import Console

from ridgepoint.hardware import (
    AttentionLaw,
    Correction,
    Level,
    LinearLaw,
    Peak,
    PointwiseLaw,
    ResidencyLaw,
    ScalingLaw,
    Target,
)
from ridgepoint.hardware.target import SCHEMA
from ridgepoint.report.terminal import card, compare_table, result_table, score_table
from ridgepoint.result import OpRow, Result, Value


def rendered(renderable, width: int = 80) -> str:
    console = Console(file=io.StringIO(), width=width, color_system=None, force_terminal=False, legacy_windows=False)
    console.print(renderable)
    return console.file.getvalue()


def assert_fits(text: str, width: int) -> None:
    wide = [line for line in text.splitlines() if cell_len(line) > width]
    assert not wide, f"wider than {width}: {wide}"
    assert "\x1b" not in text


RESULT = Result(
    kind="predicted",
    workload="smollm2-135m",
    step="decode 4x(new 1, cached 512)",
    side="bf16+int8+threads:1",
    target="host",
    metrics={
        "latency_s": Value(0.0121, 0.0110, 0.0133, "sum of laws"),
        "tokens_per_s": Value(330.6, 300.0, 363.0, "tokens / latency"),
        "memory_bytes": Value(2.1e8, 2.0e8, 2.2e8, "itemised"),
        "energy_j": None,
    },
    ops=(
        OpRow(
            "q_proj",
            "linear",
            "attention.in",
            "torch._weight_int8pack_mm",
            30,
            0.003,
            0.0027,
            0.0033,
            "memory",
            8e7,
            1e7,
        ),
        OpRow(
            "post_attention_norm", "norm", "norm", "rms_norm", 30, 0.0005, 0.00045, 0.00055, "dispatch", 2.8e5, 3.1e5
        ),
        OpRow("lm_head", "linear", "head", "F.linear:bf16", 1, 0.0086, 0.0078, 0.0095, "memory", 2.3e8, 5.7e7),
    ),
    absent={"energy_j": "host has no power figures"},
    flags=("a flag",),
)

TERMS = ((1e-6, 5e-11, 5e-11, 5e-11, 1e-9, 0.0, 0.0), (1e-5, 2e-9, 2e-9, 2e-9, 0.0, 0.0, 0.0))
TARGET = Target(
    schema=SCHEMA,
    name="host",
    kind="cpu",
    date="2026-11-23",
    machine={"cpu": "Xeon"},
    machine_id="m1",
    cores=2,
    memory_bytes=8 * 2.0**30,
    peaks=(Peak(dtype="bf16", flops_per_s=2e11, scope="attained, one thread, dense", source="calibration"),),
    levels=(
        Level(name="L2", bytes=2**21, threads=1, read_bytes_per_s=1.07e11, copy_bytes_per_s=None, source="calibration"),
        Level(name="DRAM", threads=1, read_bytes_per_s=2.1e10, copy_bytes_per_s=2e10, source="calibration"),
        Level(name="DRAM", threads=2, read_bytes_per_s=3e10, copy_bytes_per_s=2.5e10, source="calibration"),
    ),
    linear=(
        LinearLaw(
            kernel="torch._weight_int4pack_mm_for_cpu",
            rung="packed",
            format="int4:g32",
            act="bf16",
            threads=1,
            m=(1.0, 64.0),
            cold=TERMS,
            hot=TERMS,
            sigma=0.04,
            source="calibration",
        ),
        LinearLaw(
            kernel="int8_dequantise_linear",
            rung="naive",
            format="int8",
            act="bf16",
            threads=1,
            m=(1.0, 64.0),
            cold=TERMS,
            hot=TERMS,
            sigma=0.09,
            source="calibration",
            composed=1.26,
        ),
    ),
    attention=(
        AttentionLaw(
            kernel="flash",
            dtype="bf16",
            threads=1,
            decode=(1e-5, 1e-7, 1e-9, 1e-11, 1e-11, 0.0),
            prefill=(1e-5, 1e-8, 1e-10, 1e-10, 1e-11),
            sigma=0.06,
            source="calibration",
        ),
    ),
    pointwise=(
        PointwiseLaw(
            kind="rms_norm", dtype="bf16", threads=1, terms=(1.5e-5, 0.0, 5e-10), sigma=0.02, source="calibration"
        ),
    ),
    scaling=(ScalingLaw(subject="attention", threads=2, m=(1.0, 16.0), speedup=(1.0, 1.8), source="calibration"),),
    residency=ResidencyLaw(working_set_bytes=(4e6, 3e7), miss=(0.0, 0.94), source="calibration"),
    correction=Correction(per_call_s=2e-6, sigma=0.05, source="calibration"),
    checks={"two runs agree": "within 1.2 %"},
    sources={"calibration": "ridge calibrate, record r1, 2026-11-23"},
)


@pytest.mark.parametrize("width", [80, 120, 160])
def test_result_on_the_terminal(width):
    text = rendered(result_table(RESULT, TARGET), width)
    assert_fits(text, width)
    for wanted in (
        "q_proj",
        "3 ms",
        "±10 %",
        "25 %",
        "dispatch",
        "torch._weight_int8pack_mm",
        "12.1 ms (11 ms to 13.3 ms)",
        "step.v1",
        "energy    not predictable here: host has no power figures",
        "mfu.v1",
        "! a flag",
    ):
        assert wanted in text
    head = next(line.split() for line in text.splitlines() if "lm_head" in line and "8.6 ms" in line)
    assert "13" in head, (
        "5.7e7 bytes in 8.6 ms are 6.6 GB/s, 32 % of 21 GB/s; 2.3e8 FLOPs are 26.7 GFLOP/s, 13 % of 200"
    )
    assert "32" in head
    plain = rendered(result_table(RESULT), width)
    assert_fits(plain, width)
    assert "26.7" in plain and "6.63" in plain and "MFU" not in plain


def test_absent_peaks_are_dashes():
    bare = msgspec.structs.replace(TARGET, peaks=(), levels=(), linear=())
    text = rendered(result_table(RESULT, bare))
    assert next(line.split() for line in text.splitlines() if line.startswith("q_proj"))[-2:] == ["–", "–"]
    assert "inf" not in text


def test_comparison_has_signed_errors():
    slower = replace(RESULT.ops[0], time_s=0.004, kernel="other")
    metrics = {**RESULT.metrics, "latency_s": Value(0.0131, 0.013, 0.0132, "median")}
    measured = replace(
        RESULT, kind="measured", ops=(slower, RESULT.ops[2]), metrics=metrics, absent={"energy_j": "no counter"}
    )
    text = rendered(compare_table(RESULT, measured))
    assert_fits(text, 80)
    row = next(line.split() for line in text.splitlines() if line.startswith("q_proj"))
    assert row == ["q_proj", "30", "3", "ms", "±10", "%", "4", "ms", "-25", "%", "-7.6", "%", "no"]
    absent = next(line.split() for line in text.splitlines() if line.startswith("post_attention_norm"))
    assert absent[-4:] == ["–"] * 4
    for wanted in (
        "-7.6 %",
        "predicted for torch._weight_int8pack_mm, measured with other",
        "energy not measured: no counter",
    ):
        assert wanted in text


def test_a_comparison_without_measured_operators_says_so_in_one_line():
    text = rendered(compare_table(RESULT, replace(RESULT, kind="measured", ops=())))
    assert "no measured operators to compare" in text
    assert "q_proj" not in text
    assert "latency" in text


@pytest.mark.parametrize("width", [80, 120])
def test_card_on_the_terminal(width):
    text = rendered(card(TARGET), width)
    assert_fits(text, width)
    for wanted in (
        "L2",
        "2 MiB",
        "107 GB/s",
        "200 GFLOP/s, attained",
        "torch._weight_int4pack_mm_for_cpu",
        "int8_dequantise_linear (naive)",
        "1.26x",
        "2 µs per operator call",
        "rms_norm",
        "1.80x",
        "94 %",
        "within 1.2 %",
        "record r1",
        "8 GiB",
    ):
        assert wanted in text
    rendered(card(Target(schema=SCHEMA, name="bare", kind="gpu", date="2026-01-01")), width)


@dataclass
class Row:
    group: str
    n: int
    sign_right: int
    sign_n: int
    tie_n: int
    mape: float | None
    median_ape: float | None
    bias: float | None
    coverage80: float | None
    flips_n: int
    flips_right: int
    roofline_mape: float | None
    roofline_sign: float | None


def test_score_on_the_terminal():
    rows = [
        Row("all", 215, 210, 212, 3, 0.068, 0.05, -0.012, 0.81, 40, 35, 0.69, 0.56),
        Row("nf4", 0, 0, 0, 0, *[None] * 4, 0, 0, None, None),
    ]
    text = rendered(score_table(rows))
    assert_fits(text, 80)
    lines = [line.split() for line in text.splitlines()]
    assert next(w for w in lines if w[:1] == ["all"])[1:5] == ["215", "210/212", "3", "6.8"]
    assert next(w for w in lines if w[:1] == ["nf4"])[2:] == ["–", "0", *["–"] * 7]
    assert "no settled bets yet" in rendered(score_table([]))
