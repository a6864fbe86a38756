"""What the calibration saw of the last-level cache: how long code survives in it, and how much each kernel displaces."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec
import numpy as np

from ridgepoint.hardware import LinearLaw, ResidencyLaw

__all__ = ["fit_code_residency", "with_displacement"]

Sample = Mapping[str, Any]
_MOST = 4.0
"""A kernel that leaves nothing of the reference operator's code displaces at least this much; more cannot be told."""


def fit_code_residency(samples: Iterable[Sample], source: str) -> ResidencyLaw | None:
    """Share of code that has gone by displaced bytes: of all probed operators together, made to grow.

    0 at the shortest stream (laws are measured behind it), 1 at the longest.
    """
    seconds: dict[float, float] = defaultdict(float)
    for s in samples:
        if s["probe"] == "code_residency":
            seconds[float(s["bytes"])] += s["seconds"]
    sizes = sorted(seconds)
    if len(sizes) < 3:
        return None
    times = np.array([seconds[size] for size in sizes])
    share = np.clip((times - times[0]) / max(times[-1] - times[0], 1e-12), 0.0, 1.0)
    miss = tuple(float(x) for x in np.maximum.accumulate(share))
    return ResidencyLaw(working_set_bytes=tuple(sizes), miss=miss, source=source)


def with_displacement(laws: Sequence[LinearLaw], samples: Sequence[Sample]) -> tuple[LinearLaw, ...]:
    """Each law with the bytes that its kernel displaces per byte of weights, by rows; as is where nothing was measured.

    The reference operator takes as long behind the kernel's weights as behind a plain stream of some other length: that
    length over the weights' bytes, 1 to 4.
    """
    found: dict[tuple[str, str, str], list[Sample]] = defaultdict(list)
    for s in samples:
        if s["probe"] == "displacement":
            found[s["kernel"], s["format"], s["act"]].append(s)
    curve = _reference(samples)
    return tuple(
        _displacing(law, mine, *curve) if curve and (mine := found.get((law.kernel, law.format, law.act))) else law
        for law in laws
    )


def _reference(samples: Sequence[Sample]) -> tuple[list[float], list[float]] | None:
    """(seconds, bytes) of the reference operator behind plain streams, both growing."""
    points = sorted(
        (float(s["bytes"]), float(s["seconds"]))
        for s in samples
        if s["probe"] == "code_residency" and (s["subject"], s["act"]) == ("rms_norm", "fp32")
    )
    if len(points) < 3:
        return None
    seconds = np.maximum.accumulate([t for _, t in points])
    return [float(t) for t in seconds], [size for size, _ in points]


def _displacing(law: LinearLaw, samples: Sequence[Sample], seconds: list[float], sizes: list[float]) -> LinearLaw:
    rows = sorted(samples, key=lambda s: s["m"])
    alike = [float(np.interp(s["seconds"], seconds, sizes)) / s["passed_bytes"] for s in rows]
    factors = np.clip(np.maximum.accumulate(alike), 1.0, _MOST)
    return msgspec.structs.replace(
        law, displaced_m=tuple(float(s["m"]) for s in rows), displaced=tuple(float(x) for x in factors)
    )
