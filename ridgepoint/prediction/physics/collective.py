"""Time that devices take to exchange or add up tensors: rings, direct reads, sums in the switch, within and across nodes."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import numpy.typing as npt

from ridgepoint.errors import NotSupported
from ridgepoint.prediction.physics.device import Device
from ridgepoint.prediction.physics.optime import PhysicalTime
from ridgepoint.prediction.physics.parameters import Parameters, within
from ridgepoint.quantity import Array

__all__ = [
    "OPERATIONS", "CollectiveParameters", "Direct", "Links", "collective_time", "direct_kernels", "least_link_bytes",
    "links_of",
]  # fmt: skip

Floats = npt.NDArray[np.float64]

OPERATIONS = ("all_reduce", "all_gather", "reduce_scatter", "alltoall", "send_recv")
"""What `collective_time` knows. Bytes are those of: the tensor that every device holds before and after (all_reduce); the
whole gathered tensor (all_gather); the whole tensor that every device adds to (reduce_scatter); what one device sends, its
own part included (alltoall); the message (send_recv)."""


@dataclass(frozen=True, slots=True)
class Links:
    """What joins the devices that take part."""

    link_bytes_per_s: float
    """Of one device to the others of its node, one direction."""
    apart_bytes_per_s: float | None = None
    """The same where more than two devices take part and bridges join only two; None where all are joined alike."""
    sums_in_switch: bool = False
    """The switches add up what passes them (NVLS)."""
    copy_bytes_per_s: float = np.inf
    """Of the device's own memory."""
    devices_per_node: float = np.inf
    nic_bytes_per_s: float | None = None
    """Of one device to other nodes, one direction; None where no source says."""


@dataclass(frozen=True, slots=True)
class Direct:
    """Kernels of a framework that read the other devices' memory, for messages that are not larger than its limit."""

    framework: str
    from_hopper: bool
    """Seen on Hopper and newer classes; else on those before."""
    largest_bytes: Mapping[int, float]
    """By number of devices; of others the nearest below. Larger messages are left to NCCL."""
    two_shots: bool = True
    """Knows the way in two steps, each device adding up its part; else every device reads all."""
    in_switch: bool = False
    """Lets the switch add up where it can and there are at least four devices."""


class CollectiveParameters(Parameters, frozen=True, kw_only=True):
    """What one kind of exchange reaches on machines of one class, in one software stack."""

    launch_s: Annotated[float, within(5e-7, 1e-3, "s, of the kernel, before and after its steps")] = 5e-6
    quick_step_s: Annotated[float, within(5e-8, 1e-4, "s, of a step of the quickest protocol")] = 1e-6
    quick_share: Annotated[float, within(1e-3, 0.95, "of the link: what the quickest protocol reaches")] = 0.1
    middle_step_s: Annotated[float, within(1e-7, 1e-4, "s, of a step of the protocol for middle sizes")] = 1.5e-6
    middle_share: Annotated[float, within(0.01, 0.95, "of the link: what the protocol for middle sizes reaches")] = 0.5
    stream_s: Annotated[
        float, within(1e-6, 1e-3, "s, that the protocol for large sizes takes to fill its pipeline")
    ] = 4e-5
    link_share: Annotated[float, within(0.1, 0.97, "of the link: what the protocol for large sizes reaches")] = 0.8
    end_steps: Annotated[float, within(0.01, 3.0, "steps' worth of bytes that the first and last step add")] = 0.4
    switch_s: Annotated[float, within(1e-6, 1e-3, "s, of a sum in the switch, besides its bytes")] = 4e-5
    switch_share: Annotated[float, within(0.01, 0.97, "of the link: what a sum in the switch reaches")] = 0.6
    host_s: Annotated[float, within(1e-8, 1e-3, "s, of the host for one call, beside the device's")] = 1e-7
    copy_passes: Annotated[float, within(1e-3, 8.0, "times that the device moves the payload in its own memory")] = 0.1
    nic_bytes_per_s: Annotated[float, within(1e8, 4e11, "of one device to other nodes, where none is stated")] = 1e10
    nic_step_s: Annotated[float, within(1e-7, 1e-3, "s, of a step from node to node")] = 2e-5


