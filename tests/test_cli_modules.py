"""A module of the user's through the command line: predicted, measured, bet on; refused in one line where it cannot be."""

import json
import shutil
from pathlib import Path

import msgspec
import pytest

from ridgepoint.hardware import decode_target, encode_target
from ridgepoint.hardware.law import PointwiseLaw
from ridgepoint.hardware.law_compiled import CompiledLaw
from ridgepoint.hardware.law_contraction import ContractionLaw

DATA = Path(__file__).parent / "data" / "test-target.calibrated.toml"
PERCEPTRON = """
import torch
from torch import nn


def build():
    return nn.Sequential(nn.Linear(512, 1024), nn.ReLU(), nn.Linear(1024, 256)), torch.randn(2, 512)


def image():
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 4)), torch.randn(2, 3, 8, 8)
"""

SLOW = pytest.mark.slow


@pytest.fixture
def module(tmp_path, isolated_home):
    """A file with two modules, and the test target with a law of relu in the data folder."""
    target = decode_target("t", DATA.read_bytes())
    changed = msgspec.structs.replace(target, pointwise=(*target.pointwise, *elementwise(target, "relu")))
    (isolated_home / "targets").mkdir()
    (isolated_home / "targets" / DATA.name).write_bytes(encode_target(changed))
    path = tmp_path / "mine.py"
    path.write_text(PERCEPTRON)
    return path


def elementwise(target, kind):
    """Made-up laws."""
    source = next(iter(target.sources))
    return tuple(
        PointwiseLaw(kind=kind, dtype=dtype, threads=1, terms=(3e-6, 0.0, 1e-10), sigma=0.1, source=source)
        for dtype in ("fp32", "bf16")
    )


def with_modules(home):
    """Made-up laws of convolutions and views beside those of the test target."""
    path = home / "targets" / DATA.name
    target = decode_target("t", path.read_bytes())
    laws = tuple(
        ContractionLaw(
            kind="conv", form=form, dtype=dtype, threads=1, terms=(1e-5, 0.0, 1e-10, 1e-10, 2e-11), far_element_s=0.0,
            sigma=0.1, source=next(iter(target.sources)),
        )
        for form in ("window", "native", "1x1", "native 1x1")
        for dtype in ("fp32", "bf16")
    )  # fmt: skip
    changed = msgspec.structs.replace(
        target, contraction=laws, pointwise=(*target.pointwise, *elementwise(target, "view"))
    )
    path.write_bytes(encode_target(changed))


def test_predicted_row_by_row(ridge, module):
    ran = ridge("predict", f"{module}:build", "--on", "test-target", "--batch", 4, "--json")
    assert ran.code == 0, ran.err
    found = json.loads(ran.out)
    rows = {row["name"]: row for row in found["ops"]}
    assert list(rows) == ["0", "1:relu", "2"]
    assert rows["0"]["flops"] == 2 * 4 * 512 * 1024
    assert found["metrics"]["latency_s"]["value"] == pytest.approx(sum(row["time_s"] for row in rows.values()))


def test_measured_with_the_same_rows(ridge, module):
    ran = ridge(
        "compare", f"{module}:build", "--on", "test-target", "--with", "bf16", "--batch", 4, "--seconds", 0.3, "--json"
    )
    assert ran.code == 0, ran.err
    found = json.loads(ran.out)
    between = "between the calls"
    assert [*(r["name"] for r in found["predicted"]["ops"]), between] == [r["name"] for r in found["measured"]["ops"]]
    step = found["measured"]["metrics"]["latency_s"]["value"]
    assert 0.3 * step < sum(row["time_s"] for row in found["measured"]["ops"]) < 1.3 * step


def test_a_bet_quantises_its_linear_layers(ridge, module):
    ran = ridge(
        "why", f"{module}:build", "bf16..int8", "--on", "test-target", "--batch", "1,4", "--seconds", 0.3, "--json"
    )
    assert ran.code == 0, ran.err
    answer = json.loads(ran.out)
    assert all(p["measured_speedup"] for p in answer["points"])
    assert set(answer["bet"]["b"][0]["kernels"]) == {"0", "2"}
    assert "is no language model" in answer["accuracy"]["reason"]
    page = module.with_name("all.html")
    assert ridge("report", "--all", "--html", page).code == 0
    text = page.read_text()
    assert (
        "1 settled bets" not in text
        and "1 settled bet" in text
        and "bf16..int8" in text
        and "http" not in text.split("<main")[1]
    )


def test_all_bets_need_a_file_and_a_bet(ridge, tmp_path):
    refused = ridge("report", "--all")
    assert refused.code == 2 and "--html FILE" in refused.complaint
    refused = ridge("report", "--all", "--html", tmp_path / "all.html")
    assert refused.code == 2 and "no settled bet" in refused.complaint


