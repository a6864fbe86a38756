"""NVIDIA's GPUs in the catalogue: each figure sourced, consistent with the others, and found by the names people use."""

import csv
import math
import re
from collections import Counter
from functools import cache
from pathlib import Path

import pytest

from ridgepoint.hardware import Target, load_target
from ridgepoint.hardware.target import decode_target
from ridgepoint.prediction.physics.device import device_of

GPU = Path(__file__).resolve().parent.parent / "ridgepoint" / "hardware" / "data" / "gpu"
SHARED = Path(__file__).resolve().parents[2] / "shared" / "measurements"
EVERY = sorted(GPU.glob("*.toml"))
PATHS = [path for path in EVERY if not re.match(r"mi\d|arc-|m\d", path.stem)]

CLASSES = {"pascal", "volta", "turing", "ampere", "ampere-consumer", "ada", "hopper", "blackwell", "blackwell-consumer"}
LANES = {"volta": 64, "turing": 64, "ampere": 64}
"""FP32 lanes of one multiprocessor; 128 in the other classes, and 64 in GP100 of Pascal's."""
FULL_RATE = {"h100-sxm", "h200", "a100-sxm", "l40s", "b200", "gb200", "b300", "gb300", "rtx-pro-6000-server", "l4"}
PREDICTED = {
    *FULL_RATE, "p4", "p100-pcie", "v100-pcie", "v100-sxm2", "t4", "a100-pcie-40gb", "a100-pcie-80gb", "rtx-3090",
    "rtx-4090", "rtx-5090", "h100-pcie", "h100-nvl", "h100-hbm2e-96gb", "gh200", "a10", "a40", "rtx-a6000",
}  # fmt: skip
NO_CLOCK = {"h20"}
"""Of which no source states the boost clock, so that a prediction refuses."""

ODD_FP32 = {
    "b300": "75 TFLOPS are printed, rounded, as of the B200, whose clock is lower",
    "rtx-pro-6000-server": "120 TFLOPS of the datasheet belong to about 2.49 GHz, the brief's boost clock is 2.43",
}
ODD_TENSOR = {
    ("b300", "fp4"): "once and a half B200's rate",
    ("b300", "int8"): "150 TOPS of eight GPUs' 1.2 POPS are rounded",
    ("gb300", "fp4"): "once and a half GB200's rate",
    ("gb300", "tf32"): "1.25 PFLOPS are rounded",
    ("gb300", "fp16"): "2.5 PFLOPS are rounded",
    ("gb300", "bf16"): "2.5 PFLOPS are rounded",
    ("gb300", "fp8"): "5 PFLOPS are rounded",
    ("dgx-spark", "fp4"): "1 PFLOPS with sparsity is rounded",
}


@cache
def target_of(path: Path) -> Target:
    return decode_target(path.stem, path.read_bytes())


def named(name: str) -> Target:
    return target_of(GPU / f"{name}.toml")


def each(paths):
    return pytest.mark.parametrize("path", paths, ids=lambda path: path.stem)


def rate(target: Target, dtype: str, unit: str, sparse: bool = False) -> float | None:
    found = (p.flops_per_s for p in target.peaks if (p.dtype, p.unit, p.sparse) == (dtype, unit, sparse))
    return next(found, None)


def level_of(target: Target, name: str):
    return next((level for level in target.levels if level.name == name), None)


def lanes_of(target: Target) -> int:
    chip = next((fact.text for fact in target.facts if fact.name == "chip"), "")
    return 64 if chip == "GP100" else LANES.get(target.arch, 128)


def test_the_catalogue_has_what_it_promises():
    assert len(PATHS) >= 35
    assert {path.stem for path in PATHS} >= PREDICTED
    assert {target_of(path).arch for path in PATHS} == CLASSES


@each(PATHS)
def test_target_is_named_as_its_file(path):
    target = target_of(path)
    assert (target.name, target.kind) == (path.stem, "gpu")
    assert target.date >= "2026-11-27"
    assert load_target(path.stem) == target


@each(PATHS)
def test_every_source_is_used_and_can_be_found_again(path):
    target = target_of(path)
    groups = (target.figures, target.facts, target.peaks, target.levels)
    assert {entry.source for group in groups for entry in group} == set(target.sources)
    for text in target.sources.values():
        assert re.search(r"\bread 20\d\d-\d\d-\d\d$", text), f"no date: {text}"
        assert "https://" in text or "http://" in text or len(text) > 60, f"neither address nor title: {text}"


@each(PATHS)
def test_no_figure_stands_twice(path):
    target = target_of(path)
    for key in ("figures", "facts", "levels"):
        assert max(Counter(entry.name for entry in getattr(target, key)).values(), default=1) == 1
    assert max(Counter((p.dtype, p.unit, p.sparse) for p in target.peaks).values()) == 1


@each(PATHS)
def test_facts_are_of_the_agreed_form(path):
    facts = {fact.name: fact.text for fact in target_of(path).facts}
    assert re.fullmatch(r"20\d\d-(0\d|1[0-2])", facts.get("release", "2026-01"))
    assert facts.get("fabric", "none") in {"nvswitch", "mesh", "bridge", "pcie", "none"}


