"""Measurements that others published: tables with one row for each measured operator, read into the time models' words."""

__all__: list[str] = []
