"""Clocks, paired statistics, operator times, load, memory, energy and limits, on simulated and on real steps."""

import gc
import itertools
import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ridgepoint.errors import BadInput, MachineBusy, NotSupported
from ridgepoint.measurement import busy, energy, limits, machine, memory, paired
from ridgepoint.measurement.clock import CudaEvents, ThreadCpu, Wall, resolution, resolution_s, timed
from ridgepoint.measurement.optime import overhead_s, timed_leaves
from ridgepoint.measurement.paired import Budget, Paired, compare_rounds, interleave, single

LONG = Budget(seconds=60)

# A machine in a box: its clock moves only when a step runs.


class Ticking:
    """A clock that someone else turns; each mark costs it 100 ns."""

    name = "simulated"
    cold = False

    def __init__(self, tick_s: float = 1e-7):
        self.now_s = 0.0
        self.tick_s = tick_s

    def prepare(self) -> None: ...

    def mark(self) -> float:
        self.now_s += self.tick_s
        return self.now_s

    def between_s(self, start: float, stop: float) -> float:
        return stop - start


class Box:
    """Two sides with step noise, drift (2 s correlation time), preemption, cold caches and luck of placement."""

    def __init__(
        self, seed, *, slow=0.0, noise=0.03, spikes=0.03, drift=0.05, placed=(0.01, 0.03), switch=0.2, step_s=0.008
    ):
        self.random = np.random.default_rng(seed)
        self.clock = Ticking()
        self.noise, self.spikes, self.drift, self.switch, self.step_s = noise, spikes, drift, switch, step_s
        self.slow, self.placed = slow, placed
        self.level, self.last = 0.0, ""
        self.order: list[str] = []
        self.place()

    def place(self) -> None:
        luck = self.random.uniform(*self.placed) * self.random.choice([-1, 1])
        self.factor = {"a": 1.0, "b": math.exp(luck) * (1 + self.slow)}

    def step(self, side: str) -> Callable[[], None]:
        def run() -> None:
            keep = math.exp(-self.step_s / 2.0)
            self.level = keep * self.level + math.sqrt(1 - keep**2) * self.drift * self.random.standard_normal()
            seconds = (
                self.step_s * self.factor[side] * math.exp(self.level + self.noise * self.random.standard_normal())
            )
            if self.random.random() < self.spikes:
                seconds *= 1 + 0.88 * self.random.exponential()
            if side != self.last:
                seconds *= 1 + self.switch
            self.order.append(side)
            self.last = side
            self.clock.now_s += seconds

        return run

    def compare(self, budget: Budget = LONG, **named) -> Paired:
        return interleave(self.step("a"), self.step("b"), self.clock, budget, **named)


NOISES = [{"noise": 0.02}, {"noise": 0.04}, {"noise": 0.03, "spikes": 0.2}, {"noise": 0.03, "step_s": 0.03}]


@pytest.mark.parametrize("noise", NOISES, ids=str)
def test_identical_sides_are_not_told_apart(noise):
    runs = [Box(seed, **noise).compare() for seed in range(50)]
    assert sum(run.verdict in ("faster", "slower") for run in runs) <= 1
    assert sum(run.half_width <= 0.05 for run in runs) >= 45
    assert sum(run.verdict == "tie" for run in runs) >= 25


@pytest.mark.parametrize("noise", NOISES, ids=str)
def test_slowdown_of_ten_percent_is_called(noise):
    runs = [Box(seed, slow=0.1, **noise).compare() for seed in range(50)]
    assert sum(run.verdict == "slower" for run in runs) >= 45
    assert sum(run.low <= 1 / 1.1 <= run.high for run in runs) >= 45


def test_worst_luck_of_placement_is_called_in_few_runs():
    runs = [Box(seed, placed=(0.03, 0.03), noise=0.04).compare() for seed in range(100)]
    assert sum(run.verdict in ("faster", "slower") for run in runs) <= 4


def test_fresh_copies_turn_large_differences_of_placement_into_width():
    def run(seed: int, renewed: bool) -> Paired:
        box = Box(seed, placed=(0.0, 0.08))
        return box.compare(renew=box.place if renewed else None)

    calls = {way: sum(run(seed, way).verdict in ("faster", "slower") for seed in range(50)) for way in (True, False)}
    assert calls[True] <= 1
    assert calls[False] >= 10  # why `renew` exists


