"""Metal: times, memory and energy of real work on this machine, each with the evidence that it can be trusted."""

__all__: list[str] = []
