"""The nearest fit of what serving costs beside its operators, and the intervals that it gives."""

import numpy as np

from ridgepoint.hardware import Target
from ridgepoint.prediction.physics.device import device_of
from ridgepoint.prediction.physics.found import Found, Stack, find_fit
from ridgepoint.prediction.physics.parameters import read_parameters
from ridgepoint.prediction.serving import Served
from ridgepoint.prediction.serving_parameters import ServingParameters
from ridgepoint.quantity import Array

__all__ = ["interval_sigmas", "serving_fit"]


def serving_fit(target: Target, framework: str, version: str) -> tuple[ServingParameters, Found]:
    """The nearest fit of a stack's host; the format of the weights does not matter to it."""
    found = find_fit(device_of(target), "serving", ("bf16",), Stack(framework, version))
    return read_parameters(ServingParameters, found.fit.values, f"architecture class {found.arch}"), found


def interval_sigmas(p: ServingParameters, served: Served, elsewhere: float, found_sigma: float) -> dict[str, Array]:
    """Standard deviation of the log error of each metric: the server's own, and of what comes from elsewhere.

    A request's latency and the throughput are mostly (osl - 1) TPOT, so they err by their shares of both.
    """
    shift = elsewhere**2 + found_sigma**2
    tpot = np.sqrt(p.tpot_sigma**2 + shift)
    busy = np.square(served.front_end)  # delays of a queue grow late and fast
    own = p.ttft_sigma * (1 - busy) + p.ttft_busy_sigma * busy
    ttft = np.sqrt(own**2 + shift)
    share = served.ttft_s / served.latency_s
    latency = np.sqrt((share * ttft) ** 2 + ((1 - share) * tpot) ** 2)
    return {"tpot": tpot, "ttft": ttft, "latency": latency, "tokens_per_s": latency}