_DIRECT = (
    Direct("vllm", False, {2: 4 * 2**20}),
    Direct("vllm", True, {2: 64 * 2**20, 4: 32 * 2**20, 8: 64 * 2**20}, in_switch=True),
    Direct("sglang", False, {2: 8 * 2**20}),
    Direct("sglang", True, {2: 16 * 2**20}),
    Direct("trtllm", False, {2: 2**20, 8: 2**19}, two_shots=False),
    Direct("trtllm", True, {2: 4 * 2**20, 4: 2**20, 8: 2**19}, two_shots=False),
)
"""Read off published tables, where the time jumps from one size to its double."""
_WITHOUT_SUMS = ("pascal", "volta", "turing", "ampere", "ada")
"""Classes before the third generation of NVSwitch, the first that adds up (NVIDIA H100 whitepaper, 2022)."""
_HOST_SHARPNESS = 4.0
"""Exponent that joins the host's time and the device's: one hides most of the other."""


def links_of(device: Device, devices_per_node: float = np.inf, nic_bytes_per_s: float | None = None) -> Links:
    """A device's links by its datasheet: those between devices, else PCIe; NotSupported where neither is known."""
    link = device.link_bytes_per_s or device.pcie_bytes_per_s
    if not link:
        raise NotSupported(
            f"{device.name}: neither link_bytes_per_s nor pcie_bytes_per_s among its figures, which the time of a collective "
            f"needs; a target file of your own in the data folder can add one"
        )
    sums = device.fabric == "nvswitch" and device.arch not in _WITHOUT_SUMS
    apart = device.pcie_bytes_per_s if device.fabric == "bridge" else None
    return Links(link, apart, sums, device.dram_bytes_per_s, devices_per_node, nic_bytes_per_s)


def direct_kernels(framework: str, arch: str) -> Direct | None:
    """The framework's own all-reduce on a class of machines; None where it has none, as NCCL itself."""
    newer = arch not in _WITHOUT_SUMS
    return next((d for d in _DIRECT if d.framework == framework and d.from_hopper == newer), None)


def least_link_bytes(op: str, n_gpus: Array, payload_bytes: Array, sums_in_switch: bool = False) -> Floats:
    """Bytes that every device has to send over its links whatever the algorithm (Patarasuk and Yuan 2009, section 2).

    Of an all-reduce with sums in the switch: its whole tensor, each element either as a term or as a finished sum.
    """
    n, size = np.asarray(n_gpus, dtype=np.float64), np.asarray(payload_bytes, dtype=np.float64)
    several = n > 1.0
    if op == "send_recv" or (op == "all_reduce" and sums_in_switch):
        return size * several
    return size * ((n - 1.0) / n * (2.0 if op == "all_reduce" else 1.0))


def collective_time(
    links: Links, p: CollectiveParameters, op: str, n_gpus: Array, payload_bytes: Array, direct: Direct | None = None
) -> PhysicalTime:
    """Time of a collective `op` of `n_gpus` devices (it and the bytes broadcast); what the bytes are: `OPERATIONS`.

    The fastest of three protocols of a ring, each with a latency and a share of the link, as NCCL has them (Hu et al.
    2025, arXiv 2507.04786), and of a sum in the switch; up to the limit of `direct`, one or two steps in which every
    device reads the others' memory. Across nodes a ring passes each network port once for each step, all
    devices' ports side by side. `memory_s` is the time of the fewest bytes at the link's full rate. One device takes no
    time. Ignored: what else uses the links, devices that arrive late, the number of channels, and that in a mesh two
    devices reach each other over a part of their links only.
    Raises NotSupported for another `op`.
    """
    if op not in OPERATIONS:
        raise NotSupported(f"no time model of a collective {op!r}; possible: {', '.join(OPERATIONS)}")
    n, size = np.broadcast_arrays(*(np.asarray(x, dtype=np.float64) for x in (n_gpus, payload_bytes)))
    n = np.maximum(n, 1.0)
    nodes = np.ceil(n / links.devices_per_node)
    network_s, network_bytes_s = _network(links, p, op, n, nodes, size)
    device_s = _ring(links, p, op, n, size, network_bytes_s, direct is None)
    if op == "all_reduce" and links.sums_in_switch:
        device_s = np.where(
            nodes > 1.0, device_s, np.minimum(device_s, p.switch_s + _summed(links, p.switch_share, n, size))
        )
    if op == "all_reduce" and direct is not None:
        limit = _limit(direct, n)
        inside = _direct(links, p, direct, n, np.minimum(size, limit))
        device_s = np.where((size <= limit) & (nodes <= 1.0), inside, np.maximum(device_s, inside * (nodes <= 1.0)))
    device_s = p.launch_s + network_s + device_s + p.copy_passes * size / links.copy_bytes_per_s
    several = n > 1.0
    seconds = several * np.power(
        np.power(p.host_s, _HOST_SHARPNESS) + np.power(device_s, _HOST_SHARPNESS), 1 / _HOST_SHARPNESS
    )
    least = least_link_bytes(op, n, size, links.sums_in_switch) / _rate(links, n)
    fixed = several * (p.launch_s + p.host_s + network_s + _steps(op, n) * p.quick_step_s)
    return PhysicalTime(seconds, np.zeros_like(seconds), np.maximum(least, network_bytes_s), fixed)


