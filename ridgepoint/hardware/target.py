"""A target: what a machine can do, read from one TOML file, each figure with its source."""

from collections.abc import Iterator

import msgspec

from ridgepoint.errors import BadInput, NotSupported
from ridgepoint.hardware.law import AttentionLaw, LinearLaw, PointwiseLaw, ResidencyLaw, ScalingLaw

__all__ = ["SCHEMA", "Correction", "Level", "Peak", "Target", "decode_target", "encode_target"]

SCHEMA = 1


class Peak(msgspec.Struct, frozen=True, kw_only=True):
    """Arithmetic rate of one dtype, dense; `scope` says for how many threads or which device."""

    dtype: str
    flops_per_s: float
    scope: str
    source: str


class Level(msgspec.Struct, frozen=True, kw_only=True):
    """One level of the memory hierarchy with `threads` threads: its size and its read and copy bandwidth."""

    name: str
    bytes: float | None = None
    threads: int = 1
    read_bytes_per_s: float | None = None
    copy_bytes_per_s: float | None = None
    source: str


class Correction(msgspec.Struct, frozen=True, kw_only=True):
    """What a network adds to the sum of its operators: seconds per operator call, and the error that remains."""

    per_call_s: float
    sigma: float
    source: str


class Target(msgspec.Struct, frozen=True, kw_only=True):
    """A machine. Absent figures are None or missing rows, never 0; a prediction that needs one refuses."""

    schema: int
    name: str
    kind: str
    """"cpu" or "gpu"."""
    date: str
    aliases: tuple[str, ...] = ()
    machine: dict[str, str] = {}
    machine_id: str = ""
    cores: int | None = None
    memory_bytes: float | None = None
    peaks: tuple[Peak, ...] = ()
    levels: tuple[Level, ...] = ()
    linear: tuple[LinearLaw, ...] = ()
    attention: tuple[AttentionLaw, ...] = ()
    pointwise: tuple[PointwiseLaw, ...] = ()
    scaling: tuple[ScalingLaw, ...] = ()
    residency: ResidencyLaw | None = None
    correction: Correction | None = None
    checks: dict[str, str] = {}
    """Outcome of the calibration's self-checks, in words with figures."""
    sources: dict[str, str] = {}
    """What each source key stands for: a document with date, or the record of a calibration."""

    def flops_per_s(self, dtype: str) -> float:
        """Peak rate of a dtype; raises NotSupported naming what the target has."""
        for peak in self.peaks:
            if peak.dtype == dtype:
                return peak.flops_per_s
        have = ", ".join(p.dtype for p in self.peaks) or "none"
        raise NotSupported(f"{self.name} has no peak rate for {dtype}; it has {have}")

    def memory_bytes_per_s(self) -> float:
        """Read bandwidth of main memory, one thread."""
        for level in self.levels:
            if level.name == "DRAM" and level.threads == 1 and level.read_bytes_per_s is not None:
                return level.read_bytes_per_s
        raise NotSupported(f"{self.name} has no DRAM read bandwidth; `ridge calibrate` measures it")

    @property
    def cache_bytes(self) -> float:
        """Bytes of the last cache level; 0 if the target names none."""
        sizes = [level.bytes for level in self.levels if level.name.startswith("L") and level.bytes]
        return max(sizes, default=0.0)

    def linear_laws(self, weight: str) -> Iterator[LinearLaw]:
        """Laws of all kernels that compute with this weight format."""
        return (law for law in self.linear if law.format == weight)


def decode_target(name: str, text: bytes) -> Target:
    """A target from TOML; malformed or inconsistent files raise BadInput naming the field."""
    try:
        target = msgspec.toml.decode(text, type=Target)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadInput(f"target {name}: {error}") from None
    if target.schema != SCHEMA:
        raise BadInput(
            f"target {name}: schema {target.schema}; this version reads {SCHEMA}; run `ridge calibrate` again"
        )
    _check(name, target)
    return target


def encode_target(target: Target) -> bytes:
    """The TOML text of a target; absent figures are left out."""
    plain = msgspec.to_builtins(target)
    return msgspec.toml.encode(_without_none(plain))


def _without_none(value: object) -> object:
    if isinstance(value, dict):
        return {k: _without_none(v) for k, v in value.items() if v is not None}
    if isinstance(value, list | tuple):
        return [_without_none(v) for v in value]
    return value


def _check(name: str, target: Target) -> None:
    figures = [(f"peak {p.dtype}", p.flops_per_s) for p in target.peaks]
    figures += [(f"{x.name} bandwidth", x.read_bytes_per_s) for x in target.levels if x.read_bytes_per_s is not None]
    if target.memory_bytes is not None:
        figures.append(("memory_bytes", target.memory_bytes))
    for what, value in figures:
        if not 0 < value < 1e24:
            raise BadInput(f"target {name}: {what} is {value}; possible is a positive, finite number")
    for law in target.linear:
        _check_law(name, law)
    used = {x.source for group in (target.peaks, target.levels, target.linear, target.attention) for x in group}
    unknown = used - set(target.sources)
    if unknown:
        raise BadInput(f"target {name}: source {sorted(unknown)[0]!r} is used but not listed under [sources]")


def _check_law(name: str, law: LinearLaw) -> None:
    where = f"target {name}: linear law of {law.kernel}"
    rows = (*law.cold, *law.hot)
    if len(law.cold) != len(law.m) or len(law.hot) != len(law.m) or any(len(r) != 5 for r in rows) or len(law.m) < 2:
        raise BadInput(f"{where}: needs one row of 5 terms for each of at least 2 values of m")
    if any(not 0 <= x < 1e6 for row in rows for x in row) or list(law.m) != sorted(set(law.m)) or law.m[0] <= 0:
        raise BadInput(f"{where}: m must grow, and terms must be finite and not negative")
