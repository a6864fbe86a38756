"""A target: what a machine can do, read from one TOML file, each figure with its source."""

from collections.abc import Iterator, Sized
from typing import Literal, Protocol

import msgspec
import numpy as np

from ridgepoint.errors import BadInput, NotSupported
from ridgepoint.hardware.figure import ECC, FACTS, FIGURES, Fact, Figure
from ridgepoint.hardware.law import AttentionLaw, LaunchLaw, LinearLaw, PointwiseLaw, ResidencyLaw, ScalingLaw
from ridgepoint.hardware.law_compiled import CompiledLaw
from ridgepoint.hardware.law_contraction import CONV_TERMS, MATMUL_TERMS, ContractionLaw
from ridgepoint.hardware.law_near import NearLaw
from ridgepoint.hardware.law_training import TRAINING_TERMS, TrainingLaw, TrainingNet
from ridgepoint.quantity import Array

__all__ = ["SCHEMA", "Correction", "Level", "Peak", "Target", "decode_target", "encode_target"]

SCHEMA = 2
LINEAR_TERMS = 7
PREFILL_TERMS = 5
DECODE_TERMS = 6


class Sourced(Protocol):
    """A figure or a group of figures that says where it comes from."""

    @property
    def source(self) -> str: ...


class Peak(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Arithmetic rate of one dtype; `scope` says for how many threads or which device.

    `unit`: "tensor" for tensor cores, matrix cores or the like, "vector" for ordinary lanes, "" where a calibration
    measured whatever the library took. `sparse`: with 2:4 structured zeros, of which half the products are not done.
    """

    dtype: str
    flops_per_s: float
    scope: str
    source: str
    unit: Literal["", "tensor", "vector"] = ""
    sparse: bool = False


class Level(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One level of the memory hierarchy with `threads` threads: its size and its read and copy bandwidth."""

    name: str
    bytes: float | None = None
    threads: int = 1
    read_bytes_per_s: float | None = None
    copy_bytes_per_s: float | None = None
    source: str


class Correction(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a network adds to the sum of its operators: seconds per operator call, and the error that remains."""

    per_call_s: float
    sigma: float
    source: str


class Target(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A machine. Absent figures are None or missing rows, never 0; a prediction that needs one refuses."""

    schema: int
    name: str
    kind: Literal["cpu", "gpu", "accelerator"]
    """"accelerator": neither of the others, as a TPU."""
    date: str
    arch: str = ""
    """Its class in `data/arch/`, whose fitted parameters predict it; "" for a machine that was calibrated itself."""
    figures: tuple[Figure, ...] = ()
    facts: tuple[Fact, ...] = ()
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
    contraction: tuple[ContractionLaw, ...] = ()
    """Convolutions and products of activations; there after `ridge calibrate --modules`."""
    module_call_s: float | None = None
    """What a module adds per operator call beyond the operators; None: as networks of decoders do (`correction`)."""
    module_byte_s: float = 0.0
    """What it adds per byte of a result, whose memory is given back between the calls."""
    autograd_call_s: dict[str, float] = {}
    """What an operator call takes more than in inference mode, by mode ("no-grad", "grad"), of linear layers and
    convolutions behind the mode's name with " product"."""
    near: NearLaw | None = None
    """What calls of a small module save; there after `ridge calibrate --modules`."""
    compiled: tuple[CompiledLaw, ...] = ()
    """What torch.compile costs and saves, by dtype; there after `ridge calibrate --compile`."""
    training: tuple[TrainingLaw, ...] = ()
    """Operators of a training step; there after `ridge calibrate --train`."""
    training_nets: tuple[TrainingNet, ...] = ()
    """What whole training steps take over them, by dtype."""
    scaling: tuple[ScalingLaw, ...] = ()
    launch: tuple[LaunchLaw, ...] = ()
    """Host time of eager launches; GPUs only."""
    residency: ResidencyLaw | None = None
    code_residency: ResidencyLaw | None = None
    """Of an operator's code; where absent, as of weights."""
    correction: Correction | None = None
    repeat_sigma: float | None = None
    """Standard deviation of the log of a network's time between visits, by the rounds of its calibration; None: not known."""
    checks: dict[str, str] = {}
    """Outcome of the calibration's self-checks, in words with figures."""
    sources: dict[str, str] = {}
    """What each source key stands for: a document with date, or the record of a calibration."""

    def flops_per_s(self, dtype: str) -> float:
        """Dense peak rate of a dtype by its fastest unit; raises NotSupported naming what the target has."""
        rates = [peak.flops_per_s for peak in self.peaks if peak.dtype == dtype and not peak.sparse]
        if rates:
            return max(rates)
        have = ", ".join(dict.fromkeys(p.dtype for p in self.peaks if not p.sparse)) or "none"
        raise NotSupported(f"{self.name} has no peak rate for {dtype}; it has {have}")

    def memory_bytes_per_s(self) -> float:
        """Read bandwidth of main memory, one thread."""
        for level in self.levels:
            if level.name == "DRAM" and level.threads == 1 and level.read_bytes_per_s is not None:
                return level.read_bytes_per_s
        raise NotSupported(f"{self.name} has no DRAM read bandwidth; `ridge calibrate` measures it")

    def figure(self, name: str) -> float | None:
        """A datasheet figure by its name in `FIGURES`; None where the target lacks it."""
        return next((figure.value for figure in self.figures if figure.name == name), None)

    @property
    def is_datasheet(self) -> bool:
        """Whether predictions come from its figures and its class's parameters: nothing was calibrated on it."""
        return bool(self.arch) and not self.linear

    @property
    def cache_bytes(self) -> float:
        """Bytes of the last cache level; 0 if the target names none."""
        sizes = [level.bytes for level in self.levels if level.name.startswith("L") and level.bytes]
        return max(sizes, default=0.0)

    def cache_bytes_per_s(self, held_bytes: Array) -> Array:
        """Read bandwidth, one thread, of the first cache level that holds so many bytes, or of the last; inf where the target
        has none."""
        levels = [
            x for x in self.levels if x.threads == 1 and x.name.startswith("L") and x.bytes and x.read_bytes_per_s
        ]
        levels.sort(key=lambda level: level.bytes or 0.0)
        if not levels:
            return np.inf
        first = np.searchsorted([level.bytes or 0.0 for level in levels], held_bytes).clip(max=len(levels) - 1)
        return np.asarray([level.read_bytes_per_s for level in levels])[first]

    def linear_laws(self, weight: str) -> Iterator[LinearLaw]:
        """Laws of all kernels that compute with this weight format; of CSR one serves every sparsity."""
        format = "csr" if weight.startswith("csr:") else weight
        return (law for law in self.linear if law.format == format)


def decode_target(name: str, text: bytes) -> Target:
    """A target from TOML; malformed or inconsistent files raise BadInput naming the field."""
    longest = max(map(len, text.splitlines()), default=0)
    if longest > _LONGEST_LINE:
        raise BadInput(f"target {name}: a line of {longest} characters; a target has none beyond {_LONGEST_LINE}")
    try:
        target = msgspec.toml.decode(text, type=Target)
    except (msgspec.DecodeError, RecursionError, ValueError) as error:  # tomllib: huge integers, text that is no UTF-8
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


_MOST_SIGMA = 10
_LONGEST_LINE = 4000


def _check(name: str, target: Target) -> None:
    for what, value in _rates(target):
        if value is not None and not 0 < value < 1e24:
            raise BadInput(f"target {name}: {what} is {value}; possible is a positive, finite number")
    for what, value in _costs(target):
        if not 0 <= value < 1e6:
            raise BadInput(f"target {name}: {what} is {value}; possible is a finite number, not negative")
        if what.endswith(("sigma", "sigma_composed")) and value > _MOST_SIGMA:
            raise BadInput(f"target {name}: {what} is {value}; possible is a relative error of up to {_MOST_SIGMA}")
    for law in target.linear:
        _check_linear(f"target {name}: linear law of {law.kernel}", law)
    for attention in target.attention:
        if (len(attention.decode), len(attention.prefill)) != (DECODE_TERMS, PREFILL_TERMS):
            where = f"target {name}: attention law of {attention.kernel}"
            raise BadInput(f"{where}: needs {DECODE_TERMS} terms for decode and {PREFILL_TERMS} for prefill")
    for contraction in target.contraction:
        terms = {"conv": CONV_TERMS, "matmul": MATMUL_TERMS}.get(contraction.kind)
        if terms is None or len(contraction.terms) != terms:
            where = f"target {name}: contraction law of {contraction.kind} {contraction.form}"
            raise BadInput(f"{where}: needs kind conv with {CONV_TERMS} terms, or matmul with {MATMUL_TERMS}")
    for compiled in target.compiled:
        if not abs(compiled.kept_call_s) < 1:
            raise BadInput(f"target {name}: compiled law of {compiled.dtype}: kept_call_s is {compiled.kept_call_s}")
    for training in target.training:
        if TRAINING_TERMS.get(training.form) != len(training.terms):
            where = f"target {name}: training law of {training.subject} {training.sweep}"
            raise BadInput(
                f"{where}: needs a form of {', '.join(TRAINING_TERMS)} with {TRAINING_TERMS.get(training.form)} terms"
            )
    for scaling in target.scaling:
        _check_curve(f"target {name}: scaling of {scaling.subject}", scaling.m, scaling.speedup)
    if target.near is not None:
        _check_near(f"target {name}: near", target.near)
    for what, residency in (("residency", target.residency), ("code_residency", target.code_residency)):
        if residency is not None:
            _check_curve(f"target {name}: {what}", residency.working_set_bytes, residency.miss)
            if any(not 0 <= share <= 1 for share in residency.miss):
                raise BadInput(f"target {name}: {what}: miss must be shares from 0 to 1")
    for figure in target.figures:
        if figure.name not in FIGURES:
            raise BadInput(f"target {name}: no figure {figure.name[:40]!r}; possible: {', '.join(FIGURES)}")
    share = target.figure("dram_stream_share")
    if share is not None and not 0 < share <= 1:
        raise BadInput(f"target {name}: dram_stream_share is {share:g}; possible is a share above 0, up to 1")
    for fact in target.facts:
        if fact.name not in FACTS:
            raise BadInput(f"target {name}: no fact {fact.name[:40]!r}; possible: {', '.join(FACTS)}")
        if fact.name == "ecc" and fact.text not in ECC:
            raise BadInput(f"target {name}: ecc is {fact.text[:40]!r}; possible: {', '.join(ECC)}")
    unknown = {x.source for x in _sourced(target)} - set(target.sources)
    if unknown:
        raise BadInput(f"target {name}: source {min(unknown)!r} is used but not listed under [sources]")


def _rates(target: Target) -> Iterator[tuple[str, float | None]]:
    yield "memory_bytes", target.memory_bytes
    yield "cores", target.cores
    yield from ((figure.name, figure.value) for figure in target.figures)
    for peak in target.peaks:
        yield f"peak {peak.dtype}", peak.flops_per_s
    for level in target.levels:
        yield f"{level.name} size", level.bytes
        yield f"{level.name} read bandwidth", level.read_bytes_per_s
        yield f"{level.name} copy bandwidth", level.copy_bytes_per_s
    for law in target.linear:
        yield f"linear law of {law.kernel}: composed", law.composed
    for attention in target.attention:
        yield f"attention law of {attention.kernel}: composed", attention.composed
    for pointwise in target.pointwise:
        yield f"pointwise law of {pointwise.kind}: composed", pointwise.composed
    for net in target.training_nets:
        yield f"training nets {net.dtype}: factor", net.factor
    for curve in target.scaling:
        yield from ((f"scaling of {curve.subject}: speedup", x) for x in curve.speedup)


def _costs(target: Target) -> Iterator[tuple[str, float]]:
    """Every number of every law but its grid, so that a new field cannot be forgotten here."""
    if target.module_call_s is not None:
        yield "module_call_s", target.module_call_s
    yield "module_byte_s", target.module_byte_s
    yield from ((f"autograd_call_s of {mode}", seconds) for mode, seconds in target.autograd_call_s.items())
    laws: list[tuple[str, msgspec.Struct]] = [(f"linear law of {x.kernel}", x) for x in target.linear]
    laws += [(f"attention law of {x.kernel}", x) for x in target.attention]
    laws += [(f"pointwise law of {x.kind}", x) for x in target.pointwise]
    laws += [(f"{x.kind} law of {x.form} {x.dtype}", x) for x in target.contraction]
    laws += [(f"scaling of {x.subject}", x) for x in target.scaling]
    laws += [(f"launch of {x.subject}", x) for x in target.launch]
    laws += [(f"compiled law of {x.dtype}", x) for x in target.compiled]
    laws += [(f"training law of {x.subject} {x.sweep}", x) for x in target.training]
    laws += [(f"training nets {x.dtype}", x) for x in target.training_nets]
    laws += [("correction", target.correction)] if target.correction is not None else []
    for where, law in laws:
        for field in law.__struct_fields__:
            if field not in _SIGNED:
                yield from ((f"{where}: {field}", x) for x in _floats(getattr(law, field)))


_SIGNED = ("m", "displaced_m", "kept_call_s", "near_bytes", "first_bytes")
"""Grids and sizes, which are checked by themselves, and the one cost that may be negative."""


def _floats(value: object) -> Iterator[float]:
    if isinstance(value, float):
        yield value
    elif isinstance(value, tuple):
        for inner in value:
            yield from _floats(inner)


def _sourced(target: Target) -> Iterator[Sourced]:
    yield from target.figures
    yield from target.facts
    for group in (target.peaks, target.levels, target.linear, target.attention, target.pointwise, target.scaling):
        yield from group
    yield from target.contraction
    yield from target.compiled
    yield from target.training
    yield from target.training_nets
    yield from target.launch
    yield from (x for x in (target.residency, target.code_residency, target.correction, target.near) if x is not None)


def _check_linear(where: str, law: LinearLaw) -> None:
    rows = (*law.cold, *law.hot)
    wrong_rows = any(len(row) != LINEAR_TERMS for row in rows)
    if len(law.cold) != len(law.m) or len(law.hot) != len(law.m) or wrong_rows or len(law.m) < 2:
        raise BadInput(f"{where}: needs one row of {LINEAR_TERMS} terms for each of at least 2 values of m")
    for name in ("near_bytes", "first_bytes"):
        if not 0 <= getattr(law, name) < 1e12:
            raise BadInput(f"{where}: {name} is {getattr(law, name)}; possible is the size of a cache, or 0")
    _check_curve(where, law.m, law.cold)
    _check_curve(f"{where}: displaced", law.displaced_m, law.displaced)


def _check_near(where: str, near: NearLaw) -> None:
    _check_curve(where, near.displaced_bytes, near.lost)
    if any(not 0 <= x < 1 for x in near.saved_s.values()):
        raise BadInput(f"{where}: savings must be seconds from 0 to 1")
    if list(near.lost) != sorted(near.lost) or not 0 <= near.lost[0] <= near.lost[-1] == 1:
        raise BadInput(f"{where}: lost must grow from 0 or more to 1")


def _check_curve(where: str, grid: tuple[float, ...], values: Sized) -> None:
    if not grid or len(grid) != len(values):
        raise BadInput(f"{where}: needs one value for each of at least 1 point; got {len(values)} for {len(grid)}")
    if not all(0 < x < 1e24 for x in grid) or list(grid) != sorted(set(grid)):
        raise BadInput(f"{where}: its points must be positive and finite, and grow")
