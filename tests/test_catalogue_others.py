"""Devices of other vendors than NVIDIA, nodes and fabrics of the catalogue: each figure sourced and consistent."""

import re
from collections import Counter
from functools import cache
from pathlib import Path

import pytest

from ridgepoint.hardware import Target
from ridgepoint.hardware.node import Node, decode_node
from ridgepoint.hardware.target import decode_target
from ridgepoint.prediction.physics.device import device_of

DATA = Path(__file__).resolve().parent.parent / "ridgepoint" / "hardware" / "data"
GPUS = sorted(path for kind in ("mi[0-9]*", "arc-*", "m[0-9]-*") for path in (DATA / "gpu").glob(f"{kind}.toml"))
CPUS = sorted((DATA / "cpu").glob("*.toml"))
ACCELERATORS = sorted((DATA / "accelerator").glob("*.toml"))
TARGETS = [*GPUS, *CPUS, *ACCELERATORS]
NODES = sorted((DATA / "node").glob("*.toml"))
NVIDIA = {
    "v100-sxm2",
    "a100-sxm",
    "h100-sxm",
    "h200",
    "b200",
    "gb200",
    "b300",
    "gb300",
    "l40s",
    "rtx-3090",
    "rtx-4090",
    "rtx-5090",
}
"""What nodes stand on and another test covers."""
FABRICS = {"nvswitch", "mesh", "bridge", "pcie", "none"}

VECTOR_FP32 = {"cdna1": 128, "cdna2": 128, "cdna3": 256, "cdna4": 256, "xe2": 256, "apple": 256}
"""FLOPs a clock of one compute unit, Xe core or GPU core."""
TENSOR = {
    "cdna1": {"fp16": 1024, "bf16": 512, "int8": 1024, "fp32": 256},
    "cdna2": {"fp16": 1024, "bf16": 1024, "int8": 1024, "fp32": 256, "fp64": 256},
    "cdna3": {"fp16": 2048, "bf16": 2048, "int8": 4096, "fp8": 4096, "tf32": 1024, "fp32": 256, "fp64": 256},
    "cdna4": {"fp16": 4096, "bf16": 4096, "int8": 8192, "fp8": 8192, "fp6": 16384, "fp4": 16384},
    "xe2": {"fp16": 2048},
}


@cache
def target_of(path: Path) -> Target:
    return decode_target(path.stem, path.read_bytes())


@cache
def node_of(path: Path) -> Node:
    return decode_node(path.stem, path.read_bytes())


def each(paths):
    return pytest.mark.parametrize("path", paths, ids=lambda path: path.stem)


def level_of(target: Target, name: str):
    return next((level for level in target.levels if level.name == name), None)


def dense(target: Target, dtype: str, unit: str) -> float | None:
    return next(
        (p.flops_per_s for p in target.peaks if (p.dtype, p.unit) == (dtype, unit) and not p.sparse),
        None,
    )


def test_the_catalogue_has_what_it_promises():
    assert len(TARGETS) >= 20
    assert len(NODES) >= 15
    assert {"mi100", "mi210", "mi250", "mi250x", "mi300x", "arc-b60"} <= {path.stem for path in GPUS}


@each(TARGETS)
def test_target_is_named_as_its_file(path):
    target = target_of(path)
    assert target.name == path.stem
    assert target.kind == path.parent.name
    assert target.arch, "a class predicts it, so it names one"
    assert target.date >= "2026-11-27"


@each(NODES)
def test_node_is_named_as_its_file(path):
    assert node_of(path).name == path.stem


@each([*TARGETS, *NODES])
def test_every_source_is_used_and_can_be_found_again(path):
    record = node_of(path) if path.parent.name == "node" else target_of(path)
    groups = [record.figures, record.facts]
    if isinstance(record, Target):
        groups += [record.peaks, record.levels]
    assert {entry.source for group in groups for entry in group} == set(record.sources)
    for text in record.sources.values():
        assert re.search(r"https://\S+\.\S+", text), f"no address: {text}"
        assert re.search(r"\b(read )?20\d\d-\d\d-\d\d\b", text), f"no date: {text}"
        assert len(text.split("https://")[0]) > 30, f"neither title nor place: {text}"


