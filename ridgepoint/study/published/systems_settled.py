"""Measured runs of servers grouped by server, each group with its target, plan and engine."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from ridgepoint.errors import RidgeError
from ridgepoint.hardware import Target, load_target
from ridgepoint.prediction.serving import Engine, Load, Steps
from ridgepoint.prediction.serving_engine import engine_of, stack_defaults
from ridgepoint.prediction.serving_steps import room_sequences, steps_of
from ridgepoint.study.published.systems_models import in_format, load_published
from ridgepoint.study.published.systems_serving import ServingRun
from ridgepoint.workload import Plan, decode

__all__ = ["Configuration", "configurations", "settled"]

_FILE_DTYPES = ("bf16", "fp16")


@dataclass(frozen=True)
class Configuration:
    """Runs of one server: the same machine, model, format, stack and split, with arrays of loads."""

    gpu: str
    target: Target
    plan: Plan
    runs: tuple[ServingRun, ...]
    engine: Engine

    @property
    def load(self) -> Load:
        """The runs' loads as arrays."""
        return Load(*(np.array([getattr(run, name) for run in self.runs]) for name in ("users", "isl", "osl")))

    @property
    def steps(self) -> Steps:
        """The steps of its model on its machine."""
        return steps_of(self.plan, self.target)


def configurations(runs: Sequence[ServingRun]) -> Iterator["Configuration | RidgeError"]:
    """Runs grouped by server, in the order of their first lines."""
    groups: dict[tuple[object, ...], list[ServingRun]] = {}
    for run in runs:
        key = (run.gpu, run.model, run.weight, run.framework, run.version, run.parallel)
        groups.setdefault(key, []).append(run)
    for members in groups.values():
        try:
            yield settled(members)
        except RidgeError as error:
            yield error


def settled(runs: Sequence[ServingRun]) -> Configuration:
    """One group of runs with its target, plan and engine; raises what refuses it."""
    first = runs[0]
    target, model = load_target(first.gpu), load_published(first.model)
    dtype = model.dtype if model.dtype in _FILE_DTYPES else "bf16"
    stack = ":".join(x for x in (first.framework, first.version) if x)
    plan = Plan(model, decode(1, 1), dtype, device="cuda", parallel=first.parallel, stack=stack, launch="graph")
    plan = in_format(plan, first.weight)
    isl, osl, most = (np.array([getattr(run, name) for run in runs]) for name in ("isl", "osl", "most_running"))
    room = room_sequences(plan, target, isl + osl / 2, reserve=stack_defaults(first.framework).reserve)
    engine = engine_of(
        first.framework, target.name, target.memory_bytes or 0.0, most, room, first.parallel.attention_dp
    )
    return Configuration(first.gpu, target, plan, tuple(runs), engine)
