"""Model families that run, one file each."""

__all__: list[str] = []