def _steps(op: str, n: Floats) -> Floats:
    """Steps that follow one another; the messages of an all-to-all run side by side."""
    if op == "all_reduce":
        return 2.0 * (n - 1.0)
    return n - 1.0 if op in ("all_gather", "reduce_scatter") else np.ones_like(n)


def _rate(links: Links, n: Floats) -> Floats:
    apart = links.link_bytes_per_s if links.apart_bytes_per_s is None else links.apart_bytes_per_s
    rate: Floats = np.where(n > 2.0, apart, links.link_bytes_per_s)
    return rate


def _ring(
    links: Links, p: CollectiveParameters, op: str, n: Floats, size: Floats, network_s: Floats, quick: bool
) -> Floats:
    """Each step passes on one n-th; the first and the last only copy, and cost more than their share."""
    steps = _steps(op, n)
    passed = size if op == "send_recv" else size / n
    sent = passed * ((n - 1.0 if op == "alltoall" else steps) + p.end_steps)
    ways = [(0.0, p.middle_step_s, p.middle_share), (p.stream_s, p.middle_step_s, p.link_share)]
    if quick:
        ways.append((0.0, p.quick_step_s, p.quick_share))
    times = [
        first + steps * step + np.maximum(sent / (_rate(links, n) * share), network_s) for first, step, share in ways
    ]
    return np.minimum.reduce(times)


def _summed(links: Links, share: float, n: Floats, size: Floats) -> Floats:
    """A device reads the sum of its n-th through the switch and writes it to all: size (1 + 1/n) each way."""
    return size * (1.0 + 1.0 / n) / (_rate(links, n) * share)


def _direct(links: Links, p: CollectiveParameters, direct: Direct, n: Floats, size: Floats) -> Floats:
    """One shot reads all tensors of all devices; two read one n-th of each, then the sums of the others."""
    rate = _rate(links, n) * p.quick_share
    fastest = p.quick_step_s + size * (n - 1.0) / rate
    if direct.two_shots:
        fastest = np.minimum(fastest, 2.0 * p.quick_step_s + size * (2.0 * (n - 1.0) / n) / rate)
    if direct.in_switch and links.sums_in_switch:
        summed = 2.0 * p.quick_step_s + _summed(links, p.quick_share, n, size)
        fastest = np.where(n >= 4.0, np.minimum(fastest, summed), fastest)
    return fastest


def _limit(direct: Direct, n: Floats) -> Floats:
    known = sorted(direct.largest_bytes)
    index = np.maximum(np.searchsorted(np.array(known, dtype=np.float64), n, side="right") - 1, 0)
    limits: Floats = np.array([direct.largest_bytes[k] for k in known], dtype=np.float64)
    return limits[index]


def _network(
    links: Links, p: CollectiveParameters, op: str, n: Floats, nodes: Floats, size: Floats
) -> tuple[Floats, Floats]:
    """Latency of the steps between nodes, and time of the bytes that have to pass between them; 0 within a node."""
    several = nodes > 1.0
    rate = links.nic_bytes_per_s * p.link_share if links.nic_bytes_per_s else p.nic_bytes_per_s
    inside = np.minimum(n, links.devices_per_node)
    if op == "alltoall":
        sent, ports = size * (n - inside) / n, np.ones_like(n)
    elif op == "send_recv":
        sent, ports = size, np.ones_like(n)
    else:
        sent, ports = size / n * _steps(op, n), inside
    return several * _steps(op, nodes) * p.nic_step_s, several * sent / (rate * ports)
