"""Energy counters: joules from RAPL for a CPU, from NVML for an NVIDIA GPU, or the reason why there are none here."""

import os
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

__all__ = ["Meter", "NvmlMeter", "RaplMeter", "nvml_handle", "probe"]

POWERCAP = "/sys/class/powercap"


class Meter(Protocol):
    """A counter that only rises; the energy of a run is the difference of two readings."""

    @property
    def method(self) -> str:
        """Which counter, of which part of the machine: goes with every figure."""
        ...

    @property
    def resolution_j(self) -> float | None:
        """Smallest rise that was seen; None when it did not move while it was watched."""
        ...

    def read_j(self) -> float:
        """Joules since the meter was made, or since another fixed moment."""
        ...


def probe(device: str = "cpu", powercap: str = POWERCAP, watch_s: float = 0.3) -> Meter | str:
    """The meter of `device` ("cpu" or "cuda"), or why there is none; watches it for at most `watch_s`."""
    if device.startswith("cuda"):
        return _probe_nvml(device, watch_s)
    if sys.platform == "darwin":
        return "not measurable here: macOS gives energy only to powermetrics, which needs root"
    root = Path(powercap)
    zones = _rapl_zones(root)
    if not zones:
        return f"not measurable here: no RAPL counter at {powercap} (usual in a virtual machine)"
    if any(_read_uj(zone) is None for zone in zones):
        return f"not measurable here: the RAPL counters at {powercap} can be read by root only"
    meter = RaplMeter(zones)
    meter.resolution_j = _smallest_rise_j(meter, watch_s)
    return meter


class RaplMeter:
    """Sum of the RAPL zones that do not contain one another: each package, and each DRAM.

    A zone's counter starts again at `max_energy_range_uj` (minutes at full power). One restart between two readings
    is handled; two cannot be seen, so read at least once a minute.
    """

    def __init__(self, zones: list[Path]):
        self._zones = zones
        self._ranges = [int((zone / "max_energy_range_uj").read_text()) for zone in zones]
        self._last = [_must_read_uj(zone) for zone in zones]
        self._total_uj = 0
        self.method = "RAPL counter: " + ", ".join((zone / "name").read_text().strip() for zone in zones)
        self.resolution_j: float | None = None

    def read_j(self) -> float:
        for index, zone in enumerate(self._zones):
            now = _must_read_uj(zone)
            rise = now - self._last[index]
            self._total_uj += rise if rise >= 0 else rise + self._ranges[index] + 1
            self._last[index] = now
        return self._total_uj * 1e-6


class NvmlMeter:
    """NVML's total energy counter of one GPU, board and memory included; it moves each 20-100 ms."""

    def __init__(self, nvml: Any, handle: Any, name: str):
        self._nvml = nvml
        self._handle = handle
        self.method = f"NVML total energy counter: {name}"
        self.resolution_j: float | None = None

    def read_j(self) -> float:
        return self._nvml.nvmlDeviceGetTotalEnergyConsumption(self._handle) * 1e-3


def _rapl_zones(root: Path) -> list[Path]:
    """Packages and the DRAM zones below them. `psys` (the whole platform) and core, uncore would count twice."""
    zones = []
    for zone in sorted(root.glob("intel-rapl:*")):
        with suppress(OSError):
            name = (zone / "name").read_text().strip()
            if (zone / "energy_uj").exists() and (name.startswith("package") or name == "dram"):
                zones.append(zone)
    return zones


def _read_uj(zone: Path) -> int | None:
    with suppress(OSError, ValueError):
        return int((zone / "energy_uj").read_text())
    return None


def _must_read_uj(zone: Path) -> int:
    return int((zone / "energy_uj").read_text())


def _smallest_rise_j(meter: Meter, watch_s: float) -> float | None:
    until = time.monotonic() + watch_s
    rises: list[float] = []
    last = meter.read_j()
    while time.monotonic() < until and len(rises) < 5:
        now = meter.read_j()
        if now > last:
            rises.append(now - last)
        last = now
    return min(rises) if rises else None


def _probe_nvml(device: str, watch_s: float) -> Meter | str:
    try:
        import pynvml  # type: ignore[import-not-found, import-untyped]
    except ImportError:
        return "not measurable here: nvidia-ml-py is not installed (pip install nvidia-ml-py)"
    try:
        pynvml.nvmlInit()
        handle = nvml_handle(pynvml, int(device.partition(":")[2] or 0))
        name = pynvml.nvmlDeviceGetName(handle)
        meter = NvmlMeter(pynvml, handle, name.decode() if isinstance(name, bytes) else name)
        meter.read_j()
    except pynvml.NVMLError as error:
        return f"not measurable here: NVML has no total energy counter for this GPU ({error})"
    meter.resolution_j = _smallest_rise_j(meter, watch_s)
    return meter


def nvml_handle(nvml: Any, index: int) -> Any:
    """NVML counts GPUs by PCI bus, torch by speed and CUDA_VISIBLE_DEVICES: the UUID is the same for both."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        uuid = getattr(torch.cuda.get_device_properties(index), "uuid", None)
        if uuid is not None:
            return nvml.nvmlDeviceGetHandleByUUID(f"GPU-{uuid}")
    visible = [entry for entry in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if entry]
    if index < len(visible):
        entry = visible[index]
        return nvml.nvmlDeviceGetHandleByIndex(int(entry)) if entry.isdigit() else nvml.nvmlDeviceGetHandleByUUID(entry)
    return nvml.nvmlDeviceGetHandleByIndex(index)