@pytest.mark.parametrize("spikes", [0.0, 0.2])
def test_interval_without_the_allowance_for_placement_covers_the_truth(spikes):
    inside = 0
    for seed in range(150):
        run = Box(seed, placed=(0.0, 0.0), noise=0.04, spikes=spikes).compare()
        inside += abs(math.log(run.speedup)) <= run.half_width - paired.PLACEMENT
    assert inside >= 0.92 * 150


def test_rounds_that_follow_their_predecessor_widen_the_interval():
    random = np.random.default_rng(0)
    inside = narrow = 0
    for _ in range(200):
        logs = [0.0]
        for _ in range(59):
            logs.append(0.6 * logs[-1] + 0.01 * random.standard_normal())
        run = compare_rounds(logs, 1.0, 1.0, 60, placement=0.0)
        inside += run.low <= 1 <= run.high
        shuffled = compare_rounds(list(random.permutation(logs)), 1.0, 1.0, 60, placement=0.0)
        narrow += shuffled.half_width < run.half_width
    assert inside >= 170  # without widening: 145
    assert narrow >= 180


def test_first_step_after_each_switch_is_dropped():
    box = Box(0, noise=0.0, spikes=0.0, drift=0.0, placed=(0.0, 0.0), switch=9.0, step_s=0.03)
    run = box.compare()
    assert run.a_s == pytest.approx(box.step_s, rel=1e-3)
    assert run.ratios == pytest.approx([1.0] * run.n, rel=1e-3)


def test_order_alternates_so_that_steady_drift_favours_neither():
    box = Box(0, noise=0.0, spikes=0.0, drift=0.0, placed=(0.0, 0.0), switch=0.0)
    box.compare(Budget(max_rounds=6, target_half_width=0.0, seconds=60))
    lengths = [(side, len(list(run))) for side, run in itertools.groupby(box.order[8:])]  # 4 each to warm up
    one = lengths[0][1]
    assert lengths == [("a", one), *[("b", 2 * one), ("a", 2 * one)] * 2, ("b", 2 * one), ("a", one)]

    def slowing(side: str) -> Callable[[], None]:
        def run() -> None:
            box.clock.now_s += 0.008 * (1 + box.clock.now_s / 10)

        return run

    run = interleave(slowing("a"), slowing("b"), box.clock, Budget(seconds=60))
    assert run.speedup == pytest.approx(1.0, abs=2e-3)
    assert max(run.ratios) > 1.001 > 0.999 > min(run.ratios)  # each round alone is fooled


def test_budget_bounds_rounds_and_time():
    assert Box(1).compare(Budget(max_rounds=5, seconds=60)).n == 5
    assert Box(1).compare(Budget(seconds=0.0)).n == 2
    quiet = {"noise": 1e-4, "spikes": 0.0, "drift": 0.0}
    assert Box(1, **quiet).compare(Budget(min_rounds=20, seconds=60)).n == 20
    assert Box(1, **quiet).compare(Budget(target_half_width=0.0, max_rounds=33, seconds=60)).n == 33


def test_two_rounds_seldom_decide():
    runs = [Box(seed, noise=0.04).compare(Budget(seconds=0.0)) for seed in range(100)]
    assert sum(run.verdict in ("faster", "slower") for run in runs) <= 3
    runs = [Box(seed, slow=0.1, noise=0.04).compare(Budget(seconds=0.0)) for seed in range(100)]
    assert sum(run.verdict == "undecided" for run in runs) >= 75


def test_each_round_is_told_and_collection_is_on_again_after_an_interrupt():
    seen: list[int] = []

    def tell(known: Paired) -> None:
        seen.append(known.n)
        assert not gc.isenabled()
        if len(seen) == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Box(1).compare(Budget(min_rounds=50, seconds=60), on_round=tell)
    assert seen == [2, 3, 4, 5]
    assert gc.isenabled()


@pytest.mark.parametrize(
    ("effect", "noise", "said"),
    [
        (0.2, 0.01, "faster"),
        (-0.2, 0.01, "slower"),
        (0.0, 0.01, "tie"),
        (0.06, 0.1, "undecided"),
        (0.0, 0.3, "undecided"),
    ],
)
def test_verdict(effect, noise, said):
    logs = effect + noise * np.random.default_rng(0).standard_normal(24)
    assert compare_rounds(list(logs), 1.0, 1.0, 24).verdict == said


