"""An architecture class: the fitted parameters that all machines of one generation share, and the record of each fit."""

from collections.abc import Iterator

import msgspec

from ridgepoint.errors import BadInput

__all__ = ["ARCH_SCHEMA", "STEPS", "Arch", "Fit", "Transfer", "decode_arch", "encode_arch"]

ARCH_SCHEMA = 1

STEPS: dict[str, str] = {
    "gpu": "another machine of the class than the parameters were fitted on",
    "version": "another version of the same framework",
    "variant": "another kernel, or another dtype of what it reads, of the same framework",
    "framework": "another framework",
    "class": "another class of machines",
}
"""What may differ between a question and the fit that answers it; each step adds the error that such transfers had."""


class Fit(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Parameters of one operator's time model, in one format and software stack, and what they were fitted on."""

    operator: str
    """The time model: a file of `prediction/physics`, as "gemm" or "attention_decode"."""
    dtype: str
    framework: str = ""
    """The software that ran the kernels; "": all of them together."""
    version: str = ""
    variant: str = ""
    """The kernel, and what else has parameters of its own beside dtype and stack, as the dtype of a KV cache."""
    values: dict[str, float]
    """By the names of the model's parameters; their meaning and unit stand beside the model."""
    spread: tuple[float, ...]
    """Coefficients of the interval's width: `prediction/physics/spread.py`. Fitted on shapes that `values` had not seen."""
    files: tuple[str, ...]
    gpus: tuple[str, ...]
    rows: int
    date: str


class Transfer(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How far off parameters of one operator are where they are taken one step away from what they were fitted on."""

    operator: str
    step: str
    """One of `STEPS`."""
    sigma: float
    """Standard deviation of the log error that the step adds."""
    pairs: int
    """How many transfers it was seen in."""


class Arch(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One class of machines. What it has no fit of, it takes from the classes in `pooled_from`, in that order."""

    schema: int
    name: str
    meaning: str
    pooled_from: tuple[str, ...] = ()
    fits: tuple[Fit, ...] = ()
    transfers: tuple[Transfer, ...] = ()
    sources: dict[str, str] = {}
    """Files that the fits name: what they are, and where they come from."""

    def of(self, operator: str) -> Iterator[Fit]:
        """Fits of one operator."""
        return (fit for fit in self.fits if fit.operator == operator)


def decode_arch(name: str, text: bytes) -> Arch:
    """A class from TOML; malformed files raise BadInput naming the field."""
    try:
        arch = msgspec.toml.decode(text, type=Arch)
    except (msgspec.DecodeError, RecursionError, ValueError) as error:
        raise BadInput(f"architecture class {name}: {error}") from None
    if arch.schema != ARCH_SCHEMA:
        raise BadInput(f"architecture class {name}: schema {arch.schema}; this version reads {ARCH_SCHEMA}")
    unknown = {step.step for step in arch.transfers} - set(STEPS)
    if unknown:
        raise BadInput(f"architecture class {name}: no step {min(unknown)[:40]!r}; possible: {', '.join(STEPS)}")
    return arch


def encode_arch(arch: Arch) -> bytes:
    """The TOML text of a class."""
    return msgspec.toml.encode(msgspec.to_builtins(arch))
