"""What torch and NVML say of the GPU: its size, its caches, its free memory, and its clocks and power right now."""

from contextlib import suppress
from typing import Any

__all__ = ["device_facts", "free_bytes", "gpu_state"]


def device_facts() -> dict[str, Any]:
    """Name, memory, L2 and multiprocessors of the current CUDA device, and the versions that drive it."""
    import torch

    p = torch.cuda.get_device_properties(torch.cuda.current_device())
    facts = {
        "gpu": p.name,
        "gpu_memory_bytes": int(p.total_memory),
        "gpu_l2_bytes": int(getattr(p, "L2_cache_size", 0)),
        "gpu_multiprocessors": int(p.multi_processor_count),
        "gpu_compute_capability": f"{p.major}.{p.minor}",
        "torch_cuda": str(torch.version.cuda),
        "fp32_matmul": str(torch.get_float32_matmul_precision()),
    }
    return {**facts, **_driver()}


def free_bytes() -> float | None:
    """Free memory of the first GPU by NVML, without starting CUDA in this process; None where NVML cannot say."""
    found = _asked(lambda nvml, handle: float(nvml.nvmlDeviceGetMemoryInfo(handle).free))
    return found if isinstance(found, float) else None


def gpu_state() -> dict[str, float]:
    """SM and memory clock in Hz, power and its limit in W, temperature: what NVML gives now; it sets nothing."""

    def ask(nvml: Any, handle: Any) -> dict[str, float]:
        readings = {
            "sm_clock_hz": lambda: nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_SM) * 1e6,
            "memory_clock_hz": lambda: nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_MEM) * 1e6,
            "sm_clock_max_hz": lambda: nvml.nvmlDeviceGetMaxClockInfo(handle, nvml.NVML_CLOCK_SM) * 1e6,
            "power_w": lambda: nvml.nvmlDeviceGetPowerUsage(handle) * 1e-3,
            "power_limit_w": lambda: nvml.nvmlDeviceGetEnforcedPowerLimit(handle) * 1e-3,
            "temperature_c": lambda: float(nvml.nvmlDeviceGetTemperature(handle, nvml.NVML_TEMPERATURE_GPU)),
        }
        state = {}
        for name, read in readings.items():
            with suppress(Exception):  # a reading that this GPU does not give stays absent
                state[name] = float(read())
        return state

    found = _asked(ask)
    return found if isinstance(found, dict) else {}


def _driver() -> dict[str, str]:
    def ask(nvml: Any, handle: Any) -> str:
        version = nvml.nvmlSystemGetDriverVersion()
        return version.decode() if isinstance(version, bytes) else str(version)

    found = _asked(ask)
    return {"gpu_driver": found} if isinstance(found, str) else {}


def _asked(question: Any) -> Any:
    """The answer of NVML for the GPU that torch uses, or None where it is not to be had."""
    try:
        import pynvml  # type: ignore[import-not-found, import-untyped]
    except ImportError:
        return None
    from ridgepoint.measurement.energy import nvml_handle

    try:
        pynvml.nvmlInit()
        return question(pynvml, nvml_handle(pynvml, 0))
    except Exception:  # NVML has dozens of errors, and none of them may end a measurement
        return None
