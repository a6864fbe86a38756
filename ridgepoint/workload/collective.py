"""What devices that share a model tell each other: collectives, as operators of a step."""

from dataclasses import dataclass
from typing import Literal

from ridgepoint.quantity import Array
from ridgepoint.workload.op import Compulsory, Role, Sweep

__all__ = ["Collective", "CollectiveKind"]

CollectiveKind = Literal["all_reduce", "all_gather", "reduce_scatter", "alltoall", "send_recv"]


@dataclass(frozen=True, slots=True)
class Collective(Compulsory):
    """`devices` exchange `payload_bytes` each: of an all-reduce the tensor that every one holds before and after."""

    name: str
    collective: CollectiveKind
    payload_bytes: Array
    devices: int
    dtype: str
    count: int = 1
    role: Role = "other"
    sweep: Sweep = "forward"
    kind: str = "collective"

    @property
    def flops(self) -> Array:
        return 0.0 * self.payload_bytes

    @property
    def activation_bytes(self) -> Array:
        """Read once, written once."""
        return 2.0 * self.payload_bytes
