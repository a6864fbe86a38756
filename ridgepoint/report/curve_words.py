"""Loss curves in words: where each side ends, and how far it is from A with an interval over the seeds."""

from collections.abc import Iterator, Mapping
from typing import Any

from ridgepoint.report.words import clean

__all__ = ["curve_lines"]


def curve_lines(curve: Mapping[str, Any]) -> Iterator[str]:
    """A line per side, and one that says how it was found; nothing where no curve was asked for."""
    if not curve.get("measured"):
        return
    for name, side in curve["sides"].items():
        yield (
            f"{clean(name)}: loss apart {side['before']:.4f} before, {side['after']:.4f} after {curve['steps']} steps "
            f"(95 %: {side['after_low']:.4f} to {side['after_high']:.4f}){_difference(side)}"
        )
    first, *_ = curve["sides"].values()
    yield (
        f"nats per token over {len(curve['seeds'])} seeds on {clean(curve['text'])}, {curve['batch']} x {curve['length']} "
        f"tokens a step; a step's own loss goes from {first['loss'][0]:.4f} to {first['loss'][-1]:.4f} on A; "
        f"{curve['definition']}"
    )


def _difference(side: Mapping[str, Any]) -> str:
    if "difference" not in side:
        return ""
    low, high = side["difference_low"], side["difference_high"]
    verdict = "better" if high < 0 else "worse" if low > 0 else "undecided"
    return f", {side['difference']:+.4f} against A ({low:+.4f} to {high:+.4f}, {verdict})"
