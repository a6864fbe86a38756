"""Which results are temporaries of one module: made and read by its own elementwise code, between products and other modules."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from torch import Tensor

__all__ = ["Flow"]


@dataclass
class _Result:
    call: int
    frame: int
    size: int
    """Bytes."""
    passing: bool
    readers: list[tuple[int, int]] = field(default_factory=list)
    """(call, bytes) of each pass over it."""


class Flow:
    """Follows results from the call that makes them to those that read them.

    A result is a temporary if an elementwise call made it and only elementwise calls of the same module read it: then its
    traffic is not compulsory, as a kernel that did the module's arithmetic in one pass would keep it in registers.
    """

    def __init__(self) -> None:
        self._latest: dict[int, _Result] = {}
        self._kept: list[object] = []
        """Storages, so that no address is given to another while they are told apart by it; fake ones cost nothing."""
        self._results: list[_Result] = []

    def called(self, call: int, frame: int, passing: bool, given: Iterable[Tensor], made: Iterable[Tensor]) -> None:
        """Call number `call` of module call `frame`; `passing`: it is one pass over its tensors (no product, no norm)."""
        for t in given:
            result = self._latest.get(t.untyped_storage()._cdata)
            if result is None:
                continue
            if passing and frame == result.frame:
                result.readers.append((call, t.numel() * t.element_size()))
            else:
                result.passing = False
        for t in made:
            result = _Result(call, frame, t.numel() * t.element_size(), passing)
            storage = t.untyped_storage()
            self._kept.append(storage)
            self._latest[storage._cdata] = result
            self._results.append(result)

    def held(self) -> dict[int, int]:
        """Call -> bytes of its traffic that are temporaries."""
        found: dict[int, int] = {}
        for result in self._results:
            if result.passing and result.readers:
                for call, size in ((result.call, result.size), *result.readers):
                    found[call] = found.get(call, 0) + size
        return found
