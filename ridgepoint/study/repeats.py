"""How far visits to the same network are apart on a machine, from the rounds of its calibration."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from itertools import pairwise
from typing import Any

import numpy as np

from ridgepoint.study.fit import robust_spread

__all__ = ["repeat_sigma"]


def repeat_sigma(samples: Iterable[Mapping[str, Any]]) -> float | None:
    """Standard deviation of the log of one visit's step time, from pairs of consecutive rounds of whole networks; None where no
    network was visited twice. Not merged samples: the best of several rounds is no visit."""
    visits: dict[str, dict[int, float]] = defaultdict(dict)
    for s in samples:
        if s["probe"] == "composed" and "absent" not in s:
            point = str([s[name] for name in ("net", "batch", "new", "side") if name in s])
            visits[point][s.get("round", 0)] = s["seconds"]
    ratios = [
        np.log(now / before)
        for rounds in visits.values()
        for before, now in pairwise(rounds[number] for number in sorted(rounds))
    ]
    return robust_spread(ratios) / 2**0.5 if ratios else None
