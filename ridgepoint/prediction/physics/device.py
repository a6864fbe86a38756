"""What the time models need of a target, as plain numbers: units, clocks, rates, sizes."""

from collections.abc import Mapping
from dataclasses import dataclass

from ridgepoint.errors import NotSupported
from ridgepoint.hardware import Target

__all__ = ["INLINE_ECC", "Device", "device_of"]

INLINE_ECC = 0.88
"""Of the bandwidth that a stream would reach, what is left where error correction lives in the data's own memory: the
median of what kernels attain on L40S (GDDR6, inline) over what the same stacks' kernels attain on GPUs without it."""


@dataclass(frozen=True, slots=True)
class Device:
    """One device (one GPU, one GCD) by its datasheet. Peaks are dense, at the clock that the vendor states them for."""

    name: str
    arch: str
    sm_count: int
    clock_hz: float
    """Boost clock."""
    dram_bytes_per_s: float
    l2_bytes: float
    tdp_w: float
    tensor_flops_per_s: Mapping[str, float]
    """By the dtype of the products: fp16, bf16, fp8, int8, fp4…; empty without tensor cores."""
    vector_flops_per_s: Mapping[str, float]
    """By dtype, of the ordinary units."""
    link_bytes_per_s: float | None = None
    """Of all links to other devices of the node, one direction."""
    pcie_bytes_per_s: float | None = None
    """To the host, one direction."""
    fabric: str = ""
    """What joins the devices of a node: "nvswitch", "mesh", "bridge", "pcie"; "" where no source says."""
    stream_share: float = 1.0
    """Of the DRAM's datasheet bandwidth, what this card's memory leaves to a stream beside what its class attains: a
    figure of the target, else `INLINE_ECC` where its facts say so, else 1."""

    sparse_dtypes: tuple[str, ...] = ()
    """Dtypes whose products its tensor cores skip where two of four weights are zero."""

    @property
    def stream_bytes_per_s(self) -> float:
        """DRAM bandwidth of which a class's parameters attain their `dram_share`."""
        return self.dram_bytes_per_s * self.stream_share


def device_of(target: Target) -> Device:
    """The figures that every time model needs; raises NotSupported naming those that the target lacks."""
    needed = {name: target.figure(name) for name in ("sm_count", "boost_clock_hz", "tdp_w")}
    levels = {level.name: level for level in target.levels if level.threads == 1}
    dram, l2 = levels.get("DRAM"), levels.get("L2")
    needed["DRAM bandwidth"] = dram.read_bytes_per_s if dram else None
    needed["L2 size"] = l2.bytes if l2 else None
    absent = [name for name, value in needed.items() if value is None]
    if absent:
        raise NotSupported(
            f"{target.name}: {', '.join(absent)} absent from its figures, which a prediction needs; "
            f"`ridge targets {target.name}` shows what there is; a target file of your own in the data folder can add them"
        )
    rates = {
        unit: {p.dtype: p.flops_per_s for p in target.peaks if p.unit == unit and not p.sparse}
        for unit in ("tensor", "vector")
    }
    found = {name: value or 0.0 for name, value in needed.items()}
    facts = {fact.name: fact.text for fact in target.facts}
    inline = INLINE_ECC if facts.get("ecc") == "inline" else 1.0
    return Device(
        target.name, target.arch, int(found["sm_count"]), found["boost_clock_hz"], found["DRAM bandwidth"],
        found["L2 size"], found["tdp_w"], rates["tensor"], rates["vector"], target.figure("link_bytes_per_s"),
        target.figure("pcie_bytes_per_s"), facts.get("fabric", ""), target.figure("dram_stream_share") or inline,
        tuple(dict.fromkeys(p.dtype for p in target.peaks if p.unit == "tensor" and p.sparse)),
    )  # fmt: skip