def test_effect_within_a_tie_is_never_called_however_sure():
    assert compare_rounds([0.028] * 40, 1.0, 1.0, 40, placement=0.0).verdict == "tie"
    assert compare_rounds([0.032] * 40, 1.0, 1.0, 40, placement=0.0).verdict == "faster"


@given(st.lists(st.floats(-2, 2), min_size=2, max_size=40))
def test_swapping_the_sides_mirrors_the_comparison(logs):
    there, back = (compare_rounds([sign * x for x in logs], 1.0, 1.0, len(logs)) for sign in (1, -1))
    assert there.low <= there.speedup <= there.high
    assert there.speedup * back.speedup == pytest.approx(1.0)
    assert there.low * back.high == pytest.approx(1.0)
    mirror = {"faster": "slower", "slower": "faster"}
    assert back.verdict == mirror.get(there.verdict, there.verdict)


@given(st.lists(st.floats(-0.05, 0.05), min_size=20, max_size=40), st.floats(5, 50))
def test_a_few_wild_rounds_move_the_centre_by_less_than_the_noise(logs, wild):
    logs[3] = logs[11] = wild
    assert abs(math.log(compare_rounds(logs, 1.0, 1.0, len(logs)).speedup)) <= 0.05


def test_single_step_alone():
    box = Box(3, noise=0.02, drift=0.0)
    run = single(box.step("a"), box.clock, Budget(seconds=60))
    assert run.p20_s < run.median_s
    assert run.median_s == pytest.approx(0.008, rel=0.03)
    assert run.n >= 24
    assert 0.005 < run.spread < 0.1


def test_real_work_three_times_as_long_is_slower():
    numbers = np.random.default_rng(0).standard_normal(20_000)
    room = np.empty_like(numbers)  # 12 fresh results would time the allocator, not exp

    def times(count: int) -> Callable[[], object]:
        return lambda: [np.exp(numbers, out=room) for _ in range(count)]

    run = interleave(times(4), times(12), ThreadCpu(), Budget(seconds=2))
    assert run.verdict == "slower"
    assert 1 / 5 < run.speedup < 1 / 2
    assert run.b_s > run.a_s > 1e-6


# Clocks


def test_thread_clock_does_not_see_sleep_and_wall_does():
    assert timed(lambda: time.sleep(0.05), ThreadCpu()) < 0.03
    assert timed(lambda: time.sleep(0.05), Wall()) >= 0.05


def test_timed_gives_the_mean_of_its_calls():
    clock, seconds = Ticking(0.0), iter([1.0, 2.0, 6.0])

    def step() -> None:
        clock.now_s += next(seconds)

    assert timed(step, clock, calls=3) == 3.0


@pytest.mark.parametrize("clock", [ThreadCpu(), Wall()], ids=lambda clock: clock.name)
def test_resolution_is_measured(clock):
    found = resolution(clock)
    assert 0 < found.smallest_s <= resolution_s(clock) < 0.02
    assert found.cost_s >= 0


def test_resolution_of_a_coarse_clock_is_its_tick():
    class Coarse(ThreadCpu):
        def mark(self) -> int:
            return time.thread_time_ns() // 10_000_000 * 10_000_000

    assert resolution_s(Coarse()) == pytest.approx(0.01)


def test_calls_per_region_grow_until_the_clock_can_tell():
    clock = Ticking(1e-6)

    def step() -> None:
        clock.now_s += 2e-6

    run = interleave(step, step, clock, Budget(seconds=60))
    assert run.a_s == pytest.approx(2e-6, rel=0.01)  # one call alone would read 3 µs


def test_cuda_clock_without_a_device_says_so():
    torch = pytest.importorskip("torch")
    if torch.cuda.is_available():
        assert timed(lambda: torch.ones(8, device="cuda"), CudaEvents()) > 0
        return
    with pytest.raises(NotSupported, match="no CUDA device"):
        CudaEvents()


# Times of operators


def test_leaves_are_timed_per_call_less_the_wrapper_and_put_back():
    nn = pytest.importorskip("torch").nn
    clock = Ticking(1e-3)

    class Slow(nn.Module):
        def __init__(self, seconds: float):
            super().__init__()
            self.seconds = seconds

        def forward(self, x, *, scale=1.0):
            clock.now_s += self.seconds
            return x * scale

    model = nn.ModuleDict({"block": nn.Sequential(Slow(1.0), nn.ModuleDict({"inner": Slow(2.0)})), "never": Slow(5.0)})
    own = model["block"][0].forward
    model["block"][0].forward = own  # a forward of the instance's own has to survive too
    with timed_leaves(model, clock) as times:
        for _ in range(3):
            assert model["block"][0](7.0, scale=2.0) == 14.0
        model["block"][1]["inner"](1.0)
    assert overhead_s(clock) == pytest.approx(1e-3)
    assert {name: pytest.approx(values) for name, values in times.items()} == {
        "block.0": [1.0, 1.0, 1.0],
        "block.1.inner": [2.0],
    }
    assert model["block"][0].__dict__["forward"] is own
    assert "forward" not in model["block"][1]["inner"].__dict__
    assert "forward" not in model["never"].__dict__


