"""The runnable side of a model in torch: built from a decoder's shape, converted by a function, never by a choice."""

__all__: list[str] = []
