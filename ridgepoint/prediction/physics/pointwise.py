"""Time of operators that touch each element a few times: elementwise maps, norms, softmax, rope, gated units, embedding."""

from dataclasses import dataclass
from typing import Annotated

import numpy as np
import numpy.typing as npt

from ridgepoint.errors import NotSupported
from ridgepoint.prediction.physics.device import Device
from ridgepoint.prediction.physics.optime import PhysicalTime
from ridgepoint.prediction.physics.parameters import Parameters, within
from ridgepoint.quantity import Array

__all__ = ["ELEMENT_BYTES", "POINTWISE", "PointwiseOperator", "PointwiseParameters", "pointwise_time"]

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class PointwiseOperator:
    """What an operator does to a tensor of rows x cols; reads and writes are in tensors of that size."""

    name: str
    family: str
    """Operators whose kernels are built alike: they share their parameters."""
    reads: float
    writes: float
    instructions: float
    """Of one lane for one element, all passes: an estimate, to which `issue_share` is fitted."""
    host: float = 1.0
    """The framework's time to dispatch it, relative to `add`: a scalar operand has to be wrapped, a norm has statistics
    to allocate. Alike on five hosts."""
    by_row: bool = False
    """A block of threads for each row, that walks along it; else blocks of equal size over all elements."""
    again: float = 0.0
    """Times that a row is read once more after the first pass: for its variance, for its normalised values."""
    rows_in_flight: float = 2.0
    """Rows that an SM works on at a time: 2 where a row's block has 1024 threads, 16 where it has 128."""


class PointwiseParameters(Parameters, frozen=True, kw_only=True):
    """What kernels of one family reach on machines of one class, in one format and software stack.

    `step_clocks` and `long_row` do nothing where blocks do not follow rows.
    """

    launch_s: Annotated[float, within(3e-7, 2e-4, "s, of the smallest `add`: the stack's launch floor")] = 2e-5
    head: Annotated[float, within(0.02, 1.0, "share of the launch floor that passes before the kernel runs")] = 0.5
    dram_share: Annotated[float, within(0.5, 0.95, "of the DRAM's datasheet bandwidth: what a stream reaches")] = 0.85
    l2_bytes_per_clock: Annotated[float, within(4, 64, "bytes of L2 for one SM in a clock, all SMs asking")] = 32
    resident: Annotated[float, within(0.01, 1.5, "of L2: what of it the previous call's tensors still hold")] = 0.5
    issue_share: Annotated[float, within(0.01, 1.5, "of the fp32 lanes' issue slots: what is filled")] = 0.5
    row_clocks: Annotated[float, within(1, 5000, "clocks of an SM for each row: scheduling, reduction")] = 200
    step_clocks: Annotated[float, within(5, 5000, "clocks of each 1024 elements that a row's block walks along")] = 500
    long_row: Annotated[float, within(1.0, 8.0, "work on rows that registers do not hold, against those they do")] = 1.0
    sharpness: Annotated[float, within(1.0, 8.0, "exponent joining the bounds: 1 adds them, 8 takes the largest")] = 4


ELEMENT_BYTES = {"fp32": 4.0, "fp16": 2.0, "bf16": 2.0}
"""Bytes of an element by dtype."""

POINTWISE = {
    operator.name: operator
    for operator in (
        PointwiseOperator("add", "elementwise", 2, 1, 2),
        PointwiseOperator("mul", "elementwise", 2, 1, 2),
        PointwiseOperator("div", "elementwise", 2, 1, 12),
        PointwiseOperator("pow", "elementwise", 2, 1, 100),
        PointwiseOperator("add_scalar", "elementwise", 1, 1, 2, host=1.18),
        PointwiseOperator("mul_scalar", "elementwise", 1, 1, 2, host=1.18),
        PointwiseOperator("div_scalar", "elementwise", 1, 1, 12, host=1.18),
        PointwiseOperator("pow_scalar", "elementwise", 1, 1, 100, host=1.11),
        PointwiseOperator("tanh", "elementwise", 1, 1, 20, host=0.98),
        PointwiseOperator("gelu", "elementwise", 1, 1, 25, host=1.15),
        PointwiseOperator("relu", "elementwise", 1, 1, 2, host=1.2),
        PointwiseOperator("layernorm", "norm", 1, 1, 16, host=1.77, by_row=True, again=1, rows_in_flight=16),
        PointwiseOperator("rmsnorm", "norm", 1, 1, 12, by_row=True, again=1),
        PointwiseOperator("softmax", "softmax", 1, 1, 25, host=1.27, by_row=True, again=2),
        PointwiseOperator("rope", "rope", 1, 1, 12, by_row=True),
        PointwiseOperator("silu_mul", "silu_mul", 1, 0.5, 10, by_row=True),
        PointwiseOperator("embedding", "embedding", 1, 1, 2, by_row=True),
    )
}
"""By name. `silu_mul` reads gate and up side by side (cols is both) and writes half; `rope` counts query and key columns."""

