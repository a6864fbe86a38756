"""Names of dtypes in published tables, in the spelling of this package."""

import numpy as np

from ridgepoint.study.published.table import Texts

__all__ = ["our_dtype", "our_dtypes"]

_OURS = {"bfloat16": "bf16", "float16": "fp16", "half": "fp16", "float32": "fp32", "float": "fp32", "w8a8": "int8"}


def our_dtype(name: str) -> str:
    """`our_dtype("bfloat16") == "bf16"`; a name without another spelling stays."""
    return _OURS.get(name, name)


def our_dtypes(column: Texts) -> Texts:
    """The same for a column."""
    return np.array([our_dtype(str(name)) for name in column], dtype=np.str_)
