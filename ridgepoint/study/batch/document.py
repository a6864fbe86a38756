"""The documents of a batch study: what was predicted and stored, what was measured, and the curve that follows."""

from typing import Any, Literal

import msgspec

__all__ = [
    "BatchAnswer",
    "BatchBet",
    "BatchPoint",
    "CurvePoint",
    "KneeCard",
    "PaperCurve",
    "SloCard",
    "WallCard",
    "batch_answer_from",
    "batch_bet_from",
    "batch_plain",
    "batch_point_from",
]  # fmt: skip


class KneeCard(msgspec.Struct, frozen=True, kw_only=True):
    """The knee on the grid with its 80 % interval, and the end of the grid that it is at ("" for none)."""

    batch: int
    low: int
    high: int
    end: Literal["", "first", "last"] = ""


class WallCard(msgspec.Struct, frozen=True, kw_only=True):
    """Where memory ends: the largest batch whose predicted need fits `room_bytes`, 0 where not even one sequence does."""

    batch: int
    need_bytes: float
    """Of that batch; of batch 1 where none fits."""
    room_bytes: float
    """What may be used."""
    of: str
    """Whose memory it is, in words."""
    searched: bool = False
    """Every batch that was tried fits: the wall lies beyond."""


class SloCard(msgspec.Struct, frozen=True, kw_only=True):
    """The largest batch that keeps the objective, 0 for none, with its 80 % interval; found on all batches, not the grid."""

    metric: str
    bound_s: float
    batch: int
    low: int
    high: int
    at_end: bool = False
    """It is the largest batch that was asked about, so the true one may lie beyond."""
    tokens_per_s: float = 0.0
    """There."""


class PaperCurve(msgspec.Struct, frozen=True, kw_only=True):
    """What was predicted at each batch of the grid: step time with its 80 % interval, memory, what bounds it, energy."""

    batch: tuple[int, ...]
    seconds: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    tokens: tuple[float, ...]
    """New tokens of a step."""
    memory_bytes: tuple[float, ...]
    bound: tuple[str, ...]
    """What most of the step waits for."""
    roofline_s: tuple[float | None, ...]
    energy_j: tuple[float | None, ...]
    """Of a step, by a power model; None where the target has none."""
    flops: tuple[float, ...] = ()
    """Of a training step: those that the model needs, without what is recomputed."""
    peak_flops_per_s: float | None = None
    """What a utilisation of 1 would be; None where the target has no peak for the dtype, and of other steps."""


class BatchBet(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that was stated before the first measurement."""

    model: str
    shape: dict[str, Any] = {}
    """The workload noun in full, so that the record needs no file beside it."""
    random_weights: bool
    phase: str
    context: int
    new: int
    side: str
    device: str
    target: str
    target_date: str
    machine_id: str
    grid: tuple[int, ...]
    capped: str
    """What ended the grid, in words."""
    points: int
    """How many batches will be measured."""
    curve: PaperCurve
    knee: KneeCard
    wall: WallCard | None
    """None where the memory of the target is not known."""
    slo: SloCard | None
    definitions: dict[str, str]
    statement: str
    flags: tuple[str, ...] = ()


class BatchPoint(msgspec.Struct, frozen=True, kw_only=True):
    """One batch, predicted and measured; a measurement that failed is None with the reason in `flags`."""

    batch: int
    tokens: float
    predicted_s: float
    predicted_low_s: float
    predicted_high_s: float
    predicted_memory_bytes: float
    measured_s: float | None = None
    measured_low_s: float | None = None
    measured_high_s: float | None = None
    method: str = ""
    steps: int = 0
    load: str = ""
    memory_bytes: float | None = None
    energy_j: float | None = None
    energy_low_j: float | None = None
    energy_high_j: float | None = None
    energy_method: str = ""
    """How, or why not."""
    out_of_memory: bool = False
    flags: tuple[str, ...] = ()
    record: str = ""


class CurvePoint(msgspec.Struct, frozen=True, kw_only=True):
    """One batch of the curve as it is known in the end, prediction and measurements weighed by their errors; `how` tells whether
    the batch itself was measured, and its `BatchPoint` what was measured."""

    batch: int
    seconds: float
    low: float
    high: float
    """80 %."""
    tokens_per_s: float
    how: Literal["measured", "scaled prediction", "prediction"]
    fits: bool = True


class BatchAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """What `ridge batch --json` prints and its report shows."""

    id: str
    """The bet's record."""
    created: str
    digest: str
    bet: BatchBet
    points: tuple[BatchPoint, ...]
    curve: tuple[CurvePoint, ...]
    knee: KneeCard
    slo: SloCard | None
    ran_out_at: int | None
    """The smallest batch at which memory ran out while measuring."""
    energy: dict[str, Any]
    loss: dict[str, Any] = {}
    """Of training: what a second of it is worth at each measured batch; empty where it was not asked for."""
    error: float | None
    """Mean of |predicted / measured - 1| of step times."""
    verdict: str
    complete: bool = True
    flags: tuple[str, ...] = ()
    machine: dict[str, Any] = {}
    versions: dict[str, str] = {}


def batch_plain(document: BatchAnswer | BatchBet | BatchPoint) -> dict[str, Any]:
    """The document as JSON-ready values."""
    value = msgspec.to_builtins(document)
    assert isinstance(value, dict)
    return value


def batch_bet_from(body: dict[str, Any]) -> BatchBet:
    """A stored bet back as a noun."""
    return msgspec.convert(body, BatchBet)


def batch_point_from(body: dict[str, Any]) -> BatchPoint:
    """A stored point back as a noun."""
    return msgspec.convert(body, BatchPoint)


def batch_answer_from(body: dict[str, Any]) -> BatchAnswer:
    """A stored answer back as a noun."""
    return msgspec.convert(body, BatchAnswer)