def test_leaves_are_put_back_after_an_exception_and_what_was_timed_is_kept():
    torch = pytest.importorskip("torch")
    model = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Linear(4, 4))
    with pytest.raises(RuntimeError), timed_leaves(model, ThreadCpu()) as times:
        model(torch.ones(1, 4))
        model(torch.ones(1, 5))
    assert [len(times[name]) for name in ("0", "1")] == [1, 1]
    assert all("forward" not in leaf.__dict__ for leaf in model)
    assert all(value >= 0 for values in times.values() for value in values)


# A busy machine

IDLE = busy.Load(
    wall_s=1.0, cpu_share=1.0, waited_share=0.001, involuntary_per_s=2.0, procs_running=1,
    psi_cpu=0.5, psi_memory=0.0, steal_share=0.0, other_cores=0.02,
)  # fmt: skip


def test_idle_machine_and_absent_counters_are_no_evidence():
    assert busy.verdict(IDLE, 2) == busy.Busy(False, "")
    unknown = busy.Load(1.0, 0.3, None, None, None, None, None, None, None)
    assert not busy.verdict(unknown, 2).is_busy
    assert busy.check_wall(unknown, 2) is None
    assert unknown.describe() == "CPU over wall time 0.30"


@pytest.mark.parametrize(
    ("change", "evidence"),
    [
        ({"other_cores": 1.6}, "other processes keep 1.6 of 2 cores busy"),
        ({"procs_running": 3}, "3 processes ready to run on 2 cores"),
        ({"waited_share": 0.2}, "waited for a core 20%"),
        ({"involuntary_per_s": 120.0, "cpu_share": 0.6}, "switched out 120 times a second and got 60% of a core"),
        ({"psi_cpu": 60.0}, "waited for a core 60 %"),
        ({"psi_memory": 9.0}, "waited for memory 9 %"),
        ({"steal_share": 0.05}, "hypervisor took 5%"),
    ],
)
def test_each_sign_alone_refuses_wall_time_with_its_evidence(change, evidence):
    with pytest.raises(MachineBusy, match=evidence):
        busy.check_wall(replace(IDLE, **change), 2)


def test_a_quarter_core_is_much_on_two_cores_and_nothing_on_sixty_four():
    load = replace(IDLE, other_cores=0.6)
    assert busy.verdict(load, 2).is_busy
    assert not busy.verdict(load, 64).is_busy


def test_load_between_snapshots_of_this_thread():
    before = busy.snapshot()
    time.sleep(0.05)
    asleep = busy.load_between(before, busy.snapshot())
    assert asleep.cpu_share < 0.5
    assert asleep.other_cores is None  # too short for /proc/stat's ticks
    before = busy.snapshot()
    while time.thread_time() - before.thread_cpu_s < 0.05:
        pass
    assert busy.load_between(before, busy.snapshot()).cpu_share > asleep.cpu_share


def test_counters_are_read_from_proc(monkeypatch):
    files = {
        "/proc/stat": "cpu  100 0 100 700 50 0 0 50 0 0\ncpu0 1 2\nprocs_running 4\n",
        "/proc/pressure/cpu": "some avg10=12.50 avg60=3 avg300=1 total=4\nfull avg10=99 avg60=1 avg300=1 total=1\n",
        "/proc/thread-self/schedstat": "900 2000000000 7\n",
    }
    monkeypatch.setattr(busy, "_read", lambda path: files.get(path, ""))
    before = busy.snapshot()
    assert (before.procs_running, before.psi_cpu, before.psi_memory) == (4, 12.5, None)
    files["/proc/stat"] = "cpu  200 0 100 700 50 0 0 100 0 0\ncpu0 1 2\nprocs_running 2\n"
    files["/proc/thread-self/schedstat"] = "900 2500000000 7\n"
    after = replace(busy.snapshot(), wall_s=before.wall_s + 1, process_cpu_s=before.process_cpu_s + 0.25)
    load = busy.load_between(before, after)
    second = 100 / os.sysconf("SC_CLK_TCK")
    assert load.other_cores == pytest.approx(second - 0.25)
    assert load.steal_share == pytest.approx(50 / 150)
    assert load.waited_share == pytest.approx(0.5)
    assert load.procs_running == 2


