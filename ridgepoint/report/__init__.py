"""Documents in, renderings out: tables for a terminal (`report.terminal`) and one HTML page (`report.html`)."""

__all__: list[str] = []
