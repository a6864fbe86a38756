"""What a device's memory holds besides the model: the runtime's own, captured graphs, and what is left free."""

from dataclasses import dataclass

from ridgepoint.quantity import Array

__all__ = ["ASSUMPTIONS", "GIB", "Assumption", "Runtime", "runtime_for"]

GIB = float(2**30)


@dataclass(frozen=True, slots=True)
class Assumption:
    """A figure that no formula gives: its value where the user gives none, the flag that sets it, where it comes from."""

    name: str
    flag: str
    value: float
    source: str


ASSUMPTIONS = {
    x.name: x
    for x in (
        Assumption(
            "chunk", "--chunk", 2048,
            "tokens of a step: DEFAULT_MAX_NUM_BATCHED_TOKENS in vllm/config/scheduler.py; its server takes more on large GPUs",
        ),
        Assumption(
            "reserve", "--reserve", 0.08,
            "share of the memory left free: 1 - gpu_memory_utilization, whose default is 0.92 in vllm/config/cache.py",
        ),
        Assumption(
            "context_gib", "--context-gib", 0.5,
            "driver, context and loaded kernels: an assumption; 0.3 GiB with few kernels loaded (pytorch issue 107667)",
        ),
        Assumption(
            "collectives_gib", "--collectives-gib", 1.0,
            "buffers of collectives: an assumption; 1.06 GB (nccl issue 1685) and 1.6 GB (issue 864) are reported",
        ),
        Assumption(
            "graphs_gib", "--graphs-gib", 0.5,
            "captured CUDA graphs: an assumption; vLLM's logs report from 0.1 to 1.0 GiB ('Graph capturing finished')",
        ),
    )
}  # fmt: skip
"""By name. Each is printed with the answer."""


@dataclass(frozen=True, slots=True)
class Runtime:
    """Bytes that one device needs besides the model, and the share of its memory that stays free."""

    context_bytes: Array = 0.0
    collectives_bytes: Array = 0.0
    graphs_bytes: Array = 0.0
    reserve: float = 0.0


def runtime_for(
    kind: str,
    devices: int,
    training: bool,
    reserve: float,
    context_gib: float,
    collectives_gib: float,
    graphs_gib: float,
) -> Runtime:
    """Of a target's kind: only a GPU has a context and graphs; only several devices talk; training captures no graphs."""
    if kind != "gpu":
        return Runtime(0.0, collectives_gib * GIB if devices > 1 else 0.0, 0.0, reserve)
    graphs = 0.0 if training else graphs_gib * GIB
    return Runtime(context_gib * GIB, collectives_gib * GIB if devices > 1 else 0.0, graphs, reserve)
