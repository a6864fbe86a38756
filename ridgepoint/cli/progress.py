"""The progress bar of long work, on standard error."""

from typing import Any

__all__ = ["progress_bar"]


def progress_bar() -> tuple[Any, Any]:
    """A bar that is not started yet, and its one task."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    progress = Progress(
        SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
        console=Console(stderr=True), transient=True,
    )  # fmt: skip
    return progress, progress.add_task("starting", total=None)
