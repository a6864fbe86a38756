"""What the calibration saw of the last-level cache: how long code survives in it, and how much each kernel displaces."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec
import numpy as np

from ridgepoint.hardware import LinearLaw, ResidencyLaw
from ridgepoint.hardware.law_near import NearLaw
from ridgepoint.measurement.calibrate.displacement import REFERENCE

__all__ = ["fit_code_residency", "fit_near", "with_displacement"]

Sample = Mapping[str, Any]
_MOST = 4.0
"""Beyond half a last-level cache times this nothing of the reference operator is left, and more cannot be told."""
_PLAIN = ("fp32", "fp32", "dense")
"""The kernel whose matrix-vector product copies nothing: all displacement is told in multiples of its own."""


def fit_code_residency(samples: Iterable[Sample], source: str) -> ResidencyLaw | None:
    """Share of code that has gone by displaced bytes: of all probed operators together, made to grow.

    0 at the shortest stream (laws are measured behind it), 1 at the longest.
    """
    curve = _grown(samples, "code_residency")
    return None if curve is None else ResidencyLaw(working_set_bytes=curve[0], miss=curve[1], source=source)


def fit_near(samples: Sequence[Sample], source: str) -> NearLaw | None:
    """What calls save in the second-level cache; None where the modules stage was not measured."""
    saved = {
        f"{s['subject']} {s['act']}": max(0.0, float(s["seconds"] - s["seconds_near"]))
        for s in samples if s["probe"] == "near_code"
    }  # fmt: skip
    curve = _grown(samples, "near_residency")
    if curve is None or curve[1][-1] < 1.0:  # the longest stream is no slower than the shortest: nothing was seen
        return None
    return NearLaw(saved_s=saved, displaced_bytes=curve[0], lost=curve[1], source=source) if saved else None


def _grown(samples: Iterable[Sample], probe: str) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
    """(bytes, share): the seconds of all probed operators together, from 0 at the fewest bytes to 1 at the most."""
    seconds: dict[float, float] = defaultdict(float)
    for s in samples:
        if s["probe"] == probe:
            seconds[float(s["bytes"])] += s["seconds"]
    sizes = sorted(seconds)
    if len(sizes) < 3:
        return None
    times = np.array([seconds[size] for size in sizes])
    share = np.clip((times - times[0]) / max(times[-1] - times[0], 1e-12), 0.0, 1.0)
    return tuple(sizes), tuple(float(x) for x in np.maximum.accumulate(share))


def with_displacement(laws: Sequence[LinearLaw], samples: Sequence[Sample]) -> tuple[LinearLaw, ...]:
    """Each law with the bytes that its kernel displaces per byte of weights, by rows; as is where nothing was measured.

    The reference operator takes as long behind the kernel's weights as behind a plain stream of some other length: that
    length over the weights' bytes, over the same of fp32 at one row, 1 to 4.
    """
    curve = _reference(samples)
    if curve is None:
        return tuple(laws)
    found: dict[tuple[str, str, str], dict[float, float]] = defaultdict(dict)
    for s in samples:
        if s["probe"] == "displacement":
            found[s["format"], s["act"], s["rung"]][float(s["m"])] = (
                _stream_bytes(s["seconds"], *curve) / s["passed_bytes"]
            )
    unit = found.get(_PLAIN, {}).get(1.0, 0.0)
    if unit <= 0.0:
        return tuple(laws)
    return tuple(_displacing(law, found.get((law.format, law.act, law.rung), {}), unit) for law in laws)


def _reference(samples: Sequence[Sample]) -> tuple[list[float], list[float]] | None:
    """(seconds, bytes) of the reference operator behind plain streams, both growing."""
    points = sorted(
        (float(s["bytes"]), float(s["seconds"]))
        for s in samples
        if s["probe"] == "code_residency" and (s["subject"], s["act"]) == REFERENCE
    )
    if len(points) < 3:
        return None
    seconds = np.maximum.accumulate([t for _, t in points])
    return [float(t) for t in seconds], [size for size, _ in points]


def _stream_bytes(seconds: float, curve: list[float], sizes: list[float]) -> float:
    """The shortest plain stream behind which the reference operator takes so long, or as long as it ever does."""
    seconds = min(seconds, curve[-1])
    right = int(np.searchsorted(curve, seconds))
    if right == 0:
        return sizes[0]
    share = (seconds - curve[right - 1]) / (curve[right] - curve[right - 1])
    return sizes[right - 1] + share * (sizes[right] - sizes[right - 1])


def _displacing(law: LinearLaw, alike: Mapping[float, float], unit: float) -> LinearLaw:
    if not alike:
        return law
    rows = sorted(alike)
    factors = np.clip(np.maximum.accumulate([alike[m] / unit for m in rows]), 1.0, _MOST)
    return msgspec.structs.replace(law, displaced_m=tuple(rows), displaced=tuple(float(x) for x in factors))
