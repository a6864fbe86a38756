"""`ridge validate`: errors counted as an oracle counts them, refusals in one line, and nothing fitted on the way."""

import csv
import json
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest

from ridgepoint.errors import NotSupported
from ridgepoint.hardware import Arch, Fit, Transfer, data_folder, load_arch, load_target, save_arch
from ridgepoint.hardware.arch import ARCH_SCHEMA
from ridgepoint.prediction.physics.device import device_of
from ridgepoint.prediction.physics.gemm import GemmParameters, gemm_time
from ridgepoint.prediction.physics.gemm_format import FORMATS
from ridgepoint.study.published.gemm import LOOPS
from ridgepoint.study.published.table import fingerprint
from ridgepoint.study.score_published import ALL, score_lines
from ridgepoint.study.scoring import datasheet_device
from ridgepoint.study.validate import above, validate

CARD = """
schema = 2
name = "toy-card"
kind = "gpu"
date = "2026-01-01"
arch = "toy"
aliases = ["toy_card"]
[[peaks]]
dtype = "bf16"
flops_per_s = 100e12
scope = "device, dense"
source = "s"
unit = "tensor"
[[peaks]]
dtype = "fp32"
flops_per_s = 10e12
scope = "device"
source = "s"
unit = "vector"
[[levels]]
name = "L2"
bytes = 4e7
source = "s"
[[levels]]
name = "DRAM"
bytes = 4e10
read_bytes_per_s = 1e12
source = "s"
[[figures]]
name = "sm_count"
value = 100
scope = "device"
source = "s"
[[figures]]
name = "boost_clock_hz"
value = 1.5e9
scope = "device"
source = "s"
[[figures]]
name = "tdp_w"
value = 300
scope = "device"
source = "s"
[sources]
s = "made for tests, 2026-01-01"
"""
SHAPES = [(m, n, k) for m in (1, 16, 128, 4096) for n in (1024, 4096) for k in (512, 8192)]
SIGMA = 0.1


@pytest.fixture
def toy() -> GemmParameters:
    """A card, and a class with one fit of vLLM's bf16 products whose intervals are 10 % wide."""
    folder = data_folder() / "targets"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "toy-card.toml").write_text(CARD, encoding="utf-8")
    fit = Fit(
        operator="gemm", dtype="bf16", framework="vllm", version="1.0", values=msgspec.structs.asdict(GemmParameters()),
        spread=(float(np.log(SIGMA)), 0.0, 0.0, 0.0, 0.0), files=("elsewhere.csv",), gpus=("toy-card",), rows=99,
        date="2026-01-01",
    )  # fmt: skip
    transfers = (Transfer(operator="gemm", step="version", sigma=0.3, pairs=1),)
    save_arch(
        Arch(schema=ARCH_SCHEMA, name="toy", meaning="of tests", fits=(fit,), transfers=transfers),
        data_folder() / "arch",
    )
    return GemmParameters()


def seconds(p: GemmParameters, m, n, k) -> np.ndarray:
    device = datasheet_device("toy-card")
    return np.asarray(gemm_time(device, p, FORMATS["bf16"], m, n, k, LOOPS["vllm"]).seconds)


def table(path: Path, rows) -> Path:
    columns = ("gpu", "dtype", "m", "n", "k", "latency_us", "framework", "version", "suspect")
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows(rows)
    return path


def rows_of(p, factor, gpu="toy-card", dtype="bfloat16", version="1.0"):
    m, n, k = (np.array(x, float) for x in zip(*SHAPES, strict=True))
    us = seconds(p, m, n, k) * 1e6
    return [
        (gpu, dtype, *shape, time * f, "vllm", version, 0)
        for shape, time, f in zip(SHAPES, us, np.broadcast_to(factor, len(SHAPES)), strict=True)
    ]


def test_a_measurement_that_is_the_prediction_has_no_error(toy, tmp_path):
    found = validate([table(tmp_path / "a.csv", rows_of(toy, 1.0))])
    line = next(x for x in found.lines if x.regime == ALL)
    assert line.n == len(SHAPES) and line.median_ape < 1e-9 and line.bias == pytest.approx(1.0)
    assert line.coverage80 == 1.0 and line.steps == "" and not line.in_sample
    assert line.width80 == pytest.approx(np.exp(2 * 1.2816 * SIGMA) - 1, rel=1e-6)