# The machine, memory, energy, limits


def test_fingerprint_is_json_and_its_id_is_of_the_hardware():
    found = machine.fingerprint()
    assert json.loads(json.dumps(found)) == found
    assert found["cores_usable"] >= 1
    assert found["versions"]["numpy"] == np.__version__
    known = machine.machine_id(found)
    updated = found | {"kernel": "9.9", "versions": {}, "memory_available_bytes": 1, "cores_usable": 1}
    assert machine.machine_id(updated) == known
    assert machine.machine_id(found | {"cpu": "another"}) != known
    gpus = [{"name": "H100", "driver": "1"}], [{"name": "H100", "driver": "2"}]
    assert len({machine.machine_id(found | {"gpus": each}) for each in gpus}) == 1


def test_cpu_facts_are_read_from_sys_and_proc(tmp_path):
    for index, (level, kind, size) in enumerate(
        [("1", "Data", "32K"), ("1", "Instruction", "32K"), ("3", "Unified", "1M")]
    ):
        folder = tmp_path / f"index{index}"
        folder.mkdir()
        for name, text in (("level", level), ("type", kind), ("size", size)):
            (folder / name).write_text(text + "\n")
    assert machine._caches(tmp_path) == {"L1d": 32 * 2**10, "L3": 2**20}
    cpuinfo = "model name\t: Some CPU\nflags\t\t: fpu avx2 avx512f avx512_vnni avx512_bf16 amx_tile\n"
    assert machine._cpu_model(cpuinfo) == "Some CPU"
    assert machine._flags(cpuinfo) == ["avx2", "avx512", "vnni", "bf16", "amx"]
    assert machine._flags("Features\t: asimddp i8mm\n") == ["dotprod", "i8mm"]


@pytest.fixture(params=["v1", "v2"])
def cgroup(request, tmp_path) -> dict[str, str]:
    """Limits of 8 MB memory (5 used, 1 of it reclaimable) and half a core, on a group and its parent."""
    v1 = request.param == "v1"
    names = ("memory.limit_in_bytes", "memory.usage_in_bytes") if v1 else ("memory.max", "memory.current")
    top = tmp_path / "tree"
    for base in {top / "memory", top / "cpu"} if v1 else {top}:
        for folder, limit in ((base / "box", 8_000_000), (base / "box" / "me", 9_000_000)):
            folder.mkdir(parents=True)
            (folder / names[0]).write_text(f"{limit}\n")
            (folder / names[1]).write_text("5000000\n")
            (folder / "memory.stat").write_text("anon 1\ninactive_file 1000000\n")
            (folder / "cpu.max").write_text("50000 100000\n")
    groups = tmp_path / "cgroup"
    groups.write_text("4:memory:/box/me\n2:cpu:/box/me\n" if v1 else "0::/box/me\n")
    return {"root": str(top), "groups": str(groups)}


def test_control_groups_bound_memory_and_cores(cgroup):
    assert memory.limit_bytes(**cgroup) == 8_000_000
    assert memory.available_bytes(**cgroup) == 4_000_000
    assert machine.cores_usable(**cgroup) == 1


def test_available_memory_of_macos_is_read_from_vm_stat():
    text = (
        "Mach Virtual Memory Statistics: (page size of 16384 bytes)\n"
        'Pages free:   10.\nPages active: 99.\nPages inactive: 5.\nPages speculative: 1.\n"Translation faults": 7.\n'
    )
    assert memory._vm_stat_bytes(text) == 16 * 16384


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs /proc")
@pytest.mark.parametrize("reset", [True, False], ids=["high water", "samples"])
def test_peak_is_of_this_run_only(monkeypatch, reset):
    if not reset:
        monkeypatch.setattr(memory, "_reset_high_water", lambda: False)
    elif not memory._reset_high_water():
        pytest.skip("this system does not let a process reset VmHWM")

    def hold(count: int) -> None:
        block = bytearray(b"x" * count)
        time.sleep(0.02)
        del block

    large, small = memory.peak(lambda: hold(60_000_000)), memory.peak(lambda: hold(1_000_000))
    assert large.added_bytes > 55_000_000
    assert small.added_bytes < 20_000_000
    assert large.method == small.method == ("VmHWM" if reset else "samples of /proc/self/statm each ms")


