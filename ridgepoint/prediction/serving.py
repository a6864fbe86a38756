"""A loaded server on paper: time to the first token, time per token and throughput of a closed loop of users.

Arrays in, arrays out: users, prompt and answer lengths broadcast.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from ridgepoint.errors import BadInput
from ridgepoint.prediction.serving_parameters import ServingParameters
from ridgepoint.quantity import Array

__all__ = ["PROTOCOL", "Engine", "Load", "Protocol", "Scheduler", "Served", "Steps", "closed_loop"]

Floats = npt.NDArray[np.float64]

Scheduler = Literal["mixed", "prefill-first"]
"""`mixed`: a step computes chunks of prompts beside the tokens of running sequences (vLLM's chunked prefill, in-flight
batching of TensorRT-LLM); `prefill-first`: prompts have steps of their own, which go before (SGLang)."""

PROTOCOL = (
    "closed-loop.v1: a fixed number of users, each sends its next request when the last is answered; like lengths; means "
    "over all requests of all rounds, the first of which comes all at once; TTFT from sending to the first token, "
    "TPOT = (end - first token) / (tokens - 1)"
)
"""Definition id of what is predicted, and what it stands for."""


@dataclass(frozen=True, slots=True)
class Load:
    """`users` at once, each with prompts of `isl` and answers of `osl` tokens; scalars, or arrays that broadcast."""

    users: Array
    isl: Array
    osl: Array

    def __post_init__(self) -> None:
        for name, least in (("users", 1), ("isl", 1), ("osl", 2)):
            value = np.asarray(getattr(self, name), float)
            if not np.all((value >= least) & (value <= 2.0**27)):
                raise BadInput(
                    f"{name} of a loaded server: possible is {least} to {2**27}; got {np.min(value):g} to {np.max(value):g}"
                )


@dataclass(frozen=True, slots=True)
class Protocol:
    """The parts of `PROTOCOL` that can be otherwise. `rounds`: requests of each user, of which the first all come at once;
    infinite for a server that has run for long."""

    rounds: float = 10.0


@dataclass(frozen=True, slots=True)
class Engine:
    """How the server is set up: `slots` sequences of users run at most at once (its largest batch, and what its cache has
    room for), a step takes at most `chunk` tokens of prompts."""

    slots: Array
    scheduler: Scheduler = "mixed"
    chunk: Array = 8192.0


@dataclass(frozen=True, slots=True)
class Steps:
    """Times of the device's steps as functions of arrays that broadcast.

    `decode_s(sequences, context)`: one token for each sequence. `prompt_s(sequences, context, new, cached)`: what a prompt's
    chunk of `new` tokens behind `cached` ones adds to such a step; with 0 sequences the chunk alone.
    """

    decode_s: Callable[[Array, Array], Array]
    prompt_s: Callable[[Array, Array, Array, Array], Array]
    layers: int
    stages: int = 1
    """Of a pipeline: each works on another part of the batch, and a sequence passes all of them for a token."""


@dataclass(frozen=True, slots=True)
class Served:
    """What users see, and its parts. All arrays have one shape."""

    ttft_s: Array
    tpot_s: Array
    latency_s: Array
    """Of a request: TTFT + (osl - 1) TPOT."""
    tokens_per_s: Array
    """Answers of all users together."""
    running: Array
    """Sequences that decode at a time, in the mean."""
    step_s: Array
    """A decode step, its host time included."""
    host_s: Array
    """Of it what is not operators."""
    prompt_s: Array
    """What one prompt adds to the steps of the others."""
    slot_wait_s: Array
    """Wait for a free slot, in the mean."""
    front_end: Array
    """Share of the time that the front end is busy; 1 where it sets the pace."""
    burst_s: Array
    """TTFT of the first round, whose prompts all come at once."""


_GRID = np.array([0.0, 0.04, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0])
_TURNS = 16


def closed_loop(
    steps: Steps, load: Load, engine: Engine, p: ServingParameters, protocol: Protocol = Protocol()
) -> Served:
    """Means over the requests of a closed loop.

    While each user has one request answered, the engine runs N steps and reads the prompts of all C users, each of which
    adds x to a step of t: the cycle is N t + C x. A user spends it on the way (`request_s`, reading the prompt), on half a
    step that is at work, on the steps of the own prompt, and on osl - 1 steps of its answer, which prompts of others stall:
    TPOT = t + x (C - 1) / N. That is a quadratic in N. There are more steps where slots are fewer than users, and where
    prompts fill the steps. t is that of C (osl - 1) / N sequences (Little's law). The front end is one thread that hands
    out tokens; where it needs longer than the engine, it sets the pace: a part of that delay keeps users away from the
    engine, the rest spreads their tokens. The first round queues behind itself.
    Ignored: spread of lengths, preemption, prefix caching, speculation.
    """
    users, isl, osl, slots, chunk = (
        np.asarray(x, float) for x in np.broadcast_arrays(load.users, load.isl, load.osl, engine.slots, engine.chunk)
    )
    if np.any(slots < 1):
        raise BadInput("no slot is left for a user: the cache or the largest batch has room for less than one sequence")
    most = np.minimum(users, slots)
    cost = _costs(steps, most, isl, osl, chunk, engine.scheduler, p)
    front = users * p.token_s * osl
    running, late = most, np.zeros_like(most)
    for _ in range(_TURNS):
        x = _cycle(cost, running, late, users, slots, isl, osl, p)
        running = np.clip(0.5 * running + 0.5 * users * (osl - 1) / x.count, 1.0, most)
        late = np.maximum(0.0, late + 0.5 * (front - x.cycle_s - (1 - p.late_share) * late))
    x = _cycle(cost, running, late, users, slots, isl, osl, p)
    answer = np.minimum(x.answer_s + (1 - p.late_share) * late, np.maximum(x.answer_s, front * most / users))
    cycle = np.maximum(x.cycle_s + answer - x.answer_s, front)
    burst = _burst_s(cost, most, isl, p)
    ttft = cycle - answer
    ttft = ttft + (burst - np.minimum(ttft, burst)) / protocol.rounds
    step, device = cost.step_s(running)
    return Served(
        ttft[()], (answer / (osl - 1))[()], (ttft + answer)[()], (users * osl / (ttft + answer))[()], running[()], step[()],
        (step - device)[()], x.stall_s[()], x.wait_s[()], np.minimum(front / cycle, 1.0)[()], burst[()],
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Costs:
    """Times by the number of running sequences: device times at the points of `_GRID` between 1 and the most."""

    most: Floats
    device_s: Floats
    prompt_s: Floats
    """What a prompt adds to the device's time, all its chunks together."""
    floor_s: float
    """Least time of a step with a prompt: its launches."""
    chunks: Floats
    shared: Floats
    """Prompts that one step has room for; below 1 for those that take several."""
    alone: bool
    """Whether prompts have steps of their own."""
    p: ServingParameters
    layers: int

    def step_s(self, running: Floats) -> tuple[Floats, Floats]:
        """A decode step, and its device time."""
        where = (running - 1) / np.maximum(self.most - 1, 1e-9)
        right = np.clip(np.searchsorted(_GRID, where), 1, len(_GRID) - 1)
        left_s, right_s = (np.take_along_axis(self.device_s, x[None], 0)[0] for x in (right - 1, right))
        share = np.clip((where - _GRID[right - 1]) / (_GRID[right] - _GRID[right - 1]), 0.0, 1.0)
        device = left_s + share * (right_s - left_s)
        return device + self.p.step_s + self.p.layer_s * self.layers + self.p.sequence_s * running, device

    def stall_s(self, step: Floats) -> Floats:
        """What a prompt adds to the steps that it is in."""
        beside = np.zeros_like(step) if self.alone else step
        return self.chunks * np.maximum(self.prompt_s / self.chunks, self.floor_s - beside)

    @property
    def own_steps(self) -> Floats:
        """Steps of running sequences that a prompt is a part of."""
        return np.zeros_like(self.chunks) if self.alone else self.chunks

    @property
    def full_steps(self) -> Floats:
        """Steps of running sequences that a prompt fills."""
        return np.zeros_like(self.chunks) if self.alone else 1 / self.shared


def _costs(
    steps: Steps, most: Floats, isl: Floats, osl: Floats, chunk: Floats, scheduler: Scheduler, p: ServingParameters
) -> _Costs:
    context = isl + (osl + 1) / 2
    points = 1 + _GRID.reshape(-1, *([1] * most.ndim)) * (most - 1)
    device = np.asarray(steps.decode_s(points / steps.stages, context), float)
    device = np.maximum.accumulate(np.broadcast_to(device, points.shape), axis=0)
    chunks = np.ceil(isl / chunk)
    new = isl / chunks
    alone = scheduler == "prefill-first"
    beside = np.zeros_like(most) if alone else most / steps.stages
    added = chunks * np.asarray(steps.prompt_s(beside, context, new, (isl - new) / 2), float)
    return _Costs(
        most, device, np.broadcast_to(added / steps.stages, most.shape), p.prompt_layer_s * steps.layers / steps.stages,
        chunks, chunk / isl, alone, p, steps.layers,
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Cycle:
    """The engine's cycle: its steps, its time, that of an answer in it, a prompt's cost, and the wait for a slot."""

    count: Floats
    cycle_s: Floats
    answer_s: Floats
    stall_s: Floats
    wait_s: Floats


def _cycle(
    cost: _Costs, running: Floats, late: Floats, users: Floats, slots: Floats, isl: Floats, osl: Floats,
    p: ServingParameters,
) -> _Cycle:  # fmt: skip
    """N of `closed_loop` is the positive root, or more where slots or room for prompts in steps are short."""
    step, _ = cost.step_s(running)
    stall = cost.stall_s(step)
    mine = cost.own_steps + osl - 1
    away = p.request_s + p.prompt_token_s * isl + p.late_share * late
    half = ((users - 1) * stall - away - (mine + 0.5) * step) / (2 * step)
    root = np.sqrt(half * half + stall * ((mine + 0.5) * (users - 1) + 0.5) / step) - half
    count = np.maximum(np.maximum(root, mine * users / slots), cost.full_steps * users)
    cycle = count * step + users * stall
    wait = np.where(count > root, (count - root) / count * cycle, 0.0)
    return _Cycle(count, cycle, (osl - 1) * (step + stall * (users - 1) / count), stall, wait)


def _burst_s(cost: _Costs, most: Floats, isl: Floats, p: ServingParameters) -> Floats:
    """Mean TTFT of the first round: prompts are read by as many as a step takes, one group after the other."""
    group = np.clip(np.floor(cost.shared), 1.0, most)
    each = np.maximum(cost.prompt_s, cost.chunks * cost.floor_s / group)
    return p.request_s + p.prompt_token_s * isl + (most + group) / 2 * each
