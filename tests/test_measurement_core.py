"""Clocks, operator times, load, the machine, memory, energy and limits, each on real counters and on made-up ones."""

import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ridgepoint.errors import MachineBusy, NotSupported
from ridgepoint.measurement import busy, energy, machine, memory
from ridgepoint.measurement.clock import CudaEvents, ThreadCpu, Wall, resolution, resolution_s, timed
from ridgepoint.measurement.optime import overhead_s, timed_leaves


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
def test_resolution_is_measured(clock, monkeypatch):
    found = resolution(clock)
    assert found.cost_s >= 0
    monkeypatch.setattr("ridgepoint.measurement.clock.resolution", lambda clock: found)  # a second reading may differ
    assert 0 < found.smallest_s <= resolution_s(clock) < 0.02


def test_resolution_of_a_coarse_clock_is_its_tick():
    class Coarse(ThreadCpu):
        def mark(self) -> int:
            return time.thread_time_ns() // 10_000_000 * 10_000_000

    assert resolution_s(Coarse()) == pytest.approx(0.01)


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


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc")
def test_peak_is_counted_from_its_reset_on():
    if not memory._reset_high_water():
        pytest.skip("this system does not let a process reset VmHWM")

    def held(count: int) -> int:
        memory.reset_peak("cpu")
        before = memory.resident_bytes()
        block = bytearray(b"x" * count)
        del block
        return memory.peak_bytes() - before

    assert held(60_000_000) > 55_000_000
    assert held(1_000_000) < 20_000_000


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
        "assert child.stdout.readline() == b'up\\n'; print(child.pid, flush=True); time.sleep(30)"
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


def test_child_of_a_parent_that_is_gone_already_ends_at_once():
    code = "from ridgepoint.measurement.limits import die_with_parent; die_with_parent(parent=-1); print('on')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    stat = Path(f"/proc/{pid}/stat")
    return not (stat.exists() and stat.read_text().rpartition(")")[2].split()[0] == "Z")


def test_core_of_measurement_loads_no_torch():
    names = ("busy", "clock", "energy", "limits", "machine", "memory", "optime", "paired")
    imports = f"import sys; from ridgepoint.measurement import {', '.join(names)}"
    code = f"{imports}; machine.fingerprint(); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
