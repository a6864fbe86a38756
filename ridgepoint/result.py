"""What a prediction and a measurement have in common, so that one can be subtracted from the other."""

from dataclasses import dataclass, field
from typing import Any, Literal

__all__ = ["METRICS", "Bound", "Metric", "OpRow", "Result", "Value"]

Kind = Literal["predicted", "measured"]
Bound = Literal["compute", "memory", "cache", "dispatch", "network", ""]


@dataclass(frozen=True, slots=True)
class Metric:
    """A thing we report: its unit, which way is better, and the id of the definition that was used."""

    label: str
    unit: str
    better: Literal["lower", "higher"]
    definition: str


METRICS: dict[str, Metric] = {
    "latency_s": Metric("latency", "s", "lower", "step.v1: one forward step to the logits, no sampling"),
    "tokens_per_s": Metric("tokens/s", "1/s", "higher", "throughput.v1: new tokens of the step / latency"),
    "memory_bytes": Metric(
        "memory", "B", "lower", "memory.v2: weights as stored + KV cache + activations held at once"
    ),
    "resident_bytes": Metric(
        "resident memory", "B", "lower", "resident.v1: peak of the process less what it held before it built the model"
    ),
    "compile_s": Metric(
        "compilation",
        "s",
        "lower",
        "compile.v1: first step less a second; compiler started, nothing cached by earlier processes",
    ),
    "energy_j": Metric("energy", "J", "lower", "energy.v1: joules per step, idle included"),
}
"""A row here is all that a new metric needs: tables, database columns and charts follow."""


@dataclass(frozen=True, slots=True)
class Value:
    """One metric: expected value, the ends of its interval (80 % unless `method` says otherwise) and its method."""

    value: float
    low: float
    high: float
    method: str


@dataclass(frozen=True, slots=True)
class OpRow:
    """Time of one operator of the step, all its `count` calls together, and what bounds it."""

    name: str
    kind: str
    role: str
    kernel: str
    count: int
    time_s: float
    low_s: float
    high_s: float
    bound: Bound
    flops: float
    bytes: float


@dataclass(frozen=True, slots=True)
class Result:
    """One cell of workload x step x side x target: metrics in base units and the why behind them."""

    kind: Kind
    workload: str
    step: str
    side: str
    target: str
    metrics: dict[str, Value | None]
    """None: absent, with the reason in `absent`."""
    ops: tuple[OpRow, ...] = ()
    absent: dict[str, str] = field(default_factory=dict)
    flags: tuple[str, ...] = ()
    provenance: dict[str, Any] = field(default_factory=dict)

    @property
    def latency_s(self) -> float:
        """Seconds per step; every result has it."""
        value = self.metrics["latency_s"]
        assert value is not None, "a result without latency is a bug"
        return value.value