def test_modules_are_calibrated_on_the_cpu(ridge):
    refused = ridge("calibrate", "--modules", "--device", "cuda")
    assert refused.code == 2 and "for the CPU" in refused.complaint


def test_a_convolution_needs_its_calibration(ridge, module, isolated_home):
    refused = ridge("predict", f"{module}:image", "--on", "test-target")
    assert refused.code == 2 and "ridge calibrate --modules" in refused.complaint
    with_modules(isolated_home)
    ran = ridge("compare", f"{module}:image", "--on", "test-target", "--batch", 3, "--seconds", 0.2, "--json")
    assert ran.code == 0, ran.err
    kinds = {row["name"]: row["kind"] for row in json.loads(ran.out)["measured"]["ops"]}
    operators = {"0:conv2d": "conv", "1:relu": "relu", "views": "view", "3": "linear"}
    assert kinds == {**operators, "between the calls": "between"}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("predict", "{}:nothing", "--on", "test-target"), "has no function 'nothing'; it has build, image"),
        (("predict", "./nowhere.py:build", "--on", "test-target"), "no such file"),
        pytest.param(
            ("why", "{}:build", "fp32..bf16", "--phase", "prefill", "--on", "test-target"),
            "leave --phase out",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            ("why", "{}:build", "fp32..channels-last", "--on", "test-target"),
            "calls no convolution",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            ("why", "{}:build", "fp32..math", "--on", "test-target"),
            "calls no attention kernel",
            marks=pytest.mark.slow,
        ),
        (("why", "{}:build", "bf16..int4:g256", "--on", "test-target", "--batch", "1"), "has no kernel"),
    ],
)
def test_refused_in_one_line(ridge, module, words, said):
    ran = ridge(*(word.format(module) for word in words))
    assert ran.code == 2
    assert said in ran.complaint


def with_costs(home):
    """Made-up costs of recording and of compiling."""
    path = home / "targets" / DATA.name
    target = decode_target("t", path.read_bytes())
    law = CompiledLaw(
        dtype="fp32", guard_s=2e-5, kept_call_s=-1e-6, fused_call_s=1e-6, byte_s=3e-11, flop_s=3e-11, compile_s=9.0,
        compile_call_s=0.05, sigma=0.2, source=next(iter(target.sources)),
    )  # fmt: skip
    costs = {f"{mode}{what}": 1e-6 for mode in ("grad", "no-grad") for what in ("", " product")}
    path.write_bytes(encode_target(msgspec.structs.replace(target, autograd_call_s=costs, compiled=(law,))))


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["grad", "no-grad"])
def test_rows_are_absent_where_torch_records(ridge, module, isolated_home, mode):
    with_costs(isolated_home)
    words = ("--on", "test-target", "--batch", 4, "--seconds", 0.2)
    ran = ridge("compare", f"{module}:build", "--with", mode, *words, "--json")
    assert ran.code == 0, ran.err
    found = json.loads(ran.out)["measured"]
    assert found["ops"] == [] and any("in inference mode only" in flag for flag in found["flags"])
    assert found["metrics"]["latency_s"]["value"] > 0
    shown = ridge("compare", f"{module}:build", "--with", mode, *words)
    assert shown.code == 0 and "in inference mode only" in shown.out


def test_a_stage_is_no_option_of_showing_or_fitting(ridge):
    for words in (("--show", "--compile"), ("--refit", "x", "--ort")):
        refused = ridge("calibrate", *words)
        assert refused.code == 2 and "leave it out beside" in refused.complaint


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("c++") is None and shutil.which("g++") is None, reason="needs a C++ compiler")
def test_a_compiled_module_is_bet_on_and_compared(ridge, module, isolated_home):
    with_costs(isolated_home)
    words = ("--on", "test-target", "--seconds", 0.3, "--json")
    ran = ridge("why", f"{module}:build", "fp32..fp32+compile", "--batch", 2, *words)
    assert ran.code == 0, ran.err
    (point,) = json.loads(ran.out)["points"]
    assert point["measured_speedup"] > 0 and point["compile_s"]["b"] > 0 and "a" not in point["compile_s"]
    ran = ridge("compare", f"{module}:build", "--with", "fp32+compile", "--batch", 2, *words)
    assert ran.code == 0, ran.err
    both = json.loads(ran.out)
    assert both["measured"]["ops"] == [] and both["measured"]["metrics"]["compile_s"]["value"] > 0
    assert [row["kind"] for row in both["predicted"]["ops"]] == ["linear", "fused", "linear"]