@each([path for path in PATHS if path.stem not in NO_CLOCK])
def test_prediction_finds_all_that_it_needs(path):
    device = device_of(target_of(path))
    assert device.vector_flops_per_s["fp32"] > 0
    if path.stem in PREDICTED and device.arch != "pascal":
        assert device.tensor_flops_per_s["fp16"] > device.vector_flops_per_s["fp32"]
        assert device.arch in ("volta", "turing") or device.tensor_flops_per_s["bf16"] > 0
    if path.stem in PREDICTED and device.arch in ("ada", "hopper", "blackwell"):
        assert device.tensor_flops_per_s["fp8"] > device.tensor_flops_per_s["bf16"]


def test_pascal_has_no_tensor_cores():
    assert not [
        p for path in PATHS for p in target_of(path).peaks if target_of(path).arch == "pascal" and p.unit != "vector"
    ]


@each([path for path in PATHS if path.stem not in NO_CLOCK])
def test_vector_rate_is_lanes_times_clock(path):
    target = target_of(path)
    expected = 2 * lanes_of(target) * target.figure("sm_count") * target.figure("boost_clock_hz")
    error = abs(rate(target, "fp32", "vector") / expected - 1)
    assert error <= (0.03 if path.stem in ODD_FP32 else 0.02)
    assert error > 0.02 or path.stem not in ODD_FP32, "no exception any more"


@each([path for path in PATHS if path.stem not in NO_CLOCK])
def test_tensor_rates_are_powers_of_two_a_clock(path):
    target = target_of(path)
    clock_hz = target.figure("tensor_clock_hz") or target.figure("boost_clock_hz")
    odd = set()
    for peak in (p for p in target.peaks if p.unit == "tensor" and not p.sparse and p.dtype != "fp64"):
        per_clock = peak.flops_per_s / (target.figure("sm_count") * clock_hz)
        if abs(per_clock / 2 ** round(math.log2(per_clock)) - 1) > 0.03:
            odd.add((path.stem, peak.dtype))
    assert odd == {key for key in ODD_TENSOR if key[0] == path.stem}


@each([path for path in PATHS if target_of(path).arch in ("ada", "hopper", "blackwell", "blackwell-consumer")])
def test_fp8_is_twice_bf16(path):
    target = target_of(path)
    fp8, bf16 = rate(target, "fp8", "tensor"), rate(target, "bf16", "tensor")
    if fp8 is None or bf16 is None:
        pytest.skip("no source states both")
    assert fp8 == pytest.approx(2 * bf16, rel=0.02)


@each(PATHS)
def test_sparse_is_double_and_says_so(path):
    target = target_of(path)
    for peak in (p for p in target.peaks if p.sparse):
        assert peak.scope.startswith("device") and "sparse 2:4" in peak.scope
        ratio = peak.flops_per_s / rate(target, peak.dtype, peak.unit)
        ultra = peak.dtype == "fp4" and path.stem in ("b300", "gb300")
        assert ratio == pytest.approx(4 / 3 if ultra else 2, rel=0.08 if "rounded" in peak.scope else 0.02), peak.dtype
    for peak in (p for p in target.peaks if p.unit == "tensor" and not p.sparse):
        assert "dense" in peak.scope, peak.dtype


@each([path for path in PATHS if path.stem in FULL_RATE])
def test_headline_of_sparsity_is_not_taken_for_dense(path):
    """Products of a multiprocessor at 16 bits a clock double with each class at most; a sparse figure would be above."""
    target = target_of(path)
    clock_hz = target.figure("tensor_clock_hz") or target.figure("boost_clock_hz")
    most = {"ampere": 2048, "hopper": 4096, "blackwell": 8192}.get(target.arch, 1024)
    assert rate(target, "fp16", "tensor") / (target.figure("sm_count") * clock_hz) == pytest.approx(most, rel=0.031)


def test_geforce_cards_accumulate_in_fp32_at_half_rate():
    for name in ("rtx-3090", "rtx-4090", "rtx-5090"):
        peaks = [p for p in named(name).peaks if p.dtype in ("fp16", "bf16") and p.unit == "tensor" and not p.sparse]
        assert len(peaks) == 2
        assert all("FP32 accumulate" in p.scope for p in peaks)
        assert rate(named(name), "fp16", "tensor") < 2.1 * rate(named(name), "fp32", "vector")


@each(PATHS)
def test_memory_is_plausible(path):
    target = target_of(path)
    dram, l2 = level_of(target, "DRAM"), level_of(target, "L2")
    assert 0.1e12 <= dram.read_bytes_per_s <= 10e12
    assert dram.bytes % 2**30 == 0
    assert 0.9 * dram.bytes < target.memory_bytes <= dram.bytes, "usable memory is a little less than the printed size"
    printed = target.memory_bytes == dram.bytes
    assert printed or any("(memory_bytes)" in text for text in target.sources.values()), "no source reports it"
    assert 2**21 <= l2.bytes <= 2**27
    assert 0.004 < dram.bytes / dram.read_bytes_per_s < 0.6, "seconds to read all of it once"


