"""A kind of published table: which columns it has, which time model predicts its rows, and how its rows are told apart."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ridgepoint.prediction.physics.device import Device
from ridgepoint.prediction.physics.optime import PhysicalTime
from ridgepoint.prediction.physics.parameters import Parameters
from ridgepoint.study.published.table import Floats, Mask, Table, Texts

__all__ = ["Kind", "datasheet_seconds"]


def _nothing(_: str) -> dict[str, float]:
    return {}


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind; one file of this folder defines it."""

    name: str
    """As the operator in architecture files: "gemm", "attention_decode"."""
    columns: tuple[str, ...]
    """What a table must have to be of this kind."""
    model: type[Parameters]
    seconds: Callable[[Device, Any, str, Table], PhysicalTime]
    """Time of every row of a table of one dtype (the third argument, in our spelling) on one device."""
    usable: Callable[[Table], Mask]
    """Rows that can be scored: what is flagged as suspect or known as wrong is left out, and counted."""
    regime: Callable[[Table], Texts]
    """Which kind of shape each row is, as "m<=64"."""
    shape: Callable[[Table], Texts]
    """What leave-shape-out leaves out together, as "4096x11008": never split between fit and score."""
    variant: Callable[[Table], Texts]
    """What else needs parameters of its own besides gpu class, dtype, framework and version, as the kernel; "" mostly."""
    pools: bool = True
    """Whether variants are kernels for the same work, so that what all share says something of one that nobody measured;
    False where they are operators of their own."""
    fixed: Callable[[str], dict[str, float]] = _nothing
    """Parameters that a dtype does not have, at the value where they do nothing."""
    settled: Callable[[str], dict[str, float]] = _nothing
    """Parameters of a dtype that the classes which ship do not fit, at the value that physics gives them; a sweep of a
    user's own stack may."""

    def as_shipped(self) -> "Kind":
        """The kind with what is settled fixed."""
        return replace(self, fixed=lambda dtype: {**self.fixed(dtype), **self.settled(dtype)})


def datasheet_seconds(kind: Kind, device: Device, parameters: Any, dtype: str, table: Table) -> tuple[Floats, Floats]:
    """FLOPs / peak and compulsory bytes / bandwidth of each row: the two sides of the datasheet's roofline.

    As if there were no cache that a loop comes back to, and no power limit, whatever the parameters.
    """
    bare = replace(device, l2_bytes=1.0, tdp_w=1e12)
    time = kind.seconds(bare, parameters, dtype, table)
    return np.asarray(time.compute_s, float), np.asarray(time.memory_s, float)
