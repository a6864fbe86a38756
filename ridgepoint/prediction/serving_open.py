"""A server under requests that come when they come: each one's time to the first token and per token, as a fluid queue."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ridgepoint.prediction.serving import Engine, Load, Protocol, Served, Steps, closed_loop
from ridgepoint.prediction.serving_parameters import ServingParameters

__all__ = ["Requests", "ServedRequests", "open_loop"]

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Requests:
    """Requests in the order of their arrival: seconds since the first, tokens of prompt and answer."""

    arrival_s: Floats
    isl: Floats
    osl: Floats

    @property
    def held_tokens(self) -> float:
        """Tokens that a running sequence holds, in the mean over time: long answers run longer."""
        return float(np.average(self.isl + self.osl / 2, weights=self.osl))


@dataclass(frozen=True, slots=True)
class ServedRequests:
    """By request; `saturated`: whether requests came faster than they could be served."""

    ttft_s: Floats
    tpot_s: Floats
    latency_s: Floats
    running: float
    saturated: bool


def open_loop(steps: Steps, requests: Requests, engine: Engine, p: ServingParameters) -> ServedRequests:
    """Sequences start in order: at once while there is a slot, then as fast as tokens are made.

    A saturated server makes B / TPOT tokens a second, both those of a closed loop of as many users as it has slots with
    the requests' mean lengths; request i starts when all tokens before it but those still running are made. One that is
    not saturated runs as many sequences as Little's law has. All requests have the same TPOT.
    Ignored: spread of lengths in one batch, preemption, bursts shorter than an answer.
    """
    isl, osl = float(requests.isl.mean()), float(max(requests.osl.mean(), 2.0))
    context_isl = max(requests.held_tokens - osl / 2, 1.0)
    slots = float(np.min(engine.slots))
    full = _loop(steps, slots, context_isl, osl, engine, p)
    span = float(requests.arrival_s[-1] - requests.arrival_s[0])
    rate = (len(requests.isl) - 1) / span if span > 0 else np.inf
    tokens_per_s = float(full.running / full.tpot_s)
    saturated = bool(rate * osl > tokens_per_s)
    served = full if saturated else _little(steps, rate, slots, context_isl, osl, engine, p)
    start = _starts(requests, slots, osl, tokens_per_s) if saturated else requests.arrival_s
    share = requests.isl / isl
    own = float(served.step_s) * 1.5 + share * float(served.prompt_s)
    ttft = start - requests.arrival_s + p.request_s + p.prompt_token_s * requests.isl + own
    tpot = np.full(len(ttft), float(served.tpot_s))
    return ServedRequests(ttft, tpot, ttft + np.maximum(requests.osl - 1, 0) * tpot, float(served.running), saturated)


def _loop(steps: Steps, users: float, isl: float, osl: float, engine: Engine, p: ServingParameters) -> Served:
    always = Protocol(rounds=np.inf)
    return closed_loop(steps, Load(users, isl, osl), Engine(users, engine.scheduler, engine.chunk), p, always)


def _little(
    steps: Steps, rate: float, slots: float, isl: float, osl: float, engine: Engine, p: ServingParameters
) -> Served:
    users = 1.0
    served = _loop(steps, users, isl, osl, engine, p)
    for _ in range(12):
        users = float(np.clip(0.5 * users + 0.5 * rate * float(served.latency_s), 1.0, slots))
        served = _loop(steps, users, isl, osl, engine, p)
    return served


def _starts(requests: Requests, slots: float, osl: float, tokens_per_s: float) -> Floats:
    before = np.cumsum(requests.osl) - slots * osl
    return np.maximum(requests.arrival_s, requests.arrival_s[0] + np.maximum(before, 0.0) / tokens_per_s)
