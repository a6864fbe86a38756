"""The meeting point: paper and metal of one question side by side."""

__all__: list[str] = []
