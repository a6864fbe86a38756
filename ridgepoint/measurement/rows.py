"""Names of measured rows that are no operator of the plan."""

__all__ = ["BETWEEN", "OUTSIDE"]

OUTSIDE = "not in the trace"
"""Of calls that were made, but not when the module was traced."""
BETWEEN = "between the calls"
"""What passes between one call of a module's and the next: its Python, and memory that is given back."""
