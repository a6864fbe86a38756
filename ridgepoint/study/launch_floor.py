"""The launch floor of a stack as an input: given in seconds, or read from the quickest rows of what is scored."""

import re
from typing import Any

import msgspec
import numpy as np

from ridgepoint.errors import BadInput, NotSupported
from ridgepoint.prediction.physics.device import Device
from ridgepoint.prediction.physics.parameters import Parameters, parameters_of
from ridgepoint.quantity import show_time
from ridgepoint.study.published.cells import measured_seconds
from ridgepoint.study.published.kind import Kind
from ridgepoint.study.published.table import Mask, Table

__all__ = ["FROM_FILE", "LaunchFloor", "parse_launch_floor", "with_floor"]

FROM_FILE = "file"
LaunchFloor = float | str | None
"""Seconds; `FROM_FILE`; None leaves the floor to what the class's fit says."""
_UNITS = {"s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6}
_QUICKEST = 3
"""Rows of a cell that tell its floor; they are an input then, and not scored."""
_HALVINGS = 50


def parse_launch_floor(text: str) -> LaunchFloor:
    """`24us`, `0.024ms`, or `file`; "" is None. BadInput names what is possible."""
    if not text or text == FROM_FILE:
        return text or None
    found = re.fullmatch(r"([0-9.]+(?:e-?[0-9]+)?)(s|ms|us|µs)", text.strip())
    try:
        seconds = float(found[1]) * _UNITS[found[2]] if found else 0.0
    except ValueError:
        seconds = 0.0
    if not 0.0 < seconds < 1.0:
        raise BadInput(
            f"--launch-floor is {text[:40]!r}; possible are a time below a second, as 24us, or `{FROM_FILE}`, which takes it "
            f"from the {_QUICKEST} quickest rows of each group and leaves those out of the score"
        )
    return seconds


def with_floor(
    kind: Kind, device: Device, p: Parameters, dtype: str, rows: Table, floor: LaunchFloor
) -> tuple[Parameters, Mask, str]:
    """The parameters with this launch floor, the rows that are left to score, and what was done, in words.

    Read from rows, the floor is the one at which the prediction of the quickest rows is right: the median of theirs,
    within the parameter's bounds. Raises NotSupported where the model has no launch time, as that of fused experts, the
    floor is out of its bounds, or too few rows are left.
    """
    every = np.full(len(rows), True)
    if floor is None:
        return p, every, ""
    launch = next((x for x in parameters_of(type(p)) if x.name == "launch_s"), None)
    if launch is None:
        raise NotSupported(f"{kind.name} has no launch time that --launch-floor could replace")
    if isinstance(floor, float):
        if not launch.low <= floor <= launch.high:
            possible = f"{show_time(launch.low)} to {show_time(launch.high)}"
            raise NotSupported(f"--launch-floor of {show_time(floor)} for {kind.name}: possible is {possible}")
        return msgspec.structs.replace(p, launch_s=floor), every, f"launch floor {show_time(floor)}, given"  # type: ignore[call-arg]
    if len(rows) <= 2 * _QUICKEST:
        raise NotSupported(f"{len(rows)} rows of {kind.name} are too few to tell a launch floor and be scored")
    quickest = np.argsort(measured_seconds(rows), kind="stable")[:_QUICKEST]
    every[quickest] = False
    found = _launch_s(kind, device, p, dtype, rows.take(quickest.tolist()), (launch.low, launch.high))
    said = f"launch floor {show_time(found)}, from the {_QUICKEST} quickest rows, which are not scored"
    return msgspec.structs.replace(p, launch_s=found), every, said  # type: ignore[call-arg]


def _launch_s(kind: Kind, device: Device, p: Any, dtype: str, rows: Table, bounds: tuple[float, float]) -> float:
    """Halving between the bounds, in logarithms: time does not fall as the launch takes longer."""
    measured = measured_seconds(rows)
    low, high = np.full(len(rows), np.log(bounds[0])), np.full(len(rows), np.log(bounds[1]))
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        times = [
            float(
                np.asarray(kind.seconds(device, msgspec.structs.replace(p, launch_s=float(x)), dtype, rows).seconds)[i]
            )
            for i, x in enumerate(np.clip(np.exp(middle), *bounds))
        ]
        longer = np.array(times) < measured
        low, high = np.where(longer, middle, low), np.where(longer, high, middle)
    return float(np.clip(np.exp(np.median(low)), *bounds))
