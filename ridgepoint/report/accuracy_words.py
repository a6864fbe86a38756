"""Accuracy in words: the loss that a side costs with its interval, its verdict, and how near it is to the reference."""

from collections.abc import Mapping
from typing import Any

from ridgepoint.report.task_words import task_lines
from ridgepoint.report.words import percent

__all__ = ["accuracy_lines", "accuracy_method"]


def accuracy_lines(block: Mapping[str, Any]) -> list[str]:
    """A line per side that was compared with A, on the text and on each task, or the reason why there is none."""
    tasks = task_lines(block)
    if not block.get("measured"):
        return tasks or [str(block.get("reason", "not measured"))]
    lines = [_line(name, side) for name, side in block["sides"].items() if "difference" in side]
    return [*lines, *([str(block["note"])] if lines and block.get("note") else []), *tasks]


def _line(name: str, side: Mapping[str, Any]) -> str:
    """`int8: harmless, +0.0004 nats per token (95 %: -0.0001 to +0.0009); …`."""
    interval = f"{side['difference']:+.4f} nats per token (95 %: {side['low']:+.4f} to {side['high']:+.4f})"
    near = f"KL {side['kl']:.2g}, same first choice for {percent(side['top1'])}"
    return f"{name}: {_verdict(side)}, {interval}; {near}"


def _verdict(side: Mapping[str, Any]) -> str:
    if side["verdict"] == "undecided":
        return f"undecided, about {side['more_windows']} more windows would tell"
    return {"loss": "a loss", "small loss": "a loss within the tolerance"}.get(side["verdict"], "harmless")


def accuracy_method(block: Mapping[str, Any]) -> str:
    """On what it was measured, against what, and by which definition."""
    if not block.get("measured"):
        return ""
    losses = ", ".join(f"{name} {side['loss']:.4f}" for name, side in block["sides"].items())
    return (
        f"loss in nats per token: {losses}, reference {block['reference_loss']:.4f} ({block['reference']}); "
        f"{block['windows']} windows of {block['text']}, seed {block['seed']}, harmless below {block['tolerance']:g}; "
        f"{block['definition']}"
    )
