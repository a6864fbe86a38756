"""How serving stacks are set up where nobody says otherwise: their scheduler, the tokens of a step, slots they keep."""

from dataclasses import dataclass

import numpy as np

from ridgepoint.prediction.capacity_runtime import GIB
from ridgepoint.prediction.serving import Engine, Scheduler
from ridgepoint.quantity import Array

__all__ = ["DEFAULTS", "StackDefaults", "engine_of", "stack_defaults"]


@dataclass(frozen=True, slots=True)
class StackDefaults:
    """Of one stack. `chunk`: tokens of prompts in a step on a device of at least `large_bytes`, `small_chunk` on others."""

    scheduler: Scheduler
    chunk: float
    small_chunk: float
    large_bytes: float
    most_running: float
    held: float
    reserve: float
    """Share of the memory left free."""
    source: str


DEFAULTS: dict[str, StackDefaults] = {
    "vllm": StackDefaults(
        "mixed", 8192, 2048, 70 * GIB, 256, 0, 0.1,
        "vllm/engine/arg_utils.py: 8192 tokens of a server's step from 70 GiB on, else 2048 (A100: 2048); chunks of prompts "
        "beside decoding; vllm/config/cache.py: gpu_memory_utilization",
    ),
    "sglang": StackDefaults(
        "prefill-first", 8192, 2048, 25e9, 256, 0, 0.12,
        "sglang/srt/server_args.py: chunked_prefill_size 8192, 2048 below 25 GB; enable_mixed_chunk is off; "
        "mem_fraction_static 0.88",
    ),
    "trtllm": StackDefaults(
        "mixed", 8192, 8192, 0, 256, 1, 0.1,
        "TensorRT-LLM, max_num_tokens 8192, in-flight batching; tensorrt_llm/_torch/pyexecutor/cuda_graph_runner.py: the "
        "request that fills up a batch to the size of a CUDA graph is made once and then keeps its slot",
    ),
}  # fmt: skip
"""By framework."""
_SMALL_ON = ("a100",)
"""In names of devices to which vLLM gives small chunks whatever their memory (its pull request 17885)."""
_FEWEST_PADDED = 3
"""Largest batch from which a size between those of the graphs 1, 2, 4, 8 … occurs, so that a batch is filled up."""


def stack_defaults(framework: str) -> StackDefaults:
    """Of the framework, or vLLM's where it is another one."""
    return DEFAULTS.get(framework, DEFAULTS["vllm"])


def engine_of(
    framework: str, device: str, memory_bytes: float, most_running: Array, room: Array, groups: int = 1
) -> Engine:
    """The stack's engine on a device: as many slots as it may run at once and as its cache has room for.

    `groups`: of attention, each with slots of its own. A batch that the cache limits leaves no slot to a padding request.
    """
    d = stack_defaults(framework)
    small = memory_bytes < d.large_bytes or (framework == "vllm" and any(name in device for name in _SMALL_ON))
    most = np.asarray(most_running, float)
    held = np.where((most / groups >= _FEWEST_PADDED) & (most <= room), d.held * groups, 0.0)
    return Engine(np.minimum(most, room) - held, d.scheduler, d.small_chunk if small else d.chunk)
