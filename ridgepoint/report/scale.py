"""A logarithmic axis: where a value lies between two ends, and which values to write beside it."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

__all__ = ["LogScale", "log_scale"]

_STEPS = ((1.0,), (1.0, 2.0, 5.0), (1.0, 1.5, 2.0, 3.0, 5.0, 7.0))
_FINE = (0.5, 0.25, 0.2, 0.1, 0.05, 0.02, 0.01)


@dataclass(frozen=True, slots=True)
class LogScale:
    """From `low` to `high`, both positive, `low` < `high`."""

    low: float
    high: float

    def share(self, value: float) -> float:
        """0 at the low end, 1 at the high end; beyond them the end itself."""
        if value <= 0:
            return 0.0
        part = (math.log(value) - math.log(self.low)) / (math.log(self.high) - math.log(self.low))
        return min(1.0, max(0.0, part))

    def at(self, share: float) -> float:
        """The value at that share of the way."""
        return math.exp(math.log(self.low) + share * (math.log(self.high) - math.log(self.low)))

    def ticks(self, wanted: int = 5) -> tuple[float, ...]:
        """Round values inside the scale: about `wanted`, never more than twice as many."""
        best: tuple[float, ...] = ()
        for values in (*(self._decades(steps) for steps in _STEPS), *(self._even(step) for step in _FINE)):
            if len(values) > 2 * wanted:
                return best or values[:: -(-len(values) // wanted)]
            if abs(len(values) - wanted) < abs(len(best) - wanted):
                best = values
        return best

    def _decades(self, steps: tuple[float, ...]) -> tuple[float, ...]:
        first, last = math.floor(math.log10(self.low)), math.ceil(math.log10(self.high))
        values = (step * 10.0**power for power in range(first, last + 1) for step in steps)
        return tuple(v for v in values if self.low <= v <= self.high)

    def _even(self, step: float) -> tuple[float, ...]:
        if (self.high - self.low) / step > 100:
            return (0.0,) * 1000  # far too many; the caller stops here
        return tuple(i * step for i in range(math.ceil(self.low / step), math.floor(self.high / step) + 1) if i)


def log_scale(values: Iterable[float], margin: float = 0.06, least: float = 1.3) -> LogScale:
    """A scale that holds all positive values with a margin, and whose ends are at least a factor `least` apart."""
    logs = [math.log(v) for v in values if v > 0 and math.isfinite(v)] or [0.0]
    low, high = min(logs), max(logs)
    missing = max(0.0, math.log(least) - (high - low)) / 2
    low, high = low - missing, high + missing
    pad = margin * (high - low)
    return LogScale(math.exp(low - pad), math.exp(high + pad))
