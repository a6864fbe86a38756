"""The grammar of bets: `SIDE..SIDE[,SIDE…]`, `SIDE = CHOICE[+CHOICE…]`, `CHOICE = name[:value|:key=value]…`."""

import re
from itertools import combinations

from ridgepoint.choice.base import Choice, Option
from ridgepoint.choice.registry import CHOICES
from ridgepoint.errors import BadInput, UnknownName

__all__ = ["parse_bet", "parse_choice", "parse_choices"]

_MAX_TEXT = 400
_WORD = re.compile(r"[A-Za-z0-9_.%-]+")


def parse_bet(text: str) -> tuple[str, tuple[str, ...]]:
    """`"bf16..int8,int4"` -> `("bf16", ("int8", "int4"))`; the sides are checked when they are resolved."""
    if len(text) > _MAX_TEXT:
        raise BadInput(f"a bet of {len(text)} characters is too long; at most {_MAX_TEXT}")
    left, dots, right = text.partition("..")
    sides = tuple(part.strip() for part in right.split(","))
    if not dots or not left.strip() or not all(sides) or ".." in right:
        raise BadInput(f"{text!r} is not a bet; write A..B or A..B,C, for example bf16..int8,int4")
    return left.strip(), sides


def parse_choices(text: str) -> tuple[Choice, ...]:
    """`"bf16+int4:g128"` -> its choices; two of one axis are refused."""
    if len(text) > _MAX_TEXT:
        raise BadInput(f"a side of {len(text)} characters is too long; at most {_MAX_TEXT}")
    choices = tuple(parse_choice(part.strip()) for part in text.split("+")) if text.strip() else ()
    for one, other in combinations(choices, 2):
        if one.AXIS == other.AXIS and not _apart(one, other):
            instead = ", or name other layers for each" if hasattr(one, "scope") else ""
            raise BadInput(f"{text!r}: {one.spelled} and {other.spelled} both settle the {one.AXIS}; keep one{instead}")
    return choices


def _apart(one: Choice, other: Choice) -> bool:
    """Whether two choices of one axis are for different layers."""
    scopes = getattr(one, "scope", None), getattr(other, "scope", None)
    return None not in scopes and not scopes[0].overlaps(scopes[1])


def parse_choice(text: str) -> Choice:
    """One choice from `name[:value|:key=value]…`; `2:4` is short for `sparse:2:4`."""
    name, *rest = (f"sparse:{text}" if text.partition(":")[0] == "2" else text).split(":")
    known = {n: c for c in CHOICES for n in c.NAMES}
    if name not in known:
        raise UnknownName("choice", name, known)
    words = []
    for word in rest:
        key, equals, value = word.rpartition("=")
        if not _WORD.fullmatch(value) or (equals and not _WORD.fullmatch(key)):
            raise BadInput(f"choice {text[:80]!r}: {word[:40]!r} is not a value or key=value")
        if Option(key, value) in words:
            raise BadInput(f"choice {text[:80]!r}: {word[:40]!r} is there twice")
        words.append(Option(key, value))
    return known[name].parse(name, tuple(words))
