"""What a call costs less than its law says while its code and data are still in the second-level cache."""

import msgspec
import numpy as np

from ridgepoint.quantity import Array

__all__ = ["NearLaw"]


class NearLaw(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`saved_s`: seconds per call by "operator dtype", of a linear layer by "format dtype". `displaced_bytes`, `lost`: share
    of it that is lost when so many bytes pass between two calls.

    Laws are measured behind 4 MB of other bytes, as between two layers of a large network.
    """

    saved_s: dict[str, float]
    displaced_bytes: tuple[float, ...]
    lost: tuple[float, ...]
    source: str

    def seconds(self, subject: str, dtype: str, displaced_bytes: Array) -> Array:
        """Seconds to be taken off a call; an operator that was not measured saves what the median of its dtype does."""
        saved = self.saved_s.get(f"{subject} {dtype}")
        if saved is None:
            alike = [s for key, s in self.saved_s.items() if key.endswith(f" {dtype}")]
            saved = float(np.median(alike)) if alike else 0.0
        grid = np.log(np.asarray(self.displaced_bytes))
        lost = np.interp(np.log(np.maximum(displaced_bytes, 1.0)), grid, self.lost)
        return saved * (1.0 - lost)
