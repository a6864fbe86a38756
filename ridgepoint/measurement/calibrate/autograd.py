"""Calibration of what torch's recording costs a call: one chain of small operators in inference mode, no-grad and grad."""

import time
from collections.abc import Iterator
from typing import Any

from ridgepoint.measurement.calibrate.pool import summarise

__all__ = ["autograd_samples"]

_CALLS = 40
_ROWS, _COLS = 4, 64


def autograd_samples(seconds: float) -> Iterator[dict[str, Any]]:
    """A sample per mode, the modes in turns: a chain of products and sums, as long as a small module, on 256 elements."""
    import torch

    modes = {"inference": torch.inference_mode, "no-grad": torch.no_grad, "grad": torch.enable_grad}
    samples: dict[str, list[int]] = {mode: [] for mode in modes}
    weight = torch.ones(_COLS, requires_grad=True)
    clock = time.thread_time_ns
    start = clock()
    while len(samples["grad"]) < _LEAST or clock() - start < seconds * 1e9:
        for mode, recording in modes.items():
            with recording():
                x = torch.ones(_ROWS, _COLS)
                before = clock()
                for _ in range(_CALLS // 2):
                    x = torch.relu(x * weight)
                samples[mode].append(clock() - before)
                del x  # and with it the graph, outside of the time: a step drops its graph when its result goes
    for mode, values in samples.items():
        timing = summarise(values)
        yield {
            "probe": "autograd", "mode": mode, "calls": _CALLS, "seconds": timing.seconds, "spread": timing.spread,
            "n_samples": timing.samples,
        }  # fmt: skip


_LEAST = 30
