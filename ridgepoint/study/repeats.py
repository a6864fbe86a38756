"""How far visits to the same network are apart on a machine, from the rounds of its calibration."""

from collections.abc import Iterable, Mapping
from itertools import pairwise
from typing import Any

import numpy as np

from ridgepoint.study.fit import by_point, robust_spread

__all__ = ["repeat_sigma"]


def repeat_sigma(samples: Iterable[Mapping[str, Any]]) -> float | None:
    """Standard deviation of the log of one visit's step time, from pairs of consecutive rounds of whole networks; None where no
    network was visited twice. Not merged samples: the best of several rounds is no visit."""
    networks = (s for s in samples if s["probe"] == "composed" and "absent" not in s)
    ratios = [
        np.log(now["seconds"] / before["seconds"]) for visits in by_point(networks) for before, now in pairwise(visits)
    ]
    return robust_spread(ratios) / 2**0.5 if ratios else None