@each(PATHS)
def test_links_carry_what_links_of_their_time_carry(path):
    target = target_of(path)
    facts = {fact.name: fact.text for fact in target.facts}
    link = target.figure("link_bytes_per_s")
    assert link in (None, 56.25e9, 80e9, 150e9, 300e9, 450e9, 900e9), "one direction, not both"
    assert link is None or facts["link"].startswith("NVLink")
    assert target.figure("pcie_bytes_per_s") in (None, 15.8e9, 31.5e9, 32e9, 63e9, 64e9), "one direction of 16 lanes"
    assert 50 <= target.figure("tdp_w") <= 1400


def test_one_gpu_of_a_superchip_is_not_the_superchip():
    for chip, module in (("gb200", "b200"), ("gb300", "b300")):
        assert rate(named(module), "bf16", "tensor") < rate(named(chip), "bf16", "tensor") < 2.6e15
        assert named(module).figure("tdp_w") < named(chip).figure("tdp_w") < 1500
        assert named(module).figure("sm_count") < named(chip).figure("sm_count") == 152
    assert named("gh200").figure("sm_count") == 132


def test_no_alias_is_claimed_twice():
    claimed = Counter(name for path in EVERY for name in {path.stem, *target_of(path).aliases})
    assert not [name for name, count in claimed.items() if count > 1]
    folded: dict[str, set[str]] = {}
    for path in EVERY:
        for name in (path.stem, *target_of(path).aliases):
            folded.setdefault(re.sub(r"[ _]", "-", name.lower()), set()).add(path.stem)
    assert not {name: stems for name, stems in folded.items() if len(stems) > 1}, "two spellings of one name"


@pytest.mark.parametrize(
    ("name", "target"),
    [
        ("h100_sxm", "h100-sxm"), ("H100", "h100-sxm"), ("NVIDIA H100 80GB HBM3", "h100-sxm"),
        ("NVIDIA H100 PCIe", "h100-pcie"), ("NVIDIA H100 NVL", "h100-nvl"), ("NVIDIA H200", "h200"),
        ("H100 96GB HBM2e 2.4TB/s 500W", "h100-hbm2e-96gb"), ("h200_sxm", "h200"), ("NVIDIA GH200 480GB", "gh200"),
        ("b200_sxm", "b200"), ("NVIDIA B200", "b200"), ("gb200_sxm", "gb200"), ("gb200", "gb200"),
        ("b300_sxm", "b300"), ("NVIDIA B300 SXM6 AC", "b300"), ("gb300_sxm", "gb300"), ("NVIDIA GB300", "gb300"),
        ("a100", "a100-sxm"), ("A100 SXM 80GB", "a100-sxm"), ("A100-80GB SXM 330W", "a100-sxm"),
        ("NVIDIA A100-SXM4-80GB", "a100-sxm"), ("NVIDIA A100-SXM4-40GB", "a100-sxm-40gb"),
        ("NVIDIA A100-PCIE-40GB", "a100-pcie-40gb"), ("NVIDIA A100 80GB PCIe", "a100-pcie-80gb"),
        ("v100", "v100-pcie"), ("Tesla V100-PCIE-32GB", "v100-pcie"), ("Tesla V100-SXM2-16GB", "v100-sxm2"),
        ("Tesla T4", "t4"), ("Tesla P4", "p4"), ("Tesla P100-PCIE-16GB", "p100-pcie"), ("NVIDIA L4", "l4"),
        ("NVIDIA L40", "l40"), ("NVIDIA L40S", "l40s"), ("NVIDIA GeForce RTX 4090", "rtx-4090"),
        ("RTX4090", "rtx-4090"), ("NVIDIA GeForce RTX 3090", "rtx-3090"), ("NVIDIA GeForce RTX 5090", "rtx-5090"),
        ("rtx_pro_6000", "rtx-pro-6000-server"), ("rtx_pro_6000_blackwell_server", "rtx-pro-6000-server"),
        ("NVIDIA RTX PRO 6000 Blackwell Server Edition", "rtx-pro-6000-server"),
        ("NVIDIA RTX PRO 6000 Blackwell Workstation Edition", "rtx-pro-6000-workstation"),
        ("NVIDIA RTX PRO 6000 Blackwell Max-Q Workstation Edition", "rtx-pro-6000-max-q"),
        ("NVIDIA RTX 6000 Ada Generation", "rtx-6000-ada"), ("NVIDIA GB10", "dgx-spark"), ("NVIDIA Thor", "jetson-thor"),
    ],
)  # fmt: skip
def test_names_that_tools_report_are_known(name, target):
    assert load_target(name).name == target


def test_names_of_measurements_are_known():
    if not SHARED.is_dir():
        pytest.skip("the measurements are not here")
    found: set[str] = set()
    for path in sorted(SHARED.glob("*.csv")):
        with path.open(newline="") as file:
            rows = csv.DictReader(file)
            for column in {"gpu", "system"} & set(rows.fieldnames or ()):
                found |= {row[column] for row in rows}
    known = {name for path in EVERY for name in (path.stem, *target_of(path).aliases)}
    assert len(found) > 10
    assert found <= known
