"""Accuracy on tasks in words: the score that a side costs with its interval, its verdict, and which items flipped."""

from collections.abc import Mapping
from typing import Any

__all__ = ["task_lines", "task_methods"]


def task_lines(block: Mapping[str, Any]) -> list[str]:
    """A line per task and side that was compared with A, or the reason why there is none."""
    lines: list[str] = []
    for task in block.get("tasks", ()):
        if not task["measured"]:
            lines.append(f"{task['task']}: {task['reason']}")
            continue
        a = next(iter(task["sides"].values()))
        lines += [_line(name, side, a, task) for name, side in task["sides"].items() if "loss" in side]
    return lines


def task_methods(block: Mapping[str, Any]) -> list[str]:
    """Per task on which items it was measured, against what tolerance, and by which definition."""
    return [
        f"{task['items']} of {task['of']} items of {task['task']}, seed {task['seed']}, the same for every side, harmless "
        f"below {task['tolerance']:g}; {task['definition']}"
        for task in block.get("tasks", ())
        if task["measured"]
    ]


def _line(name: str, side: Mapping[str, Any], a: Mapping[str, Any], task: Mapping[str, Any]) -> str:
    """`int4 on task.continuation.v1: undecided, about 900 more items would tell; acc 0.845 to 0.840, …`."""
    words = (
        f"{name} on {_protocol(task)}: {_verdict(side)}; {task['metric']} {a['score']:.3f} to {side['score']:.3f}, "
        f"lost {side['loss']:+.4f} (95 %: {side['low']:+.4f} to {side['high']:+.4f})"
    )
    if found := side.get("flips"):
        words += (
            f"; right only before {found['only_a']}, right only after {found['only_b']}, McNemar's p {found['p']:.2g}"
        )
    if "margin_difference" in side:
        words += (
            f"; margin {side['margin_difference']:+.3f} nats "
            f"(95 %: {side['margin_low']:+.3f} to {side['margin_high']:+.3f})"
        )
    return words


def _protocol(task: Mapping[str, Any]) -> str:
    return str(task["definition"]).split(":", 1)[0]


def _verdict(side: Mapping[str, Any]) -> str:
    if side["verdict"] == "undecided":
        return f"undecided, about {side['more_items']} more items would tell"
    return {"loss": "a loss", "small loss": "a loss within the tolerance"}.get(side["verdict"], "harmless")