def test_errors_are_those_that_an_oracle_counts(toy, tmp_path):
    factors = np.linspace(0.8, 1.6, len(SHAPES))
    found = validate([table(tmp_path / "a.csv", rows_of(toy, factors))])
    line = next(x for x in found.lines if x.regime == ALL)
    ape = np.abs(1 / factors - 1)
    assert line.median_ape == pytest.approx(np.median(ape))
    assert line.mape == pytest.approx(ape.mean())
    assert line.p90_ape == pytest.approx(np.quantile(ape, 0.9))
    assert line.bias == pytest.approx(np.median(1 / factors))
    half = np.exp(1.2816 * SIGMA)
    assert line.coverage80 == pytest.approx(((factors >= 1 / half) & (factors <= half)).mean())
    regimes = [x for x in found.lines if x.regime != ALL]
    assert sum(x.n for x in regimes) == line.n and {x.regime for x in regimes} == {"m<=64", "m>64"}


def test_rows_that_are_flagged_are_left_out_and_counted(toy, tmp_path):
    rows = rows_of(toy, 1.0)
    rows[3] = (*rows[3][:-1], 1)
    found = validate([table(tmp_path / "a.csv", rows)])
    assert (found.rows, found.left_out) == (len(SHAPES), 1)
    assert any(text.startswith("a.csv: line 5: a flag as suspect") for text in found.refused)
    rows[0] = (*rows[0][:5], -3, *rows[0][6:])
    said = validate([table(tmp_path / "a.csv", rows)]).refused
    assert any(text.startswith("a.csv: line 2: a size or a time that is none") for text in said)


def test_another_version_is_named_and_widens_the_interval(toy, tmp_path):
    both = rows_of(toy, 1.0) + rows_of(toy, 1.0, version="2.0")
    lines = [x for x in validate([table(tmp_path / "a.csv", both)]).lines if x.regime == ALL]
    by = {x.version: x for x in lines}
    assert set(by) == {"all", "1.0", "2.0"}
    assert (by["1.0"].steps, by["2.0"].steps) == ("", "version")
    assert by["2.0"].width80 == pytest.approx(np.exp(2 * 1.2816 * np.hypot(SIGMA, 0.3)) - 1, rel=1e-6)
    assert by["all"].n == by["1.0"].n + by["2.0"].n


def test_what_cannot_be_predicted_is_refused_and_the_rest_is_scored(toy, tmp_path):
    rows = rows_of(toy, 1.0) + rows_of(toy, 1.0, gpu="toy-cart") + rows_of(toy, 1.0, dtype="nvfp4")
    found = validate([table(tmp_path / "a.csv", rows)])
    assert found.left_out == 2 * len(SHAPES)
    assert any("no target named 'toy-cart'; did you mean toy-card?" in text for text in found.refused)
    assert any("nvfp4" in text for text in found.refused)


def test_a_cell_that_is_no_number_costs_its_row_only(toy, tmp_path):
    rows = rows_of(toy, 1.0)
    rows[2], rows[5] = (*rows[2][:5], "n/a", *rows[2][6:]), (*rows[5][:5], "fast", *rows[5][6:])
    found = validate([table(tmp_path / "a.csv", rows)])
    assert (found.rows, found.left_out) == (len(SHAPES), 2)
    assert found.refused == ("a.csv: line 4: latency_us is 'n/a', and 1 more like it; possible is a number",)


@pytest.mark.parametrize("column", ["batch", "power_w", "k"])
def test_so_does_one_in_a_column_that_not_every_table_has(column, toy, tmp_path):
    path = tmp_path / "a.csv"
    names = ("gpu", "dtype", "m", "n", "k", "batch", "power_w", "latency_us", "framework", "version")
    lines = [["toy-card", "bf16", "64", "1024", str(k), "1", "200", "50", "vllm", "1.0"] for k in (512, 1024, 2048)]
    lines[1][names.index(column)] = "[N/A]"
    path.write_text("\n".join(",".join(x) for x in [names, *lines]) + "\n", encoding="utf-8")
    found = validate([path])
    assert f"a.csv: line 3: {column} is '[N/A]'; possible is a number" in found.refused
    assert next(x for x in found.lines if x.regime == ALL and x.metric == "latency").n == 2


