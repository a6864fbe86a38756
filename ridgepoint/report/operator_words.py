"""Names of operators as people read them: rows that stand for several places say so, with a note of what that means."""

import re
from collections.abc import Iterable, Mapping

from ridgepoint.report.words import clean, short

__all__ = ["kernel_lines", "kernel_words", "operator_notes", "operator_words", "short_operator"]

_MERGED = re.compile(r"(?P<first>\S+) \+(?P<more>\d+)(?P<call>(?::\S+)?)")
"""`f.0.2 +3:relu`: the same call in f.0.2 and in three other modules."""
_STACK = re.compile(r"(^|\.)\*(\.|:|#|$)")
_NOTES = (
    "a row “X and 3 more” is of X and of three more modules that make the same call with the same sizes",
    "* in a row's name is any number: the layers of a stack share the row",
    "#2 at the end of a name: the same call at the same place with other sizes",
)
"""Of merged rows, of stacks and of numbered rows."""


def operator_words(name: str) -> str:
    """`operator_words("f.0.2 +3:relu") == "f.0.2:relu and 3 more"`; other names as they are."""
    found = _parts(name)
    return clean(name) if found is None else f"{found[0]} and {found[1]} more"


def short_operator(name: str, limit: int) -> str:
    """The same in at most so many letters: of a merged row the module's name is cut, not how many share the row."""
    found = _parts(name)
    if found is None:
        return short(clean(name), limit)
    tail = f" and {found[1]} more"
    return short(found[0], max(2, limit - len(tail))) + tail


def _parts(name: str) -> tuple[str, str] | None:
    """(the first place with its operator, how many more); None for a row of one place or of a whole stack."""
    base, numbered, again = clean(name).partition("#")
    found = _MERGED.fullmatch(base)
    return None if found is None else (f"{found['first']}{found['call']}{numbered}{again}", found["more"])


def operator_notes(names: Iterable[str]) -> tuple[str, ...]:
    """One line for each way of naming rows that occurs and needs it."""
    names = tuple(names)
    occurs = (
        any(_parts(name) for name in names),
        any(_STACK.search(name) for name in names),
        any(re.search(r"#\d+$", name) for name in names),
    )
    return tuple(note for note, there in zip(_NOTES, occurs, strict=True) if there)


def kernel_lines(kernels: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    """(kernel, its operators): operators that share a kernel together."""
    groups: dict[str, list[str]] = {}
    for operator, kernel in kernels.items():
        groups.setdefault(clean(kernel), []).append(operator_words(operator))
    return tuple((kernel, ", ".join(operators)) for kernel, operators in groups.items())


def kernel_words(kernels: Mapping[str, str]) -> str:
    """`"torch._weight_int8pack_mm; lm_head by F.linear:bf16"`: the kernel of most operators, then the others."""
    groups = sorted(kernel_lines(kernels), key=lambda group: -group[1].count(","))
    rest = [f"{operators} by {kernel}" for kernel, operators in groups[1:]]
    return "; ".join([kernel for kernel, _ in groups[:1]] + rest) or "no kernel named"
