"""Errors a person can act on: what was asked, what is possible, what to do next; everything else is our bug."""

from collections.abc import Iterable
from difflib import get_close_matches

__all__ = ["BadInput", "DoesNotFit", "MachineBusy", "NotSupported", "RidgeError", "UnknownName"]


_LONGEST = 1000


class RidgeError(Exception):
    """Base of all errors this package raises on purpose: one printable line, whatever the input that it quotes."""

    exit_code = 2

    def __init__(self, message: str):
        line = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in message)
        super().__init__(_short(line, _LONGEST))


class BadInput(RidgeError):
    """A file, option or value that is malformed or impossible."""


class UnknownName(RidgeError):
    """A target, model, choice or option that does not exist; names the nearest that does."""

    def __init__(self, what: str, name: str, known: Iterable[str], hint: str = ""):
        self.what, self.name = what, name
        names = sorted(known)
        near = get_close_matches(name, names, n=3, cutoff=0.5)
        tail = f"did you mean {' or '.join(near)}?" if near else f"known: {_some(names)}"
        if hint:
            tail += f"{'' if near else ';'} {hint}"
        super().__init__(f"no {what} named {_short(name)!r}; {tail}")


class NotSupported(RidgeError):
    """This machine, model or kernel cannot do what was asked; says what it can do."""


class DoesNotFit(RidgeError):
    """The work needs more memory than there is; says how much of each."""


class MachineBusy(RidgeError):
    """A point that needs wall time was refused because other work is running; carries the evidence."""


_MOST_NAMES = 30


def _some(names: list[str]) -> str:
    """All names, or every so many of a long list, so that each kind of it is seen."""
    if len(names) <= _MOST_NAMES:
        return ", ".join(names) or "none yet"
    step = -(-len(names) // _MOST_NAMES)
    return f"{', '.join(names[::step])} and {len(names) - len(names[::step])} more"


def _short(text: str, limit: int = 80) -> str:
    return text if len(text) <= limit else text[: limit - 1] + "…"
