"""What a step counts, by the name of its model: tokens of a language model, rows of a single layer, items of a module."""

import re
from typing import Literal

__all__ = ["MODULE", "Unit", "is_module", "unit_of"]

Unit = Literal["tokens", "rows", "items"]
MODULE = re.compile(r"(?P<path>.+\.py):(?P<name>[A-Za-z_]\w*)")
"""A function in a file, as `./my_model.py:build`."""


def is_module(name: str) -> bool:
    """Whether the name is that of a function in a file."""
    return MODULE.fullmatch(name) is not None


def unit_of(name: str) -> Unit:
    """The unit of a step's size, of its speed and of a speed-up."""
    return "items" if is_module(name) else "rows" if name.startswith("linear:") else "tokens"
