"""The documents of a bet: what was predicted and hashed, what was then measured, and what follows."""

from typing import Any, Literal

import msgspec

__all__ = [
    "Answer", "Bet", "BreakEven", "Curve", "Flip", "OpCard", "Point", "RecordRow", "Roof", "SideCard", "answer_from",
    "bet_from", "plain",
]  # fmt: skip


class OpCard(msgspec.Struct, frozen=True, kw_only=True):
    """One operator of a side as predicted: all its calls in a step."""

    name: str
    kind: str
    kernel: str
    time_s: float
    flops: float
    bytes: float
    bound: str


class Roof(msgspec.Struct, frozen=True, kw_only=True):
    """A limit of the machine: bytes/s of a level of memory, or FLOP/s of a dtype."""

    kind: Literal["memory", "compute"]
    name: str
    per_s: float


class RecordRow(msgspec.Struct, frozen=True, kw_only=True):
    """How right earlier bets of a kind were on this machine, as known when a bet was settled."""

    group: str
    points: int
    step_error: float
    """Mean of |predicted / measured - 1| of step times."""
    sign_right: int
    sign_n: int
    """Of effects beyond 10 %."""
    inside: float | None
    """Share of measured speed-ups inside their 80 % intervals."""


class SideCard(msgspec.Struct, frozen=True, kw_only=True):
    """One side in full: as typed, settled, its kernels by operator, its memory and what bounds it at each end."""

    text: str
    spec: str
    kernels: dict[str, str]
    """Operator -> kernel at the first batch; at others the fastest of the choice's kernels may be another."""
    memory_bytes: float
    """At the largest batch of the grid."""
    weight_bytes: float
    bounds: dict[str, dict[str, float]]
    """Batch -> {bound: share of the predicted time}."""
    shares: dict[str, dict[str, float]]
    """Batch -> {operator: share of the predicted time}."""
    ops: dict[str, tuple[OpCard, ...]] = {}
    """Batch -> its operators, longest first."""
    memory_items: dict[str, dict[str, float]] = {}
    """Of a training step: batch -> {item: bytes}, "peak" among them."""
    compile_s: float | None = None
    """Predicted seconds until its first step is compiled, for each shape anew."""
    sparsity: dict[str, float] = {}
    """Of a side that takes something away: shares of the linear layers' weights that are zero (`zeros`) and that its kernels
    skip (`skipped`), share of the parameters that is gone (`removed`), and the sparsity `asked` for."""
    family: str = ""
    """Sides of one family differ in their sparsity alone."""


class Curve(msgspec.Struct, frozen=True, kw_only=True):
    """Predicted speed-up of b over a (per token) by batch, with its 80 % interval, step times and the roofline's word."""

    b: str
    batch: tuple[int, ...]
    speedup: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    a_s: tuple[float, ...]
    b_s: tuple[float, ...]
    roofline: tuple[float, ...]
    """Speed-up by max(FLOPs/peak, bytes/bandwidth): the yardstick."""
    ceiling: tuple[float, ...]
    """Amdahl: speed-up if what the choice rewrites took no time at all."""
    outside: str = ""
    """What of the predicted saving is not the weight format's, in a sentence; "" where that is little. Of training steps what
    of A's step B still pays, at both ends."""


class Flip(msgspec.Struct, frozen=True, kw_only=True):
    """Where the faster side changes: the batch, and the interval in which it may lie."""

    batch: float
    low: float
    high: float


class BreakEven(msgspec.Struct, frozen=True, kw_only=True):
    """Share of weights that are not zero below which kernels that skip zeros are faster than A, at one batch."""

    family: str
    batch: int
    density: float | None
    """0: never; 1: at any density; None: measured on one side of it only."""
    low: float
    high: float
    """Ends of the 80 % interval of a prediction; of a measurement the densities next to it that were measured."""


class Bet(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that was stated before the first measurement."""

    model: str
    shape: dict[str, Any] = {}
    """The workload noun in full, so that the record needs no file beside it."""
    random_weights: bool
    phase: str
    context: int
    new: int
    grid: tuple[int, ...]
    device: str
    target: str
    target_date: str
    machine_id: str
    a: SideCard
    b: tuple[SideCard, ...]
    curves: tuple[Curve, ...]
    flips: dict[str, Flip | None]
    break_even: tuple[BreakEven, ...] = ()
    tie: float
    """Speed-ups within this of 1 are a tie; fixed beforehand."""
    roofs: tuple[Roof, ...] = ()
    statement: str
    flags: tuple[str, ...] = ()


class Point(msgspec.Struct, frozen=True, kw_only=True):
    """One measured comparison beside its prediction; absent measurements are None with a reason in `flags`."""

    a: str
    b: str
    batch: int
    predicted_speedup: float
    predicted_low: float
    predicted_high: float
    measured_speedup: float | None
    measured_low: float | None
    measured_high: float | None
    verdict: str
    predicted_a_s: float
    predicted_b_s: float
    measured_a_s: float | None
    measured_b_s: float | None
    roofline_speedup: float
    roofline_a_s: float | None = None
    roofline_b_s: float | None = None
    clock: str = ""
    rounds: int = 0
    spread: float | None = None
    load: str = ""
    peak_memory_bytes: float | None = None
    energy_a_j: float | None = None
    energy_b_j: float | None = None
    energy_intervals_j: dict[str, tuple[float, float]] = {}
    """95 % interval of the energy of "a" and of "b"."""
    energy_method: str = ""
    held: dict[str, dict[str, float]] = {}
    """Of a training step: "a" and "b" -> {item: bytes counted}, "peak" among them."""
    zeros: dict[str, float] = {}
    """Of a side that sets weights to zero: "a" and "b" -> share of its linear layers' weights that is zero, counted."""
    compile_s: dict[str, float] = {}
    """Measured seconds until the first step of "a" or "b" was compiled."""
    flags: tuple[str, ...] = ()
    record: str = ""


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """What `ridge why --json` prints and `ridge report` renders."""

    id: str
    """The bet's record."""
    created: str
    digest: str
    """sha256 of the bet as stored before measuring."""
    bet: Bet
    points: tuple[Point, ...]
    flip_predicted: float | dict[str, float | None] | None
    """The batch, or null; with several B's an object by side."""
    flip_measured: float | dict[str, float | None] | None
    break_even: tuple[BreakEven, ...] = ()
    """As measured, where at least two densities were."""
    accuracy: dict[str, Any]
    energy: dict[str, Any]
    curve: dict[str, Any] = {}
    """Loss curves of short training runs of each side; empty where none were asked for."""
    verdict: str
    sufficiency: dict[str, Any] = {}
    """Which sides suffice within the tolerance, and which are beaten; empty where accuracy was not measured."""
    record: tuple[RecordRow, ...] = ()
    """The score of the bets that were settled before this one."""
    complete: bool = True
    """False where Ctrl-C came before the last point: the bet stays open, and the same command goes on with it."""
    flags: tuple[str, ...] = ()
    machine: dict[str, Any] = {}
    versions: dict[str, str] = {}


def plain(document: Answer | Bet | Point) -> dict[str, Any]:
    """The document as JSON-ready values."""
    value = msgspec.to_builtins(document)
    assert isinstance(value, dict)
    return value


def bet_from(body: dict[str, Any]) -> Bet:
    """A stored bet back as a noun."""
    return msgspec.convert(body, Bet)


def answer_from(body: dict[str, Any]) -> Answer:
    """A stored answer back as a noun."""
    return msgspec.convert(body, Answer)
