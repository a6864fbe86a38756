"""A share of the model that a choice takes away, as users write it."""

import re

from ridgepoint.errors import BadInput

__all__ = ["share"]

_SHARE = re.compile(r"0?\.\d{1,4}")


def share(name: str, text: str) -> str:
    """`.50` -> `0.5`: above 0, below 1, of at most four digits; BadInput otherwise."""
    if not _SHARE.fullmatch(text) or not float(text):
        raise BadInput(f"{name} takes away {text[:40]!r}; possible is a share between 0 and 1, as in {name}:0.5")
    return f"{float(text):g}"
