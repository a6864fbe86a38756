"""Facts of a machine as people read them: names with spaces, bytes with their unit, lists with commas, yes and no."""

from ast import literal_eval
from collections.abc import Iterator, Mapping
from typing import Any

from ridgepoint.quantity import show_bytes

__all__ = ["fact_words", "machine_facts"]

_NAMES = {
    "arch": "architecture", "cpu": "CPU", "flags": "instruction sets", "os": "operating system", "hypervisor": "virtual machine",
    "gpus": "GPUs", "memory_total_bytes": "memory", "memory_limit_bytes": "memory limit", "cores_usable": "usable cores",
    "memory_available_bytes": "memory available", "environment": "environment of measuring processes",
}  # fmt: skip
_TWICE = {"memory_total_gib": "memory_total_bytes"}
"""Facts that another one gives as well."""
_UNITS = {"_gib": "GiB"}


def machine_facts(machine: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """(name, value) of each fact in words, in the order of the record; without what another fact says as well."""
    for key, value in machine.items():
        if _TWICE.get(key) not in machine:
            yield _name(key), fact_words(key, value)


def _name(key: str) -> str:
    for ending in ("_bytes", *_UNITS):
        if key not in _NAMES:
            key = key.removesuffix(ending)
    words = _NAMES.get(key, key.replace("_", " "))
    return words.replace("gpu ", "GPU ").replace(" l2", " L2")


def fact_words(key: str, value: object) -> str:
    """`fact_words("caches_bytes", {"L2": 1048576}) == "L2 1 MiB"`; `key` tells the unit."""
    value = _parsed(value)
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Mapping):
        named = ((name, fact_words(f"{name}{_ending(key)}", inner)) for name, inner in value.items())
        return ", ".join(words if name == "name" else f"{name} {words}" for name, words in named)
    if isinstance(value, list | tuple):
        return ", ".join(fact_words(key, inner) for inner in value)
    if isinstance(value, int | float) and key.endswith("_bytes"):
        return show_bytes(value)
    unit = _UNITS.get(_ending(key), "") if isinstance(value, int | float) else ""
    return f"{value} {unit}".strip()


def _ending(key: str) -> str:
    return next((ending for ending in ("_bytes", *_UNITS) if key.endswith(ending)), "")


def _parsed(value: object) -> object:
    """What a target's file keeps as text of a Python value (`"True"`, `"(9, 0)"`, `"25276514304"`) as that value."""
    if not isinstance(value, str) or not (
        value in ("True", "False") or value.isdigit() or value[:1] in ("(", "[", "{")
    ):
        return value
    try:
        return literal_eval(value)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return value
