"""Memory: how much this process may still take, and the most it held while something ran."""

import resource
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

__all__ = [
    "available_bytes",
    "cgroup_folders",
    "limit_bytes",
    "peak_bytes",
    "reset_peak",
    "room_bytes",
    "total_bytes",
]

_CLEAR_PEAK = "5"  # written to clear_refs it sets the recorded peak to the present size (proc_pid_clear_refs(5))
_UNLIMITED = 2**60  # cgroup v1 writes a page-rounded 2^63 for "no limit"


def peak_bytes(device: str = "cpu") -> int:
    """The most that was held up to now, since `reset_peak`: VmHWM, torch's own count on a GPU, the process's peak on macOS."""
    if device.startswith("cuda"):
        import torch

        return torch.cuda.max_memory_allocated(device)
    return _status_bytes("VmHWM") or _maxrss_bytes()


def room_bytes(device: str = "cpu") -> float:
    """What a question on `device` may take: `available_bytes`, or the GPU's free memory; 2^62 where nothing says."""
    if device.startswith("cuda"):
        from ridgepoint.measurement.cuda import free_bytes

        return free_bytes() or 2.0**62
    return float(available_bytes() or 2**62)


def reset_peak(device: str) -> None:
    """Count the peak from now on; where a process's own peak cannot be reset, it stays that since its start."""
    if device.startswith("cuda"):
        import torch

        torch.cuda.reset_peak_memory_stats(device)
    else:
        _reset_high_water()


def resident_bytes(device: str = "cpu") -> int:
    """What is held now; 0 where it cannot be told."""
    if device.startswith("cuda"):
        import torch

        return torch.cuda.memory_allocated(device)
    return _status_bytes("VmRSS")


def total_bytes() -> int | None:
    """Memory of the machine."""
    if sys.platform == "darwin":
        return _sysctl("hw.memsize")
    return _meminfo("MemTotal")


def limit_bytes(root: str = "/sys/fs/cgroup", groups: str = "/proc/self/cgroup") -> int | None:
    """The tightest memory limit of the control groups this process is in; None without one."""
    limits = [limit for limit, _ in _cgroup_memory(root, groups)]
    return min(limits) if limits else None


def available_bytes(root: str = "/sys/fs/cgroup", groups: str = "/proc/self/cgroup") -> int | None:
    """What can still be taken without swapping: of the machine, and of each control group above this process."""
    rooms = [limit - used for limit, used in _cgroup_memory(root, groups)]
    machine = _available_macos() if sys.platform == "darwin" else _meminfo("MemAvailable")
    if machine is not None:
        rooms.append(machine)
    return max(0, min(rooms)) if rooms else None


def cgroup_folders(controller: str, root: str = "/sys/fs/cgroup", groups: str = "/proc/self/cgroup") -> list[Path]:
    """Folders of this process's control group for `controller` and all above it, v1 and v2, that exist."""
    folders: list[Path] = []
    for line in _read(groups).splitlines():
        number, names, inside = [*line.split(":", 2), "", ""][:3]
        if number == "0" and not names:
            tops = [Path(root), Path(root) / "unified"]
        elif controller in names.split(","):
            tops = [Path(root) / names, Path(root) / controller]
        else:
            continue
        # In a container the path may be the host's, where only the top folder is visible: missing ones are skipped.
        below = Path(inside.lstrip("/"))
        for top in tops:
            folders += [top / part for part in (below, *below.parents)]
    return [folder for folder in dict.fromkeys(folders) if folder.is_dir()]


def _cgroup_memory(root: str, groups: str) -> list[tuple[int, int]]:
    """(limit, used and not reclaimable) of each group with a limit."""
    found = []
    for folder in cgroup_folders("memory", root, groups):
        for limit_file, used_file in (("memory.max", "memory.current"), _V1_FILES):
            limit, used = _integer(folder / limit_file), _integer(folder / used_file)
            if limit is not None and used is not None and limit < _UNLIMITED:
                found.append((limit, max(0, used - _reclaimable(folder))))
    return found


_V1_FILES = ("memory.limit_in_bytes", "memory.usage_in_bytes")


def _reclaimable(folder: Path) -> int:
    """Inactive file cache is counted as used, but is given up before anything is killed."""
    fields = dict(line.split()[:2] for line in _read(folder / "memory.stat").splitlines() if len(line.split()) == 2)
    return int(fields.get("total_inactive_file", fields.get("inactive_file", "0")))


def _integer(path: Path) -> int | None:
    text = _read(path).strip()
    return int(text) if text.isdigit() else None


def _read(path: str | Path) -> str:
    try:
        return Path(path).read_text()
    except OSError:
        return ""


def _meminfo(name: str) -> int | None:
    for line in _read("/proc/meminfo").splitlines():
        if line.startswith(name + ":"):
            return int(line.split()[1]) * 1024
    return None


def _sysctl(name: str) -> int | None:
    with suppress(OSError, subprocess.SubprocessError, ValueError):
        return int(subprocess.run(["sysctl", "-n", name], check=True, capture_output=True, text=True, timeout=5).stdout)
    return None


def _available_macos() -> int | None:
    """Free, inactive and speculative pages of vm_stat."""
    with suppress(OSError, subprocess.SubprocessError, ValueError):
        text = subprocess.run(["vm_stat"], check=True, capture_output=True, text=True, timeout=5).stdout
        return _vm_stat_bytes(text)
    return None


def _vm_stat_bytes(text: str) -> int | None:
    if "page size of " not in text:
        return None
    page = int(text.partition("page size of ")[2].partition(" ")[0])
    pages = dict(line.split(":", 1) for line in text.splitlines()[1:] if ":" in line)
    names = ("Pages free", "Pages inactive", "Pages speculative")
    return page * sum(int(pages[name].strip().rstrip(".")) for name in names if name in pages)


def _reset_high_water() -> bool:
    """Whether VmHWM could be set back; some containers accept the write and do nothing, so the result is checked."""
    try:
        Path("/proc/self/clear_refs").write_text(_CLEAR_PEAK)
    except OSError:
        return False
    high, now = _status_bytes("VmHWM"), _status_bytes("VmRSS")
    return 0 < high <= now * 1.05 + 2**20


def _status_bytes(name: str) -> int:
    for line in _read("/proc/self/status").splitlines():
        if line.startswith(name + ":"):
            return int(line.split()[1]) * 1024
    return 0


def _maxrss_bytes() -> int:
    value = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return value if sys.platform == "darwin" else value * 1024  # macOS counts in bytes, Linux in KiB
