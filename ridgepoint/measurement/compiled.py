"""torch.compile: a step compiled once, with the seconds that it took and what of it stayed outside of the graph."""

import time
import warnings
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from typing import Any

from ridgepoint.errors import NotSupported

__all__ = ["Compiled", "compiled", "forget"]


@dataclass(frozen=True, slots=True)
class Compiled:
    """`step` in place of the eager one; `seconds` of its first call less those of a second; `breaks` in its graph."""

    step: Callable[[Any], object]
    """To be called inside of the same `around`."""
    seconds: float
    graphs: int
    breaks: int

    @property
    def flags(self) -> tuple[str, ...]:
        """What a reader of its time must know."""
        if not self.breaks:
            return ()
        graphs, breaks = ("graph" if self.graphs == 1 else "graphs"), ("break" if self.breaks == 1 else "breaks")
        return (f"compiled as {self.graphs} {graphs}: {self.breaks} graph {breaks}, each a return to Python",)


Around = Callable[[Callable[[Any], object]], Callable[[Any], object]]


def compiled(step: Callable[[Any], object], model: Any, around: Around = lambda call: call) -> Compiled:
    """`step` compiled with torch's defaults and static shapes, without the caches of earlier processes.

    It is called inside of `around`, a decorator, as it will be later: what a graph may assume depends on it.

    Raises NotSupported with the compiler's reason where it gives up, as without a C++ compiler.
    """
    import torch
    from torch._dynamo.utils import counters
    from torch._inductor import config

    _start()
    counters.clear()
    made = torch.compile(step, dynamic=False)
    call = around(made)
    begin = time.perf_counter()
    try:
        with config.patch(force_disable_caches=True), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch says that the caches are off, which was asked for
            call(model)
    except Exception as error:  # its own tree of errors has no common root beside this
        raise NotSupported(f"torch.compile: {_first_line(error)}") from None
    first = time.perf_counter() - begin
    begin = time.perf_counter()
    call(model)
    second = time.perf_counter() - begin
    graphs = int(counters["stats"].get("unique_graphs", 0))
    if not graphs:
        raise NotSupported("torch.compile made no graph of the step: all of it would run as in eager mode")
    return Compiled(made, first - second, graphs, sum(counters["graph_break"].values()))


@cache
def _start() -> None:
    """The compiler's own start, once a process: it loads itself and prepares the C++ compiler's headers."""
    import torch
    from torch._inductor import config

    with config.patch(force_disable_caches=True), warnings.catch_warnings(), suppress(Exception):
        warnings.simplefilter("ignore")
        torch.compile(lambda x: x + 1, dynamic=False)(torch.ones(64))


def forget() -> None:
    """Drop what was compiled before: of one function torch compiles eight versions, and runs the ninth as it is."""
    import torch

    torch._dynamo.reset()


def _first_line(error: Exception) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()]
    return (lines[0] if lines else type(error).__name__)[:300]
