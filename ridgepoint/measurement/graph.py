"""CUDA graphs: work captured once and replayed, so that launching it costs the host almost nothing."""

from collections.abc import Callable
from contextlib import suppress
from functools import cache
from typing import Any

__all__ = ["Replay", "capture", "graphed"]


class Replay:
    """A captured step; calling it launches the whole graph. Holds the step, and so the tensors it reads."""

    def __init__(self, graph: Any, step: Callable[[], object]):
        self._graph, self._step = graph, step

    def __call__(self) -> None:
        self._graph.replay()


def graphed(step: Callable[[], object]) -> tuple[Callable[[], object], str]:
    """(the replay, "") or, where the step cannot be captured, (the step itself, the reason)."""
    try:
        return capture(step), ""
    except Exception as error:  # every way in which a capture fails has the same remedy: time it eagerly
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        return step, f"no CUDA graph, timed eagerly: {reason}"


def capture(step: Callable[[], object], warm: int = 2) -> Replay:
    """Capture `step` on a stream of its own after `warm` eager calls; it must not wait for the device inside.

    `torch.cuda.graph` does the same and also empties the allocator's cache each time, which a calibration that
    captures a thousand graphs cannot afford. Raises what torch raises.
    """
    import torch

    graph, stream = torch.cuda.CUDAGraph(), _stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.inference_mode(), torch.cuda.stream(stream):
        for _ in range(warm):
            step()
        torch.cuda.synchronize()
        graph.capture_begin()
        try:
            step()
        except BaseException:
            with suppress(RuntimeError):  # the broken capture has to be closed; its own error says nothing new
                graph.capture_end()
            raise
        graph.capture_end()
    torch.cuda.current_stream().wait_stream(stream)
    torch.cuda.synchronize()
    return Replay(graph, step)


@cache
def _stream() -> Any:
    """One side stream for all captures: each stream has its own memory in torch's allocator."""
    import torch

    return torch.cuda.Stream()
