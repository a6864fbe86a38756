"""Fingerprint of this machine: the hardware and versions a measurement depends on, and a short id of the hardware."""

import hashlib
import json
import math
import os
import platform
import subprocess
import sys
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import Any

from ridgepoint.measurement.memory import available_bytes, cgroup_folders, limit_bytes, total_bytes

__all__ = ["cores_usable", "fingerprint", "machine_id"]

_FLAGS = {
    "avx2": ("avx2", "hw.optional.avx2_0"),
    "avx512": ("avx512f", "hw.optional.avx512f"),
    "vnni": ("avx512_vnni", "avx_vnni", "hw.optional.avx512vnni"),
    "bf16": ("avx512_bf16", "bf16", "hw.optional.arm.FEAT_BF16"),
    "amx": ("amx_tile",),
    "dotprod": ("asimddp", "hw.optional.arm.FEAT_DotProd"),
    "i8mm": ("i8mm", "hw.optional.arm.FEAT_I8MM"),
    "sve": ("sve",),
    "sme": ("sme", "hw.optional.arm.FEAT_SME"),
}
"""Our word for an instruction set -> its names in /proc/cpuinfo and sysctl; each one decides which kernel can run."""

_HARDWARE = ("arch", "cpu", "flags", "cores", "caches_bytes", "memory_total_gib", "hypervisor", "gpus")
"""Fields of the id. Not the kernel, the driver or any version: a machine stays itself when it is updated."""

_PACKAGES = ("ridgepoint", "torch", "numpy", "transformers", "bitsandbytes", "triton")


def fingerprint() -> dict[str, Any]:
    """What a record says about where it was measured; JSON values only, and a key is absent where nothing is known."""
    mac = sys.platform == "darwin"
    memory = total_bytes()
    found: dict[str, Any] = {
        "arch": platform.machine(),
        "cpu": _sysctl("machdep.cpu.brand_string") if mac else _cpu_model(_read("/proc/cpuinfo")),
        "flags": _flags_macos() if mac else _flags(_read("/proc/cpuinfo")),
        "cores": os.cpu_count(),
        "cores_usable": cores_usable(),
        "caches_bytes": _caches_macos() if mac else _caches(Path("/sys/devices/system/cpu/cpu0/cache")),
        "memory_total_bytes": memory,
        "memory_total_gib": None if memory is None else round(memory / 2**30),
        "memory_limit_bytes": limit_bytes(),
        "memory_available_bytes": available_bytes(),
        "os": platform.system(),
        "kernel": platform.release(),
        "hypervisor": _hypervisor(),
        "python": platform.python_version(),
        "versions": _versions(),
        "gpus": _gpus(),
    }
    return {key: value for key, value in found.items() if value not in (None, "", {}, [])}


def machine_id(found: dict[str, Any]) -> str:
    """12 hex digits over the hardware fields of a fingerprint, the same after a reboot or an update."""
    hardware = {key: found[key] for key in _HARDWARE if key in found}
    if "gpus" in hardware:
        hardware["gpus"] = [gpu["name"] for gpu in hardware["gpus"]]
    return hashlib.sha256(json.dumps(hardware, sort_keys=True).encode()).hexdigest()[:12]


def cores_usable(root: str = "/sys/fs/cgroup", groups: str = "/proc/self/cgroup") -> int:
    """Cores this process may use: its affinity, and the control groups' quota rounded up."""
    affinity = getattr(os, "sched_getaffinity", None)
    cores = len(affinity(0)) if affinity else os.cpu_count() or 1
    for folder in cgroup_folders("cpu", root, groups):
        quota, _, period = _read(folder / "cpu.max").strip().partition(" ")
        if not period:
            quota, period = _read(folder / "cpu.cfs_quota_us").strip(), _read(folder / "cpu.cfs_period_us").strip()
        if quota.isdigit() and period.isdigit() and int(period) > 0:
            cores = min(cores, math.ceil(int(quota) / int(period)))
    return max(1, cores)


def _read(path: str | Path) -> str:
    try:
        return Path(path).read_text()
    except OSError:
        return ""


def _sysctl(name: str) -> str:
    with suppress(OSError, subprocess.SubprocessError):
        return subprocess.run(
            ["sysctl", "-n", name], check=True, capture_output=True, text=True, timeout=5
        ).stdout.strip()
    return ""


def _cpu_model(cpuinfo: str) -> str:
    """The model name; on ARM, which has none, the implementer and part numbers."""
    fields: dict[str, str] = {}
    for line in cpuinfo.splitlines():
        key, _, value = line.partition(":")
        fields.setdefault(key.strip(), value.strip())
    if "model name" in fields:
        return fields["model name"]
    parts = [fields[key] for key in ("Hardware", "CPU implementer", "CPU part") if key in fields]
    return " ".join(parts)


def _flags(cpuinfo: str) -> list[str]:
    for line in cpuinfo.splitlines():
        key, _, value = line.partition(":")
        if key.strip() in ("flags", "Features"):
            there = set(value.split())
            return [name for name, spellings in _FLAGS.items() if there & set(spellings)]
    return []


def _flags_macos() -> list[str]:
    return [
        name
        for name, spellings in _FLAGS.items()
        if any(_sysctl(spelling) == "1" for spelling in spellings if spelling.startswith("hw."))
    ]


def _caches(folder: Path) -> dict[str, int]:
    """Bytes of each cache of the first core: {"L1d": 32768, "L2": ..., "L3": ...}; instruction caches left out."""
    sizes: dict[str, int] = {}
    for index in sorted(folder.glob("index*")):
        level, kind, size = (_read(index / name).strip() for name in ("level", "type", "size"))
        if kind == "Instruction" or not level or not size:
            continue
        unit = {"K": 2**10, "M": 2**20, "G": 2**30}.get(size[-1])
        digits = size[:-1] if unit else size
        if digits.isdigit():
            sizes[f"L{level}{'d' if kind == 'Data' and level == '1' else ''}"] = int(digits) * (unit or 1)
    return sizes


def _caches_macos() -> dict[str, int]:
    names = {"L1d": "l1dcachesize", "L2": "l2cachesize", "L3": "l3cachesize"}
    found = {}
    for level, name in names.items():
        text = _sysctl(f"hw.perflevel0.{name}") or _sysctl(f"hw.{name}")
        if text.isdigit() and int(text) > 0:
            found[level] = int(text)
    return found


def _hypervisor() -> bool | None:
    """True in a virtual machine, False on metal, None where it cannot be told (ARM)."""
    if sys.platform == "darwin":
        return {"1": True, "0": False}.get(_sysctl("kern.hv_vmm_present"))
    for line in _read("/proc/cpuinfo").splitlines():
        if line.startswith("flags"):
            return "hypervisor" in line.split()
    return None


def _versions() -> dict[str, str]:
    """Versions of installed packages, read from their metadata: nothing is imported."""
    found = {}
    for name in _PACKAGES:
        with suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


def _gpus() -> list[dict[str, str]]:
    """Name, memory and driver of each NVIDIA GPU, where nvidia-ml-py and a driver are installed."""
    try:
        import pynvml  # type: ignore[import-not-found, import-untyped]
    except ImportError:
        return []
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return []
    try:
        driver = _text(pynvml.nvmlSystemGetDriverVersion())
        handles = [pynvml.nvmlDeviceGetHandleByIndex(index) for index in range(pynvml.nvmlDeviceGetCount())]
        return [{"name": _text(pynvml.nvmlDeviceGetName(handle)), "driver": driver} for handle in handles]
    except pynvml.NVMLError:
        return []
    finally:
        pynvml.nvmlShutdown()


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value
