"""Bytes of the tensors that are alive while a module runs on tensors without memory, and the most of them at once."""

import weakref
from collections.abc import Iterable

from torch import Tensor

__all__ = ["Living"]


class Living:
    """Counts each storage from the call that makes it until its last tensor is gone; those of `given` never count."""

    def __init__(self, given: Iterable[Tensor] = ()):
        self._given = {t.untyped_storage()._cdata for t in given}
        self._holders: dict[int, int] = {}
        self._bytes = 0
        self.peak_bytes = 0

    def made(self, tensors: Iterable[Tensor]) -> None:
        """These came out of an operator."""
        for t in tensors:
            storage = t.untyped_storage()
            key, size = storage._cdata, storage.nbytes()
            if key in self._given:
                continue
            if key not in self._holders:
                self._holders[key] = 0
                self._bytes += size
                self.peak_bytes = max(self.peak_bytes, self._bytes)
            self._holders[key] += 1
            weakref.finalize(t, self._gone, key, size)

    def _gone(self, key: int, size: int) -> None:
        self._holders[key] -= 1
        if not self._holders[key]:
            del self._holders[key]
            self._bytes -= size
