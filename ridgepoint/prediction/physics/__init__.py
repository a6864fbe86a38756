"""Time models of operators on machines that are not at hand: datasheet figures, and few parameters for each class."""

__all__: list[str] = []