def test_a_file_that_the_fit_saw_is_called_in_sample_whatever_its_name(toy, tmp_path):
    seen, other = (table(tmp_path / name, rows_of(toy, f)) for name, f in (("mine.csv", 1.0), ("elsewhere.csv", 1.1)))
    arch = load_arch("toy")
    sources = {"elsewhere.csv": f"a sweep; {fingerprint(seen)}; 16 rows"}
    save_arch(msgspec.structs.replace(arch, sources=sources), data_folder() / "arch")
    assert all(x.in_sample for x in validate([seen]).lines)
    assert not any(x.in_sample for x in validate([other]).lines)
    save_arch(msgspec.structs.replace(arch, sources={"elsewhere.csv": "a sweep"}), data_folder() / "arch")
    assert all(x.in_sample for x in validate([other]).lines)  # no fingerprint on record: the name decides


def test_max_median_is_an_assertion(toy, tmp_path, ridge):
    path = table(tmp_path / "a.csv", rows_of(toy, 1.5))
    assert len(above(validate([path]), 0.2)) == 1
    assert ridge("validate", str(path), "--max-median", "40%").code == 0
    failed = ridge("validate", str(path), "--max-median", "0.2")
    assert failed.code == 1 and "median error 33.3% of a.csv toy-card bf16 vllm 1.0 is above 20.0%" in failed.err


def test_json_has_a_row_for_each_group_with_every_field(toy, tmp_path, ridge):
    path = table(tmp_path / "a.csv", rows_of(toy, 1.1))
    ran = ridge("validate", str(path), "--json")
    rows = json.loads(ran.out)["rows"]
    wanted = {
        "file", "kind", "model", "metric", "gpu", "dtype", "framework", "regime", "n", "median_ape", "mape", "p90_ape",
        "bias", "coverage80",
    }  # fmt: skip
    assert ran.code == 0 and all(wanted <= row.keys() for row in rows)
    assert {row["metric"] for row in rows} == {"latency"} and {row["kind"] for row in rows} == {"gemm"}


def test_the_plot_is_a_page_that_stands_alone(toy, tmp_path, ridge):
    path, page = table(tmp_path / "a.csv", rows_of(toy, 1.1)), tmp_path / "plot.html"
    assert ridge("validate", str(path), "--plot", str(page)).code == 0
    text = page.read_text(encoding="utf-8")
    assert text.count("<circle") == len(SHAPES) and "toy-card" in text
    assert "http://" not in text.replace("http://www.w3.org", "") and "https://" not in text


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("a,b\n1,2\n", "make it no table of operators"),
        ("", "needs a first line"),
        ("gpu,gpu\n1,2\n", "no name twice"),
        ("gpu,dtype,m,n,k,latency_us,framework,version\nx,bf16,1,2\n", "line 2 has 4 cells; the header has 8"),
        ("gpu,dtype,m,n,k,latency_us,framework,version\ntoy-card,bf16,one,2,3,4,vllm,1\n", "line 2: m is 'one'"),
        ("gpu,dtype,m,n,k,latency_us,framework,version\nno-such,bf16,1,2,3,4,vllm,1\n", "no target named 'no-such'"),
    ],
)  # fmt: skip
def test_bad_files_get_one_line(content, said, toy, tmp_path, ridge):
    path = tmp_path / "bad.csv"
    path.write_text(content, encoding="utf-8")
    ran = ridge("validate", str(path))
    assert ran.code == 2 and said in ran.complaint


def test_bad_options_get_one_line(tmp_path, ridge):
    assert "--max-median is 'lots'" in ridge("validate", "x.csv", "--max-median", "lots").complaint
    assert "cannot be read" in ridge("validate", str(tmp_path / "absent.csv")).complaint


def test_models_are_scored_apart(toy, tmp_path):
    """Groups of one file with two models: a line for each, and none that mixes them."""
    scored = validate([table(tmp_path / "a.csv", rows_of(toy, 1.0))]).scored[0]
    half = len(scored.measured) // 2
    models = np.array(["a"] * half + ["b"] * (len(scored.measured) - half))
    lines = score_lines([replace(scored, models=models)])
    assert {x.model for x in lines} == {"a", "b"}
    assert sum(x.n for x in lines if x.regime == ALL) == len(scored.measured)