def test_no_alias_is_claimed_twice():
    for records in (map(target_of, TARGETS), map(node_of, NODES)):
        claimed = Counter(name for record in records for name in {record.name, *record.aliases})
        assert not [name for name, count in claimed.items() if count > 1]


def test_names_of_measurements_are_known():
    aliases = {alias: target_of(path).name for path in TARGETS for alias in target_of(path).aliases}
    assert aliases["AMD Instinct MI100"] == "mi100"
    assert aliases["MI250X (1 GCD)"] == "mi250x"


@each(TARGETS)
def test_no_figure_stands_twice(path):
    target = target_of(path)
    for key in ("figures", "facts"):
        assert max(Counter(entry.name for entry in getattr(target, key)).values(), default=1) == 1
    assert max(Counter((p.dtype, p.unit, p.sparse) for p in target.peaks).values(), default=1) == 1


@each([*TARGETS, *NODES])
def test_facts_are_of_the_agreed_form(path):
    record = node_of(path) if path.parent.name == "node" else target_of(path)
    facts = {fact.name: fact.text for fact in record.facts}
    assert re.fullmatch(r"20\d\d-(0\d|1[0-2])", facts.get("release", "2026-01"))
    assert facts.get("fabric", "none") in FABRICS


@each(GPUS)
def test_vector_rate_is_units_times_clock(path):
    target = target_of(path)
    clock_hz, rate = target.figure("boost_clock_hz"), dense(target, "fp32", "vector")
    if clock_hz is None:
        pytest.skip("no source states its clock")
    assert rate == pytest.approx(VECTOR_FP32[target.arch] * target.figure("sm_count") * clock_hz, rel=0.02)


@each([path for path in GPUS if path.stem.startswith(("mi", "arc"))])
def test_matrix_rates_are_units_times_clock(path):
    target = target_of(path)
    clocks = target.figure("sm_count") * target.figure("boost_clock_hz")
    found = {dtype: dense(target, dtype, "tensor") for dtype in TENSOR[target.arch]}
    assert found == pytest.approx({dtype: per * clocks for dtype, per in TENSOR[target.arch].items()}, rel=0.02)


@each([*GPUS, *ACCELERATORS])
def test_sparse_is_about_double(path):
    target = target_of(path)
    for peak in (p for p in target.peaks if p.sparse):
        ratio = peak.flops_per_s / dense(target, peak.dtype, peak.unit)
        most = 2.01 if target.kind == "gpu" else 4  # Trainium's sparse rate is the same for FP8 and for FP16
        assert 1.95 < ratio < most, peak.dtype


@each([path for path in GPUS if path.stem.startswith(("mi", "arc"))])
def test_prediction_finds_all_that_it_needs(path):
    device = device_of(target_of(path))
    assert device.tensor_flops_per_s["fp16"] > device.vector_flops_per_s["fp32"]
    flops_per_byte = device.tensor_flops_per_s["fp16"] / device.dram_bytes_per_s
    assert 100 < flops_per_byte < 350


@each([path for path in GPUS if path.stem in ("mi250", "mi250x")])
def test_half_a_package_says_so(path):
    target = target_of(path)
    scopes = [*(p.scope for p in target.peaks), *(f.scope for f in target.figures if f.name == "tdp_w")]
    assert all("one GCD: half of the package's" in scope for scope in scopes)
    assert dense(target, "fp16", "tensor") < 200e12, "the package's rate, not the die's"


