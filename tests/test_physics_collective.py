"""Time of collectives: known answers, the rules of physics, and what the bytes of published tables mean."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ridgepoint.errors import NotSupported
from ridgepoint.prediction.physics.collective import (
    OPERATIONS,
    CollectiveParameters,
    Direct,
    Links,
    collective_time,
    direct_kernels,
    least_link_bytes,
    links_of,
)
from ridgepoint.prediction.physics.device import Device
from ridgepoint.prediction.physics.parameters import parameters_of
from ridgepoint.study.fitting.held_out import out_of_sample
from ridgepoint.study.published.cells import cells, measured_seconds
from ridgepoint.study.published.collectives import COLLECTIVES
from ridgepoint.study.published.spelling import our_dtypes
from ridgepoint.study.published.table import Table, read_table

H100 = Device(
    "h100", "hopper", 132, 1.98e9, 3350e9, 50 * 2**20, 700.0, {"bf16": 989e12}, {"fp32": 67e12}, 450e9, 64e9, "nvswitch"
)
A100 = replace(
    H100, name="a100", arch="ampere", sm_count=108, clock_hz=1.41e9, dram_bytes_per_s=2039e9, link_bytes_per_s=300e9
)
L40S = replace(H100, name="l40s", arch="ada", link_bytes_per_s=None, pcie_bytes_per_s=32e9, fabric="pcie")
DEVICES: Mapping[str, Device] = {"a100_sxm": A100, "a100": A100, "h100_sxm": H100, "l40s": L40S}
PLAIN = Links(100e9)
P = CollectiveParameters(host_s=1e-8, copy_passes=1e-3)
LARGE = 2**36

operations = st.sampled_from(OPERATIONS)
devices_count = st.integers(1, 1024)
payloads = st.integers(0, 2**34)
kernels = st.sampled_from(
    [None, Direct("x", True, {2: 2**24, 8: 2**20}), Direct("x", True, {2: 2**23}, in_switch=True),
     Direct("x", True, {2: 2**21, 4: 2**22}, two_shots=False)]
)  # fmt: skip


@st.composite
def parameters(draw: st.DrawFn) -> CollectiveParameters:
    values = {}
    for p in parameters_of(CollectiveParameters):
        drawn = float(np.exp(draw(st.floats(np.log(p.low), np.log(p.high)))))
        values[p.name] = min(max(drawn, p.low), p.high)
    return CollectiveParameters(**values)


@st.composite
def links(draw: st.DrawFn) -> Links:
    return Links(
        draw(st.floats(1e10, 2e12)), draw(st.sampled_from([None, 3.2e10])), draw(st.booleans()), 2e12,
        draw(st.sampled_from([1.0, 4.0, 8.0, 72.0, np.inf])), draw(st.sampled_from([None, 2.5e10])),
    )  # fmt: skip


def seconds(way: Links, p: CollectiveParameters, op: str, n: int, size: float, direct: Direct | None = None) -> float:
    return float(collective_time(way, p, op, n, size, direct).seconds)


@pytest.mark.parametrize(
    ("op", "n", "shares_of_payload"),
    [("all_reduce", 2, 1.0 + 0.2), ("all_reduce", 8, 14 / 8 + 0.05), ("all_gather", 4, 3 / 4 + 0.1),
     ("reduce_scatter", 8, 7 / 8 + 0.05), ("alltoall", 8, 7 / 8 + 0.05), ("send_recv", 2, 1.4)],
)  # fmt: skip
def test_a_large_ring_passes_one_nth_in_each_step_and_a_little_at_its_ends(
    op: str, n: int, shares_of_payload: float
) -> None:
    assert P.end_steps == 0.4
    expected = LARGE * shares_of_payload / (100e9 * P.link_share)
    assert seconds(PLAIN, P, op, n, LARGE) == pytest.approx(expected, rel=0.01)


def test_the_smallest_ring_takes_its_launch_and_a_latency_for_each_step() -> None:
    for op, steps in (("all_reduce", 14), ("all_gather", 7), ("reduce_scatter", 7), ("alltoall", 1), ("send_recv", 1)):
        assert seconds(PLAIN, P, op, 8, 1) == pytest.approx(P.launch_s + steps * P.quick_step_s, rel=0.01)


def test_a_sum_in_the_switch_spares_many_devices_the_steps_of_a_ring() -> None:
    switched = replace(PLAIN, sums_in_switch=True)
    expected = LARGE * (1 + 1 / 72) / (100e9 * P.switch_share)
    assert seconds(switched, P, "all_reduce", 72, LARGE) == pytest.approx(expected, rel=0.01)
    assert seconds(switched, P, "all_reduce", 72, LARGE) < seconds(PLAIN, P, "all_reduce", 72, LARGE)
    assert seconds(switched, P, "all_gather", 72, LARGE) == seconds(PLAIN, P, "all_gather", 72, LARGE)


def test_direct_kernels_read_all_in_one_shot_or_a_part_in_two() -> None:
    p = CollectiveParameters(host_s=1e-8, copy_passes=1e-3, launch_s=5e-7, quick_step_s=1e-6, quick_share=0.5)
    both, one = Direct("x", True, {2: 2.0**40}), Direct("x", True, {2: 2.0**40}, two_shots=False)
    assert seconds(PLAIN, p, "all_reduce", 8, 8, both) == pytest.approx(1.5e-6, rel=0.01)
    size = 2**30
    assert seconds(PLAIN, p, "all_reduce", 8, size, one) == pytest.approx(size * 7 / 50e9, rel=0.01)
    assert seconds(PLAIN, p, "all_reduce", 8, size, both) == pytest.approx(size * 14 / 8 / 50e9, rel=0.01)


def test_beyond_the_limit_of_direct_kernels_nccl_takes_over() -> None:
    direct = Direct("x", True, {2: 2**20, 8: 2**18})
    assert seconds(PLAIN, P, "all_reduce", 8, LARGE, direct) == seconds(PLAIN, P, "all_reduce", 8, LARGE)
    for n, limit in ((2, 2**20), (4, 2**20), (8, 2**18), (16, 2**18)):
        inside, outside = (seconds(PLAIN, P, "all_reduce", n, size, direct) for size in (limit, limit + 1))
        assert outside == max(seconds(PLAIN, P, "all_reduce", n, limit + 1), inside)
        assert inside == seconds(PLAIN, P, "all_reduce", n, limit, Direct("x", True, {2: 2.0**40}))


def test_a_ring_across_nodes_is_bound_by_the_network_and_by_all_its_ports() -> None:
    one, eight = (replace(PLAIN, devices_per_node=k, nic_bytes_per_s=25e9 / k) for k in (1.0, 8.0))
    expected = LARGE * 1.0 / (25e9 * P.link_share)
    assert seconds(one, P, "all_reduce", 2, LARGE) == pytest.approx(expected, rel=0.01)
    assert seconds(eight, P, "all_reduce", 16, LARGE) == pytest.approx(expected * 15 / 8, rel=0.01)
    assert seconds(eight, P, "all_reduce", 8, LARGE) == seconds(PLAIN, P, "all_reduce", 8, LARGE)
    assert seconds(eight, P, "alltoall", 16, LARGE) == pytest.approx(LARGE / 2 / (25e9 / 8 * P.link_share), rel=0.01)


def test_the_host_hides_the_device_or_the_device_the_host() -> None:
    eager = CollectiveParameters(host_s=4e-5)
    assert seconds(PLAIN, eager, "all_reduce", 2, 8) == pytest.approx(4e-5, rel=0.01)
    assert seconds(PLAIN, eager, "all_reduce", 2, LARGE) == pytest.approx(
        seconds(PLAIN, replace_host(eager), "all_reduce", 2, LARGE), rel=1e-6
    )


def replace_host(p: CollectiveParameters) -> CollectiveParameters:
    return CollectiveParameters(**{q.name: getattr(p, q.name) for q in parameters_of(type(p)) if q.name != "host_s"})


def test_links_come_from_the_datasheet_and_fall_back_to_pcie() -> None:
    assert links_of(H100) == Links(450e9, None, True, 3350e9)
    assert not links_of(A100).sums_in_switch
    assert links_of(L40S).link_bytes_per_s == 32e9
    bridged = links_of(replace(A100, fabric="bridge", pcie_bytes_per_s=32e9))
    two, four = (seconds(bridged, P, "all_gather", n, LARGE) * n / (n - 1 + P.end_steps) for n in (2, 4))
    assert four == pytest.approx(two * 300 / 32, rel=0.01)
    with pytest.raises(NotSupported, match="neither link_bytes_per_s nor pcie_bytes_per_s"):
        links_of(replace(L40S, pcie_bytes_per_s=None))


def test_an_unknown_collective_names_the_known_ones() -> None:
    with pytest.raises(NotSupported, match="'broadcast'; possible: all_reduce, all_gather"):
        collective_time(PLAIN, P, "broadcast", 2, 8)


@given(links(), parameters(), operations, payloads, kernels)
def test_one_device_alone_takes_no_time(
    way: Links, p: CollectiveParameters, op: str, size: int, direct: Direct | None
) -> None:
    time = collective_time(way, p, op, 1, size, direct)
    assert (time.seconds, time.memory_s, time.fixed_s) == (0.0, 0.0, 0.0)


@given(links(), parameters(), operations, devices_count, payloads, kernels)
def test_never_faster_than_the_links_carry_what_must_pass(
    way: Links, p: CollectiveParameters, op: str, n: int, size: int, direct: Direct | None
) -> None:
    rate = way.link_bytes_per_s if n <= 2 or way.apart_bytes_per_s is None else way.apart_bytes_per_s
    least = size * (n - 1) / n / rate * (2 if op == "all_reduce" and not way.sums_in_switch else 1)
    time = collective_time(way, p, op, n, size, direct)
    assert time.memory_s >= least * (1 - 1e-12)
    assert time.seconds >= time.memory_s


@given(links(), parameters(), operations, devices_count, payloads, st.integers(0, 2**30), kernels)
def test_time_does_not_fall_when_the_payload_grows(
    way: Links, p: CollectiveParameters, op: str, n: int, size: int, more: int, direct: Direct | None
) -> None:
    assert seconds(way, p, op, n, size + more, direct) >= seconds(way, p, op, n, size, direct) * (1 - 1e-12)


@given(
    links(), parameters(), operations, st.lists(st.tuples(devices_count, payloads), min_size=1, max_size=20), kernels
)
def test_a_number_and_the_same_number_in_an_array_agree_bit_for_bit(
    way: Links, p: CollectiveParameters, op: str, points: list[tuple[int, int]], direct: Direct | None
) -> None:
    n, size = np.array(points, dtype=np.float64).T
    time = collective_time(way, p, op, n, size, direct)
    for i, (count, payload) in enumerate(points):
        alone = collective_time(way, p, op, count, payload, direct)
        for part in ("seconds", "compute_s", "memory_s", "fixed_s"):
            assert float(getattr(alone, part)) == getattr(time, part)[i]


def test_numbers_and_arrays_agree_over_many_sizes() -> None:
    size = np.exp(np.random.default_rng(4).uniform(0, 24, 2000))
    together = np.asarray(collective_time(PLAIN, P, "all_reduce", 8, size).seconds)
    assert [seconds(PLAIN, P, "all_reduce", 8, float(one)) for one in size] == together.tolist()


def table_of(tmp_path: Path, *rows: str) -> Table:
    path = tmp_path / "t.csv"
    header = "op,gpu,n_gpus,dtype,bytes,latency_us,topology,framework,version,kernel,devices_per_node"
    path.write_text("\n".join((header, *rows)) + "\n")
    return read_table(path)


def test_reading_keeps_stacks_and_networks_apart(tmp_path: Path) -> None:
    table = table_of(
        tmp_path,
        "all_reduce,h100_sxm,8,half,1048576,25,,nccl,2,NCCL,",
        "all_reduce,h100_sxm,8,bfloat16,2097152,19,,vllm,0.24.0,vLLM_custom_graph,",
        "all_reduce,a100,4,float16,33423360,2143,a100_pairwise_nvlink,torch,2024,NCCL,4",
        "send_recv,a100,2,float16,33423360,4000,a100_dgx,torch,2024,NCCL,1",
        "all_gather,l40s,8,half,1048576,510,,nccl,2,NCCL,",
        "all_gather,l40s,2,half,1048576,48,,nccl,2,NCCL,",
        "broadcast,h100_sxm,2,half,1048576,48,,nccl,2,NCCL,",
    )
    assert COLLECTIVES.usable(table).tolist() == [True, True, True, True, False, True, False]
    kept = table.take(COLLECTIVES.usable(table))
    assert COLLECTIVES.variant(kept).tolist() == [
        "all_reduce NCCL", "all_reduce vLLM_custom_graph", "all_reduce NCCL between pairs",
        "send_recv NCCL across nodes", "all_gather NCCL",
    ]  # fmt: skip
    assert COLLECTIVES.shape(kept).tolist()[0] == "8x1048576"
    assert COLLECTIVES.regime(kept).tolist()[:2] == ["all_reduce, <=1 MiB", "all_reduce, >1 MiB"]
    predicted = np.asarray(COLLECTIVES.seconds(H100, P, "fp16", kept).seconds)
    vllm = direct_kernels("vllm", "hopper")
    assert predicted[0] == seconds(links_of(H100), P, "all_reduce", 8, 2**20)
    assert predicted[1] == seconds(links_of(H100), P, "all_reduce", 8, 2**21, vllm)
    assert predicted[2] == seconds(replace(links_of(H100), apart_bytes_per_s=64e9), P, "all_reduce", 4, 33423360)
    assert predicted[3] == seconds(links_of(H100, 1.0), P, "send_recv", 2, 33423360)


def test_switches_do_not_add_up_integers(tmp_path: Path) -> None:
    table = table_of(tmp_path, f"all_reduce,h100_sxm,8,int8,{LARGE},1,,nccl,2,NCCL,")
    as_floats, as_integers = (float(COLLECTIVES.seconds(H100, P, d, table).seconds[0]) for d in ("fp16", "int8"))  # type: ignore[index]
    assert as_integers == seconds(replace(links_of(H100), sums_in_switch=False), P, "all_reduce", 8, LARGE)
    assert as_floats != as_integers
    assert set(COLLECTIVES.fixed("int8")) == {"switch_s", "switch_share"}
    assert not COLLECTIVES.fixed("fp16")


def test_bytes_of_published_rows_mean_what_the_model_says(shared: Path) -> None:
    table = read_table(shared / "measurements" / "collectives.csv")
    assert COLLECTIVES.usable(table).sum() == 3987 - 4 * 2 * 2 * 21 - 5 * 2 * 23
    within = table.take(COLLECTIVES.usable(table) & (table.text("framework") == "nccl"))
    for i, (gpu, op, n, size) in enumerate(
        zip(within.text("gpu"), within.text("op"), within.number("n_gpus"), within.number("bytes"), strict=True)
    ):
        way = links_of(DEVICES[str(gpu)])
        reached = least_link_bytes(str(op), n, size, way.sums_in_switch) / way.link_bytes_per_s
        share = float(reached / measured_seconds(within)[i])
        assert share < 0.9, (gpu, op, n, size)
        assert share > 0.4 or size < 2**29, (gpu, op, n, size)


@pytest.mark.slow
def test_shapes_that_a_fit_has_not_seen_are_within_a_few_per_cent(shared: Path) -> None:
    pytest.importorskip("scipy", reason="fitting needs SciPy")
    table = read_table(shared / "measurements" / "collectives.csv")
    graph = np.isin(table.text("kernel"), ["NCCL", "vLLM_custom_graph"]) & (table.text("op") == "all_reduce")
    table = table.take(graph & np.isin(table.text("gpu"), ["a100_sxm", "h100_sxm"]))
    for cell, rows in cells(COLLECTIVES, table, our_dtypes).items():
        unseen = out_of_sample(COLLECTIVES, DEVICES[cell[0]], cell[1], rows, folds=3, evaluations=40)
        misses = np.abs(unseen / measured_seconds(rows) - 1.0)
        assert np.median(misses) < 0.08, cell