def test_a_target_without_a_figure_that_is_needed_refuses(toy, tmp_path):
    text = CARD.replace('name = "tdp_w"', 'name = "base_clock_hz"')
    (data_folder() / "targets" / "toy-card.toml").write_text(text, encoding="utf-8")
    with pytest.raises(NotSupported, match="toy-card: tdp_w absent from its figures"):
        device_of(load_target("toy-card"))


# The launch floor as an input


@pytest.mark.parametrize(("asked", "left"), [("9us", len(SHAPES)), ("file", len(SHAPES) - 3)])
def test_a_launch_floor_replaces_that_of_the_fit(asked, left, toy, tmp_path, ridge):
    """Rows of a stack that launches in 9 us where the fit's takes 2.3 us: right with the floor, wrong without."""
    path = table(tmp_path / "a.csv", rows_of(msgspec.structs.replace(toy, launch_s=9e-6), 1.0))
    without = next(x for x in validate([path]).lines if x.regime == ALL)
    ran = ridge("validate", str(path), "--launch-floor", asked, "--json")
    line = next(row for row in json.loads(ran.out)["rows"] if row["regime"] == ALL)
    assert without.median_ape > 0.15 and line["median_ape"] < 1e-6 and line["n"] == left


def test_a_launch_floor_is_said_and_refused_where_there_is_none(toy, tmp_path, ridge):
    path = table(tmp_path / "a.csv", rows_of(toy, 1.0))
    document = json.loads(ridge("validate", str(path), "--launch-floor", "file", "--json").out)
    assert document["launch_floor_inputs"] == 3 and document["left_out"] == 0
    assert any("from the 3 quickest rows, which are not scored" in text for text in document["basis"])
    shown = ridge("validate", str(path), "--launch-floor", "9us").out
    assert "an input here, not a prediction" in " ".join(shown.split())
    assert "possible is 200 ns to 500 µs" in ridge("validate", str(path), "--launch-floor", "5ms").complaint
    few = table(tmp_path / "few.csv", rows_of(toy, 1.0)[:6])
    assert "too few to tell a launch floor" in ridge("validate", str(few), "--launch-floor", "file").complaint


@pytest.mark.parametrize("asked", ["fast", "3", "-1us", "5s", "nanus", "1.2.3us", "0us"])
def test_a_launch_floor_that_is_none_gets_one_line(asked, tmp_path, ridge):
    complaint = ridge("validate", "x.csv", "--launch-floor", asked).complaint
    assert f"--launch-floor is '{asked}'" in complaint and "as 24us" in complaint


# A sweep of the user's


def test_a_sweep_gives_the_card_parameters_of_its_own_also_with_stacks_that_differ_much(toy, tmp_path, ridge):
    """Two stacks, one of which takes four times as long: what they share is no judge of either."""
    pytest.importorskip("scipy", reason="fitting needs SciPy")
    slow = [(*row[:6], "sglang", *row[7:]) for row in rows_of(toy, 4.0)]
    ran = ridge("calibrate", "--from", str(table(tmp_path / "sweep.csv", rows_of(toy, 1.0) + slow)))
    assert ran.code == 0, ran.err
    assert load_target("toy-card").arch == "toy-card-swept"
    found = validate([table(tmp_path / "again.csv", slow)])
    assert next(x for x in found.lines if x.regime == ALL).median_ape < 0.1


def test_a_sweep_that_no_machine_can_have_is_refused_and_nothing_is_written(toy, tmp_path, ridge):
    pytest.importorskip("scipy", reason="fitting needs SciPy")
    wild = rows_of(toy, 10.0 ** np.linspace(-1, 3, len(SHAPES))[::-1])
    assert "nothing was written" in ridge("calibrate", "--from", str(table(tmp_path / "wild.csv", wild))).complaint
    short = [(*row[:5], 0.001, *row[6:]) for row in rows_of(toy, 1.0)]
    assert "too few to fit" in ridge("calibrate", "--from", str(table(tmp_path / "short.csv", short))).complaint
    assert load_target("toy-card").arch == "toy"
