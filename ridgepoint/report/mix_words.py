"""A mixture of formats in words: which layers got what, what it costs beside uniform formats, and what was tried."""

from collections.abc import Mapping
from typing import Any

from ridgepoint.quantity import show_bytes, show_time

__all__ = ["mix_lines", "show_cost"]


def show_cost(found: Mapping[str, Any], value: float) -> str:
    """Seconds of a step or bytes of weights, as the search went by."""
    return show_bytes(value) if found["aim"] == "memory" else show_time(value)


def mix_lines(found: Mapping[str, Any]) -> list[str]:
    """The verdict, sentence by sentence."""
    tolerance = f"{found['tolerance']:.3g} nats per token of {found['a']}"
    uniform = ", ".join(f"{u['side']} {show_cost(found, u['cost'])}" for u in found["uniform"])
    what = "weights" if found["aim"] == "memory" else f"a step at batch {found['batch']}, predicted"
    tried = f"{len(found['tried'])} mixtures were measured"
    if found["assignment"] is None:
        why = (
            "within the tries allowed (--tries)"
            if not found["complete"]
            else "that the layers' own losses leave a chance"
        )
        return [f"No mixture keeps {tolerance} {why}; {tried}.", f"Every layer alike: {uniform} ({what})."]
    names = [found["a"], *found["formats"]]
    counts = {name: found["assignment"].count(i) for i, name in enumerate(names)}
    said = ", ".join(f"{n} of {len(found['assignment'])} layers in {name}" for name, n in counts.items() if n)
    sure = "" if found["complete"] else "; ties were passed by after three failures each"
    return [
        f"Cheapest within {tolerance}: {said}; {show_cost(found, found['cost'])} ({what}).",
        f"Measured: {found['loss']:+.4f} nats per token (95 %: {found['low']:+.4f} to {found['high']:+.4f}); {tried}{sure}.",
        f"Every layer alike: {uniform}.",
        f"To bet on it: ridge why {found['model']} '{found['a']}..{_words(found)}'",
    ]


def _words(found: Mapping[str, Any]) -> str:
    """The side without what every side has."""
    return "+".join(part for part in found["side"].split("+") if "layers=" in part) or str(found["a"])
