"""Is other work running on this machine while we time: snapshots, the load between two, and a verdict with evidence."""

import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from ridgepoint.errors import MachineBusy
from ridgepoint.measurement.machine import cores_usable

__all__ = ["Busy", "Load", "Snapshot", "check_wall", "load_between", "snapshot", "too_busy", "verdict"]


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Counters at one moment; None where this system does not have them. Take both ends in the measured thread."""

    wall_s: float
    thread_cpu_s: float
    process_cpu_s: float
    involuntary_switches: int | None
    procs_running: int | None
    psi_cpu: float | None
    psi_memory: float | None
    busy_s: float | None
    """Busy seconds of all cores together since boot, without steal."""
    steal_s: float | None
    total_s: float | None
    waited_s: float | None
    """Seconds this thread was ready to run and had no core."""


@dataclass(frozen=True, slots=True)
class Load:
    """What happened between two snapshots; shares are of wall time, or of all cores' time for steal."""

    wall_s: float
    cpu_share: float
    """CPU time of the measured thread over wall time: 1 when it computes and is never displaced."""
    waited_share: float | None
    """Share of the wall time in which the thread was ready and had no core."""
    involuntary_per_s: float | None
    procs_running: int | None
    """The smaller of the two ends, this process included: one short-lived process at one end is no load."""
    psi_cpu: float | None
    """Percent of the last 10 s in which some task had to wait for a core."""
    psi_memory: float | None
    steal_share: float | None
    other_cores: float | None
    """Average number of cores that other processes kept busy."""

    def describe(self) -> str:
        """One line for a record: each counter that this system has, busy or not."""
        words = [f"CPU over wall time {self.cpu_share:.2f}"]
        for value, form in (
            (self.other_cores, "other processes on {:.2f} cores"),
            (self.procs_running, "{:d} ready to run"),
            (self.waited_share, "waited {:.1%}"),
            (self.involuntary_per_s, "switched out {:.0f}/s"),
            (self.psi_cpu, "PSI cpu {:.1f} %"),
            (self.psi_memory, "PSI memory {:.1f} %"),
            (self.steal_share, "steal {:.1%}"),
        ):
            if value is not None:
                words.append(form.format(value))
        return ", ".join(words)


@dataclass(frozen=True, slots=True)
class Busy:
    """Whether wall time can be trusted, and each sign that it cannot, in words."""

    is_busy: bool
    evidence: str


# Thresholds: each is a multiple of what an idle machine shows and a fraction of what two busy loops on two cores show.
_OTHER_CORES = 0.25
_OTHER_SHARE = 0.05
# Other processes that take a quarter of a core displace one of two threads, or share its cache, for more than the
# effects we call; on a big machine 5 % of all cores. Idle: < 0.05; two loops on two cores: > 1.
_WAITED = 0.03  # waiting for a core 3 % of the time moves wall time by as much as a tie. Idle: < 0.005
_INVOLUNTARY_PER_S = 30.0
# Scheduler slices are 3-4 ms, so a thread that shares its core is switched out 100 times a second. Idle: 0-5.
_PSI_CPU = 15.0  # an average over 10 s that also holds our own start, hence high; two loops on two cores: > 50
_PSI_MEMORY = 5.0  # some task waits for memory 5 % of the time: pages are being reclaimed, timings mean nothing
_STEAL = 0.02  # the hypervisor gave 2 % of the time to another guest
_CPU_SHARE = 0.9
# Less CPU than wall time is only a sign together with a displaced thread: a step may rightly wait for other threads.
_SHORTEST_S = 0.2
# /proc/stat counts in ticks of 10 ms: over a shorter window it says nothing about other processes.


def snapshot() -> Snapshot:
    """Read all counters now: about 0.1 ms, so outside timed regions."""
    cpu = _cpu_seconds()
    return Snapshot(
        wall_s=time.perf_counter(),
        thread_cpu_s=time.thread_time(),
        process_cpu_s=time.process_time(),
        involuntary_switches=_involuntary(),
        procs_running=_procs_running(),
        psi_cpu=_pressure("cpu"),
        psi_memory=_pressure("memory"),
        busy_s=cpu[0] if cpu else None,
        steal_s=cpu[1] if cpu else None,
        total_s=cpu[2] if cpu else None,
        waited_s=_waited_s(),
    )


