"""Bytes that a step holds in tensors: the model as stored, and the most that its activations take at once."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn

__all__ = ["activation_bytes", "stored_bytes"]


def stored_bytes(model: "nn.Module") -> int:
    """Bytes of all parameters and buffers, each storage once, and of what kernels keep packed outside of tensors."""
    storages = {}
    for tensor in (*model.parameters(), *model.buffers()):
        storage = tensor.untyped_storage()
        storages[storage.data_ptr()] = storage.nbytes()
    packed = sum(int(getattr(module, "packed_bytes", 0)) for module in model.modules())
    packed += sum(_scale_bytes(parameter) for parameter in model.parameters())
    return sum(storages.values()) + packed


def _scale_bytes(parameter: Any) -> int:
    """Scales and quantiles that bitsandbytes keeps beside a quantised parameter."""
    state = getattr(parameter, "quant_state", None)
    return 0 if state is None else state.absmax.nbytes + state.code.nbytes


def activation_bytes(call: Callable[[], object]) -> int:
    """The most bytes that one call allocates and holds at a time, by torch's profiler; CPU memory only.

    Ignored: what libraries allocate past torch's allocator (oneDNN's and fbgemm's scratch).
    """
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        out = call()
    del out
    return _most_held(recorded.profiler.kineto_results.events())


def _most_held(events: Any) -> int:
    changes = sorted((e.start_ns(), e.nbytes()) for e in events if e.name() == "[memory]")
    held = most = 0
    for _, change in changes:
        held += change
        most = max(most, held)
    return most
