"""The memory wall: the largest batch whose predicted memory fits what is free."""

from dataclasses import replace

from ridgepoint.prediction import predict_memory
from ridgepoint.prediction.capacity import most
from ridgepoint.study.batch.document import WallCard
from ridgepoint.workload import Plan

__all__ = ["DEFINITION", "SHARE", "at_batch", "memory_wall", "need_bytes"]

DEFINITION = "wall.v1: largest batch whose predicted weights + KV cache + activations fill at most 90 % of the memory"
SHARE = 0.9
"""Of the memory that a step may fill: the rest is for what is not predicted, as `ridge why` leaves it."""
_MOST = 2**20


def at_batch(plan: Plan, batch: float) -> Plan:
    """The same plan with another number of sequences."""
    return replace(plan, step=plan.step.with_batch(batch))


def need_bytes(plan: Plan, batch: int) -> float:
    """Predicted memory of a step at that batch."""
    return float(predict_memory(at_batch(plan, batch)).total_bytes)


def memory_wall(plan: Plan, memory_bytes: float, of: str) -> WallCard:
    """Where memory ends for the plan's step; `of` says whose memory it is. Needs grow with the batch, so halving finds it."""
    room = SHARE * memory_bytes
    batch = most(lambda b: need_bytes(plan, b) <= room, _MOST)
    need = need_bytes(plan, max(batch, 1))
    return WallCard(batch=batch, need_bytes=need, room_bytes=room, of=of, searched=batch == _MOST)
