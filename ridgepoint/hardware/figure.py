"""Figures and facts of a datasheet: which there are, and that each carries its scope and its source."""

import msgspec

__all__ = ["ECC", "FACTS", "FIGURES", "Fact", "Figure"]

FIGURES: dict[str, str] = {
    "sm_count": "streaming multiprocessors, compute units, Xe cores or cores of the device",
    "boost_clock_hz": "highest clock that the vendor states",
    "base_clock_hz": "clock that the vendor guarantees under load",
    "tensor_clock_hz": "clock at which the stated peaks of tensor cores hold, where it is not the boost clock",
    "shared_memory_bytes": "shared memory (LDS) of one multiprocessor, the most that it can be configured to",
    "tdp_w": "power limit of the device as delivered",
    "link_bytes_per_s": "of all links to other devices of the same node together, one direction",
    "pcie_bytes_per_s": "to the host, one direction",
    "dram_stream_share": "of the DRAM's datasheet bandwidth, what this card leaves to a stream beside what its class attains",
    "dies": "dies that work as the one device that a program sees",
}
"""By name, base unit in it. A figure that no source states is left out of a target."""

FACTS = ("release", "memory", "ecc", "link", "fabric", "form", "process", "chip")
"""Words of a datasheet: month of release (2022-03), kind of memory (HBM3), ecc ("inline": its code takes a part of the memory
and of its bandwidth), link (NVLink 4), fabric that joins the devices of a node ("nvswitch", "mesh", "bridge", "pcie",
"none"), form (SXM5, PCIe), process, name of the chip."""

ECC = ("inline", "apart")
"""Where a card's error correction lives: in the data's memory, or beside it; a card without the fact has none or apart."""


class Figure(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One number of a datasheet in the base unit of its name; `scope` says of what (die, package, device, node)."""

    name: str
    value: float
    scope: str
    source: str


class Fact(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One word of a datasheet."""

    name: str
    text: str
    source: str