@pytest.fixture
def powercap(tmp_path) -> Path:
    zones = {"": ("package-0", 100), ":0": ("core", 40), ":1": ("dram", 7), "psys": ("psys", 900)}
    for suffix, (name, micro_j) in zones.items():
        zone = tmp_path / ("intel-rapl:1" if suffix == "psys" else f"intel-rapl:0{suffix}")
        zone.mkdir()
        for file, text in (("name", name), ("energy_uj", micro_j), ("max_energy_range_uj", 999)):
            (zone / file).write_text(f"{text}\n")
    return tmp_path


@pytest.mark.skipif(sys.platform == "darwin", reason="RAPL is read on Linux")
def test_rapl_sums_packages_and_dram_and_survives_the_counters_restart(powercap):
    meter = energy.probe(powercap=str(powercap), watch_s=0.0)
    assert not isinstance(meter, str)
    assert meter.method == "RAPL counter: package-0, dram"
    assert meter.resolution_j is None
    assert meter.read_j() == 0.0
    (powercap / "intel-rapl:0" / "energy_uj").write_text("990")
    (powercap / "intel-rapl:0:1" / "energy_uj").write_text("17")
    assert meter.read_j() == pytest.approx(900e-6)
    (powercap / "intel-rapl:0" / "energy_uj").write_text("5")
    assert meter.read_j() == pytest.approx(915e-6)


def test_no_meter_gives_the_reason(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert str(energy.probe("cuda")).startswith("not measurable here: nvidia-ml-py")
    monkeypatch.setattr(sys, "platform", "linux")
    assert str(energy.probe(powercap=str(tmp_path))).startswith(f"not measurable here: no RAPL counter at {tmp_path}")


@pytest.mark.skipif(os.name != "posix" or not hasattr(os, "geteuid"), reason="needs file permissions")
def test_counter_that_cannot_be_read_gives_the_reason(powercap, monkeypatch):
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(energy, "_read_uj", lambda zone: None)
    assert "root only" in str(energy.probe(powercap=str(powercap)))


@pytest.mark.parametrize("way", ["die_with_parent()", "_watch_parent(os.getppid())"], ids=["default", "watching"])
def test_child_ends_with_its_killed_parent(way):
    child = (
        "import os, time\n"
        "from ridgepoint.measurement.limits import _watch_parent, die_with_parent\n"
        f"{way}; print('up', flush=True); time.sleep(30)"
    )
    parent = (
        "import subprocess, sys, time\n"
        f"child = subprocess.Popen([sys.executable, '-c', {child!r}], stdout=subprocess.PIPE)\n"
        "child.stdout.readline(); print(child.pid, flush=True); time.sleep(30)"
    )
    with subprocess.Popen([sys.executable, "-c", parent], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        pid = int(process.stdout.readline())
        os.kill(pid, 0)
        process.kill()
    until = time.monotonic() + 5
    while time.monotonic() < until and _alive(pid):
        time.sleep(0.05)
    assert not _alive(pid)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    stat = Path(f"/proc/{pid}/stat")
    return not (stat.exists() and stat.read_text().rpartition(")")[2].split()[0] == "Z")


def test_threads_are_set_in_environment_and_torch(monkeypatch):
    torch = pytest.importorskip("torch")
    for name in limits._THREAD_VARIABLES:
        monkeypatch.setenv(name, "7")
    before = torch.get_num_threads()
    try:
        limits.set_threads(2)
        assert torch.get_num_threads() == 2
        assert {os.environ[name] for name in limits._THREAD_VARIABLES} == {"2"}
    finally:
        torch.set_num_threads(before)
    with pytest.raises(BadInput, match="the least is 1"):
        limits.set_threads(0)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux enforces RLIMIT_AS")
def test_address_space_limit_fails_the_allocation():
    code = "from ridgepoint.measurement.limits import *; limit_address_space(2**30); bytearray(2**31)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "MemoryError" in done.stderr


def test_core_of_measurement_loads_no_torch():
    names = ("busy", "clock", "energy", "limits", "machine", "memory", "optime", "paired")
    imports = f"import sys; from ridgepoint.measurement import {', '.join(names)}"
    code = f"{imports}; machine.fingerprint(); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
