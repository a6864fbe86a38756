"""Pools of like modules visited in turn, as a network visits its layers: their weights are cold when they come round."""

import random
import time
from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from functools import cache
from math import prod
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor, nn

__all__ = ["STREAM_BYTES", "Pool", "Timing", "fill", "filler", "summarise", "weight_stream"]


@dataclass(frozen=True, slots=True)
class Timing:
    """Robust time of one member: 20th percentile, relative interquartile range, number of samples."""

    seconds: float
    spread: float
    samples: int


@dataclass
class Pool:
    """`members`: (key, module) pairs; like modules share a key and are timed together."""

    members: list[tuple[tuple[int, ...], "nn.Module"]] = field(default_factory=list)
    bytes: float = 0.0

    def passes(
        self,
        call: Callable[[tuple[int, ...], "nn.Module"], Callable[[], object]],
        seconds: float,
        least: int,
        between: Callable[[tuple[int, ...]], object] | None = None,
    ) -> dict[tuple[int, ...], Timing]:
        """Time each member `least` times or more, until `seconds` of CPU time are used; returns {key: Timing}.

        `call(key, module)` gives the closure to time; it is prepared outside of the timed region. `between(key)` runs
        before each call and is not timed: it does to the caches what the rest of a network does, and makes the inputs
        of the call anew, as the operator before it would.
        """
        steps = [(key, call(key, module)) for key, module in self.members]
        for _, step in steps:
            step()
        samples: dict[tuple[int, ...], list[int]] = {key: [] for key, _ in steps}
        clock = time.thread_time_ns
        start, done = clock(), 0
        while done < least or clock() - start < seconds * 1e9:
            for key, step in steps:
                if between is not None:
                    between(key)
                before = clock()
                step()
                samples[key].append(clock() - before)
            done += 1
        cost = _clock_cost_ns()
        return {key: summarise(values, cost) for key, values in samples.items()}


def filler(*shape: int) -> "Tensor":
    """A new fp32 tensor of one random block, repeated: its values are ordinary, and making it costs a copy."""
    import torch

    count = prod(shape)
    block = torch.randn(min(count, _BLOCK), generator=torch.Generator().manual_seed(0))
    return block.repeat(-(-count // len(block)))[:count].view(shape)


_BLOCK = 2**16


@cache
def weight_stream(cache_bytes: float) -> Callable[..., object]:
    """Reads the next 4 MB of a buffer beyond the last-level cache: what a linear layer's weights do to the caches.

    Without it an operator of a few µs finds its code and data in L1 and takes half of what it takes in a network.
    """
    import torch

    slices = torch.ones(int(_STREAM_FACTOR * cache_bytes / STREAM_BYTES) + 1, STREAM_BYTES // 4)
    turn = 0

    def stream(key: tuple[int, ...] = ()) -> object:
        nonlocal turn
        turn = (turn + 1) % len(slices)
        return slices[turn].sum()

    return stream


STREAM_BYTES = 4 * 2**20
_STREAM_FACTOR = 2.0


def summarise(nanoseconds: Sequence[int], clock_cost_ns: float = 0.0) -> Timing:
    """Timing of raw samples, less what the clock itself costs."""
    low, quarter, median, three = np.percentile(nanoseconds, (20, 25, 50, 75))
    return Timing(max(low - clock_cost_ns, 1.0) * 1e-9, float((three - quarter) / median), len(nanoseconds))


def fill(bases: Sequence[tuple[tuple[int, ...], "nn.Module", float]], least_bytes: float, most: int = 400) -> Pool:
    """Copies of `bases` (key, module, bytes), one of each and then of the smaller half, until `least_bytes` are held."""
    pool = Pool([(key, module) for key, module, _ in bases], sum(size for _, _, size in bases))
    for key, module, size in _round_robin(bases[: max(1, (len(bases) + 1) // 2 + 1)]):
        if pool.bytes >= least_bytes or len(pool.members) >= most:
            break
        pool.members.append((key, deepcopy(module)))
        pool.bytes += size
    random.Random(0).shuffle(pool.members)
    return pool


def _round_robin(
    bases: Sequence[tuple[tuple[int, ...], "nn.Module", float]],
) -> Iterator[tuple[tuple[int, ...], "nn.Module", float]]:
    while True:
        yield from reversed(bases)


@cache
def _clock_cost_ns(calls: int = 2000) -> float:
    clock = time.thread_time_ns
    deltas = []
    for _ in range(calls):
        before = clock()
        deltas.append(clock() - before)
    return float(np.median(deltas))
