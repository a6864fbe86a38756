"""Published collectives: columns op, n_gpus and bytes, and how many devices a node has where there are several nodes."""

from dataclasses import replace

import numpy as np

from ridgepoint.prediction.physics.collective import (
    OPERATIONS,
    CollectiveParameters,
    collective_time,
    direct_kernels,
    links_of,
)
from ridgepoint.prediction.physics.device import Device
from ridgepoint.prediction.physics.optime import PhysicalTime
from ridgepoint.study.published.kind import Kind
from ridgepoint.study.published.table import Floats, Mask, Table, Texts

__all__ = ["COLLECTIVES"]

_PAIRS = "pairwise"
"""In the name of a topology: NVLink joins two devices, PCIe the pairs."""
_NOT_SUMMED = ("int8",)
"""Formats that switches do not add up."""


def _nodes(table: Table) -> Floats:
    return np.ceil(table.number("n_gpus") / table.number("devices_per_node", np.inf))


def _of_pairs(table: Table) -> Mask:
    return np.array([_PAIRS in str(name) for name in table.text("topology")], dtype=np.bool_)


def _seconds(device: Device, p: CollectiveParameters, dtype: str, table: Table) -> PhysicalTime:
    columns = (table.text("op"), table.text("framework"), table.number("devices_per_node", np.inf), _of_pairs(table))
    keys = list(zip(*(column.tolist() for column in columns), strict=True))
    n, size = table.number("n_gpus"), table.number("bytes")
    parts = {x: np.empty(len(table)) for x in ("seconds", "compute_s", "memory_s", "fixed_s")}
    for key in dict.fromkeys(keys):
        op, framework, devices_per_node, in_pairs = key
        mask = np.array([k == key for k in keys])
        links = links_of(device, devices_per_node)
        if in_pairs:
            links = replace(links, apart_bytes_per_s=device.pcie_bytes_per_s)
        if dtype in _NOT_SUMMED:
            links = replace(links, sums_in_switch=False)
        time = collective_time(links, p, op, n[mask], size[mask], direct_kernels(framework, device.arch))
        for part, values in parts.items():
            values[mask] = getattr(time, part)
    return PhysicalTime(**parts)


def _usable(table: Table) -> Mask:
    """Rows of operations that the time model knows.

    Left out are L40S with 4 and 8 devices: without peer-to-peer they reach 5 and 1.5 GB/s of 32, a quarter and a
    fourteenth of what two devices do, and larger messages are at times the faster ones.
    """
    broken = np.char.equal(np.char.lower(table.text("gpu")), "l40s") & (table.number("n_gpus") > 2)
    known = np.isin(table.text("op"), OPERATIONS)
    return known & ~broken & (table.text("suspect") != "1") & (table.number("latency_us") > 0)


def _regime(table: Table) -> Texts:
    size = np.where(table.number("bytes") <= 2**20, ", <=1 MiB", ", >1 MiB")
    return np.char.add(table.text("op"), size)


def _shape(table: Table) -> Texts:
    return np.char.add(np.char.add(table.text("n_gpus"), "x"), table.text("bytes"))


def _variant(table: Table) -> Texts:
    named = np.char.add(np.char.add(table.text("op"), " "), table.text("kernel"))
    between = np.where(table.number("n_gpus") > 2, " between pairs", " in pairs")
    paired = np.where(_of_pairs(table), between, "")
    return np.char.add(np.char.add(named, paired), np.where(_nodes(table) > 1, " across nodes", ""))


def _fixed(dtype: str) -> dict[str, float]:
    start = CollectiveParameters()
    return {name: getattr(start, name) for name in ("switch_s", "switch_share")} if dtype in _NOT_SUMMED else {}


COLLECTIVES = Kind(
    name="collective", columns=("op", "n_gpus", "bytes", "latency_us"), model=CollectiveParameters, seconds=_seconds,
    usable=_usable, regime=_regime, shape=_shape, variant=_variant, pools=False, fixed=_fixed,
)  # fmt: skip