_REGISTERS = 1024.0
"""Columns of a row that the threads of a block keep in registers between passes."""
_STEP = 1024.0
"""Elements along a row that its block takes in one step."""
_BLOCK = 512.0
"""Elements of a block where blocks do not follow rows."""
_KEPT = 0.25
"""Share of L2 that rows in flight may fill until a further pass over them misses: they share it with what is written."""


def pointwise_time(
    device: Device,
    p: PointwiseParameters,
    operator: PointwiseOperator,
    element_bytes: float,
    rows: Array,
    cols: Array,
    warm: bool = False,
) -> PhysicalTime:
    """Time of an operator on rows x cols elements (they broadcast) of `element_bytes` each.

    A kernel takes no less than any of: its bytes from DRAM, all its bytes through L2, its instructions in the lanes and a
    constant for each row, and the chain of one row's steps. The stack takes `launch_s`: a part of it (`head`) before the
    kernel starts, the rest beside it. `warm`: the call before was the same one, as in the loop of a benchmark, so that
    tensors that fit in L2 are read and written there. Each bound follows the roofline of its level (Williams et al. 2009,
    doi 10.1145/1498765.1498785). Ignored: alignment, strides, a broadcast operand's smaller traffic, clocks under a
    power limit. Raises NotSupported where the device's fp32 rate is absent.
    """
    m, n = (np.maximum(np.asarray(x, dtype=np.float64), 1.0) for x in (rows, cols))
    if "fp32" not in device.vector_flops_per_s:
        raise NotSupported(f"{device.name} has no fp32 rate, which the time of {operator.name} needs")
    sm_hz = device.clock_hz * device.sm_count
    lanes = device.vector_flops_per_s["fp32"] / (2.0 * sm_hz)
    elements = m * n
    moved = elements * ((operator.reads + operator.writes) * element_bytes)
    again = elements * (operator.again * element_bytes)
    missing = np.clip(moved / (device.l2_bytes * p.resident) - 1.0, 0.0, 1.0) if warm else 1.0
    compulsory = moved * missing / device.dram_bytes_per_s
    flight = np.minimum(m, operator.rows_in_flight * device.sm_count) * n * element_bytes
    lost = again * np.clip(flight / (device.l2_bytes * _KEPT) - 1.0, 0.0, 1.0) / device.dram_bytes_per_s
    issue = elements * (operator.instructions / (lanes * p.issue_share))
    if operator.by_row:
        issue = issue * np.where(n > _REGISTERS, p.long_row, 1.0)
        blocks, chain = m, (n / _STEP * p.step_clocks + p.row_clocks) / device.clock_hz
    else:
        blocks, chain = elements / _BLOCK, np.zeros_like(elements)
    compute = issue / sm_hz
    floor = p.launch_s * operator.host
    kernel = _joined(
        p.sharpness,
        (compulsory + lost) / (device.stream_share * p.dram_share),
        (moved + again) / (p.l2_bytes_per_clock * sm_hz),
        compute + blocks * (p.row_clocks / sm_hz),
        chain,
    )
    seconds = p.head * floor + _joined(p.sharpness, np.full_like(kernel, (1.0 - p.head) * floor), kernel)
    return PhysicalTime(seconds, compute, compulsory, np.full_like(seconds, floor))


def _joined(sharpness: float, *bounds: Floats) -> Floats:
    """The largest of the bounds, rounded up where they are near each other: their sum at 1.

    `np.power`, never `**`: of a single number the operator takes another routine than of an array, and rounds otherwise.
    """
    total: Floats = np.power(bounds[0], sharpness)
    for bound in bounds[1:]:
        total = total + np.power(bound, sharpness)
    return np.power(total, 1.0 / sharpness)