@each([*GPUS, *ACCELERATORS])
def test_memory_is_plausible(path):
    target = target_of(path)
    dram = level_of(target, "DRAM")
    assert dram.bytes == target.memory_bytes
    assert 300e9 <= dram.read_bytes_per_s <= 8e12
    if dram.bytes is None:
        pytest.skip("no source states its size")
    assert 8 * 2**30 <= dram.bytes <= 300 * 2**30
    assert dram.bytes % 2**30 == 0, "memory chips come in powers of two"
    assert 0.002 < dram.bytes / dram.read_bytes_per_s < 0.4, "seconds to read all of it once"


@each(TARGETS)
def test_levels_grow_and_slow_down(path):
    levels = target_of(path).levels
    sizes = [level.bytes for level in levels if level.bytes]
    rates = [level.read_bytes_per_s for level in levels if level.read_bytes_per_s]
    assert sizes == sorted(sizes)
    assert rates == sorted(rates, reverse=True)
    assert levels[-1].name == "DRAM"


@each(TARGETS)
def test_links_carry_what_links_of_their_time_carry(path):
    target = target_of(path)
    assert 100e9 <= (target.figure("link_bytes_per_s") or 100e9) <= 1300e9
    pcie = target.figure("pcie_bytes_per_s")
    assert pcie in (None, 16e9, 32e9, 36e9, 64e9), "one direction: x8 or x16 of generation 4 or 5, or a link to the CPU"


@each(CPUS)
def test_memory_of_a_cpu_is_channels_times_rate(path):
    target = target_of(path)
    dram = level_of(target, "DRAM")
    assert dram.threads == target.cores == target.figure("sm_count")
    memory = next((fact.text for fact in target.facts if fact.name == "memory"), "")
    channels, rate = re.search(r"(\d+) channels", memory), re.search(r"\b\d{4}\b", memory)
    if not channels or not rate:
        pytest.skip(f"{memory} tells no channels")
    assert dram.read_bytes_per_s == pytest.approx(int(channels[1]) * 8 * int(rate[0]) * 1e6, rel=0.001)


@each(NODES)
def test_node_stands_on_a_device_of_the_catalogue(path):
    node = node_of(path)
    if node.kind == "fabric":
        assert (node.device, node.count) == ("", None)
        assert node.figure("port_bytes_per_s") in (12.5e9, 25e9, 50e9, 100e9)
        return
    assert node.count >= 2
    found = [kind for kind in ("gpu", "accelerator") if (DATA / kind / f"{node.device}.toml").is_file()]
    if not found and node.device in NVIDIA:
        pytest.skip(f"{node.device} is not in the catalogue yet")
    assert len(found) == 1, f"no target {node.device}"
    target = target_of(DATA / found[0] / f"{node.device}.toml")
    own = target.figure("pcie_bytes_per_s" if node.topology == "pcie" else "link_bytes_per_s")
    link = node.figure("link_bytes_per_s")
    if own is not None and link is not None:
        assert link == pytest.approx(own, rel=0.05)


@each([path for path in NODES if node_of(path).figure("switch_bytes_per_s")])
def test_switches_carry_all_links_at_once(path):
    node = node_of(path)
    carried = node.count * node.figure("link_bytes_per_s")
    assert node.figure("switch_bytes_per_s") == pytest.approx(carried, rel=0.01)


@each([path for path in NODES if node_of(path).kind != "fabric"])
def test_network_is_slower_than_links(path):
    node = node_of(path)
    link, nic = node.figure("link_bytes_per_s"), node.figure("nic_bytes_per_s")
    if link is None or nic is None:
        pytest.skip("no source states both")
    assert 3e9 <= nic <= 100e9
    assert nic < link / 4
    assert 10e9 <= link <= 900e9, "one direction"


@each([path for path in NODES if node_of(path).in_switch_reduction is not None])
def test_what_switches_add_up_has_a_source(path):
    node = node_of(path)
    assert node.topology in ("nvswitch", "switched")
    assert {fact.name for fact in node.facts} & {"fabric", "chip"}, "the fact whose source says so"
