"""Broken promises: the questions that fill issue trackers as cases that are bet on, measured and scored."""

__all__: list[str] = []