def load_between(before: Snapshot, after: Snapshot) -> Load:
    """The load from one snapshot to a later one of the same thread."""
    wall_s = max(after.wall_s - before.wall_s, 1e-9)
    steal_s, total_s = _less(after.steal_s, before.steal_s), _less(after.total_s, before.total_s)
    busy_s, waited_s = _less(after.busy_s, before.busy_s), _less(after.waited_s, before.waited_s)
    switches = _less(after.involuntary_switches, before.involuntary_switches)
    running = [count for count in (before.procs_running, after.procs_running) if count is not None]
    other = None
    if busy_s is not None and wall_s >= _SHORTEST_S:
        other = max(0.0, busy_s - (after.process_cpu_s - before.process_cpu_s)) / wall_s
    return Load(
        wall_s=wall_s,
        cpu_share=(after.thread_cpu_s - before.thread_cpu_s) / wall_s,
        waited_share=None if waited_s is None else waited_s / wall_s,
        involuntary_per_s=None if switches is None else switches / wall_s,
        procs_running=min(running) if running else None,
        psi_cpu=after.psi_cpu,
        psi_memory=after.psi_memory,
        steal_share=steal_s / total_s if steal_s is not None and total_s else None,
        other_cores=other,
    )


def verdict(load: Load, cores: int) -> Busy:
    """Whether wall time on `cores` cores can be trusted under this load; absent counters are no evidence."""
    signs = []
    allowed = max(_OTHER_CORES, _OTHER_SHARE * cores)
    if _above(load.other_cores, allowed):
        signs.append(f"other processes keep {load.other_cores:.1f} of {cores} cores busy")
    if _above(load.procs_running, cores):
        signs.append(f"{load.procs_running} processes ready to run on {cores} cores")
    if _above(load.waited_share, _WAITED):
        signs.append(f"the measured thread waited for a core {load.waited_share:.0%} of the time")
    displaced = load.involuntary_per_s is not None and load.involuntary_per_s * load.wall_s >= 3
    if displaced and _above(load.involuntary_per_s, _INVOLUNTARY_PER_S):
        share = f" and got {load.cpu_share:.0%} of a core" if load.cpu_share < _CPU_SHARE else ""
        signs.append(f"the measured process was switched out {load.involuntary_per_s:.0f} times a second{share}")
    if _above(load.psi_cpu, _PSI_CPU):
        signs.append(f"some task waited for a core {load.psi_cpu:.0f} % of the last 10 s")
    if _above(load.psi_memory, _PSI_MEMORY):
        signs.append(f"some task waited for memory {load.psi_memory:.0f} % of the last 10 s")
    if _above(load.steal_share, _STEAL):
        signs.append(f"the hypervisor took {load.steal_share:.0%} of the time")
    return Busy(bool(signs), "; ".join(signs))


def check_wall(load: Load, cores: int | None = None) -> None:
    """Raise MachineBusy, with the evidence, if a point that needs wall time cannot be measured under this load."""
    found = verdict(load, cores or cores_usable())
    if found.is_busy:
        raise MachineBusy(
            f"wall time cannot be trusted here now: {found.evidence}; stop the other work, or measure with one thread "
            "(its CPU time is the clock then)"
        )


def _above(value: float | None, limit: float) -> bool:
    return value is not None and value > limit


def _less(after: float | None, before: float | None) -> float | None:
    return None if after is None or before is None else after - before


def _read(path: str) -> str:
    try:
        return Path(path).read_text()
    except OSError:
        return ""


def _procs_running() -> int | None:
    for line in _read("/proc/stat").splitlines():
        if line.startswith("procs_running"):
            return int(line.split()[1])
    return None


def _cpu_seconds() -> tuple[float, float, float] | None:
    """(busy without steal, steal, all) seconds of all cores since boot."""
    line = _read("/proc/stat").partition("\n")[0].split()
    if len(line) < 9 or line[0] != "cpu":
        return None
    user, nice, system, idle, waiting, irq, soft, steal = (int(field) for field in line[1:9])
    tick_s = 1 / os.sysconf("SC_CLK_TCK")
    busy = user + nice + system + irq + soft
    return busy * tick_s, steal * tick_s, (busy + steal + idle + waiting) * tick_s


def _pressure(what: str) -> float | None:
    for line in _read(f"/proc/pressure/{what}").splitlines():
        if line.startswith("some"):
            return float(line.split("avg10=")[1].split()[0])
    return None


def _waited_s() -> float | None:
    fields = _read("/proc/thread-self/schedstat").split()
    return int(fields[1]) * 1e-9 if len(fields) == 3 else None


def _involuntary() -> int | None:
    if sys.platform == "win32":
        return None
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw


_OTHER_CORES = 0.25


def too_busy(load: Load) -> str:
    """Why several threads were not measured on their own cores under this load; "" if they were."""
    if load.other_cores is None or load.other_cores <= _OTHER_CORES:
        return ""
    return f"machine busy: {load.describe()}"
