"""A case of a broken promise: one TOML file with the question, the promise, the thread, the run and what is known of it."""

import datetime
import re
from collections.abc import Iterable
from importlib.resources import files
from pathlib import Path
from typing import Literal

import msgspec

import ridgepoint
from ridgepoint.choice import parse_bet
from ridgepoint.errors import BadInput, UnknownName

__all__ = [
    "Case", "Fit", "FitRun", "Flip", "Known", "Machine", "Machines", "MachinesRun", "Mfu", "MfuRun", "Thread", "Why", "WhyRun",
    "cases_named", "decode_case", "packaged_cases", "read_cases",
]  # fmt: skip

Verdict = Literal["faster", "slower", "flat", "short"]
"""flat: within 10 % of A; short: at least 20 % less speed-up than the promise, slower included."""
Ratio = Literal[
    "bits", "weight bytes", "KV bytes", "bytes", "attention bytes", "FLOPs", "zeros", "devices", "peak", "batch"
]
_MAX_BYTES = 64 * 1024
_NAME = re.compile(r"[a-z0-9][a-z0-9-]{1,40}")


class Thread(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A public issue or pull request, cited and never quoted."""

    title: str
    repository: str
    number: int
    date: datetime.date
    """Of its opening."""


class Known(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the threads and the physics say at one batch; `having`, `lacking`: only on CPUs with, without these features."""

    batch: int
    verdict: Verdict
    having: tuple[str, ...] = ()
    lacking: tuple[str, ...] = ()


class Flip(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Between which batches the faster side changes, as far as it is known."""

    low: float
    high: float
    having: tuple[str, ...] = ()
    lacking: tuple[str, ...] = ()


class Claim(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The naive ratio that was believed: of A to B, computed from their plans; `zeros` is the share that B sets to 0."""

    ratio: Ratio
    zeros: float | None = None


class WhyRun(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A bet on one B, as `ridge why` takes it; `paper_only`: why no machine here can run it."""

    model: str
    bet: str
    phase: str = "decode"
    batches: tuple[int, ...] = (1, 16)
    isl: int = 128
    dtype: str = ""
    with_: str = msgspec.field(default="", name="with")
    threads: int = 1
    device: str = "cpu"
    on: str = "host"
    stack: str = ""
    paper_only: str = ""


class Machine(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One of two machines that are compared, with how many devices of it share the model."""

    on: str = "host"
    device: str = "cpu"
    tp: int = 1
    stack: str = ""


class MachinesRun(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The same side on two machines; on paper only, because no measurement compares machines silently."""

    model: str
    a: Machine
    b: Machine
    paper_only: str
    side: str = "bf16"
    phase: str = "decode"
    batches: tuple[int, ...] = (1,)
    isl: int = 128


class FitRun(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A question for `ridge fit`; `context` None: as many tokens as the model takes."""

    model: str
    on: str
    paper_only: str
    fits: bool
    """What the thread found."""
    context: int | None = None
    users: int = 1
    with_: str = msgspec.field(default="", name="with")
    kv_dtype: str = ""


class MfuRun(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An MFU that somebody reported, by the peak of the machine `peak_of`, of a run on the machine `on`."""

    mfu: float
    peak_of: str
    on: str
    dtype: str
    paper_only: str


class Base(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind"):
    """What every case has. `seconds`: how long a run takes on one slow core; `holds`: where the known verdict holds."""

    question: str
    promise: str
    thread: tuple[Thread, ...]
    holds: str
    seconds: float
    name: str = ""


class Why(Base, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="why"):
    """A bet: is B faster than A?"""

    run: WhyRun
    claim: Claim
    known: tuple[Known, ...] = ()
    flip: Flip | None = None


class Machines(Base, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="machines"):
    """Is one machine faster than another?"""

    run: MachinesRun
    claim: Claim
    known: tuple[Known, ...] = ()


class Fit(Base, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="fit"):
    """Does it fit?"""

    run: FitRun


class Mfu(Base, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="mfu"):
    """Can this utilisation be?"""

    run: MfuRun


Case = Why | Machines | Fit | Mfu


def decode_case(name: str, text: bytes) -> Case:
    """A case from TOML; BadInput that names file and field for what is malformed."""
    try:
        case = msgspec.toml.decode(text, type=Case)  # type: ignore[call-overload]
    except (msgspec.DecodeError, RecursionError, ValueError) as error:
        raise BadInput(f"case {name}: {error}") from None
    if not _NAME.fullmatch(name):
        raise BadInput(f"case {name[:60]!r}: its name takes small letters, digits and hyphens, at most 41")
    if case.name:
        raise BadInput(f"case {name}: its file's name is its name; leave `name` out")
    _check(name, case)
    return msgspec.structs.replace(case, name=name)


def _check(name: str, case: Case) -> None:
    if not case.thread or not all(t.title and "/" in t.repository and t.number > 0 for t in case.thread):
        raise BadInput(f"case {name}: cite a thread with its title, owner/repository and number")
    if not 0 < case.seconds <= 600 or not all((case.question, case.promise, case.holds)):
        raise BadInput(f"case {name}: needs question, promise, holds and seconds (0 to 600)")
    if isinstance(case, Mfu) and not 0 < case.run.mfu < 100:
        raise BadInput(f"case {name}: an MFU of {case.run.mfu} was never reported; 1 is 100 %")
    if isinstance(case, Why | Machines):
        _check_speedup(name, case)


def _check_speedup(name: str, case: Why | Machines) -> None:
    grid = case.run.batches
    if not grid or grid != tuple(sorted(set(grid))) or grid[0] < 1:
        raise BadInput(f"case {name}: batches are positive, each larger than the one before")
    if wrong := [k.batch for k in case.known if k.batch not in grid]:
        raise BadInput(f"case {name}: known of batch {wrong[0]}, which the run does not have")
    if (case.claim.ratio == "zeros") != (case.claim.zeros is not None) or not 0 <= (case.claim.zeros or 0.0) < 1:
        raise BadInput(f"case {name}: a claim by zeros, and only that, names their share, from 0 to below 1")
    if not isinstance(case, Why):
        return
    try:
        sides = parse_bet(case.run.bet)[1]
    except BadInput as error:
        raise BadInput(f"case {name}: {error}") from None
    if len(sides) != 1:
        raise BadInput(f"case {name}: {case.run.bet!r} has several B's; a case is about one")
    if case.flip and not 0 < case.flip.low <= case.flip.high <= 2**20:
        raise BadInput(f"case {name}: a flip is known from `low` to `high`, both positive batches")


def packaged_cases() -> Path:
    """The folder of the cases: inside an installed package, else that of the checkout."""
    inside = Path(str(files("ridgepoint") / "data" / "promises"))
    return inside if inside.is_dir() else Path(ridgepoint.__file__).parents[1] / "benchmarks" / "promises"


def read_cases(extra: Iterable[Path] = ()) -> dict[str, Case]:
    """All cases by name, those of the folders `extra` included; BadInput for a folder without any, or a name that is
    there twice."""
    found: dict[str, Case] = {}
    for folder in (packaged_cases(), *extra):
        paths = sorted(folder.glob("*.toml"), key=lambda p: p.stem) if folder.is_dir() else []
        if not paths:
            raise BadInput(f"{folder}: no folder with cases; a case is a file NAME.toml")
        for path in paths:
            if path.stem in found:
                raise BadInput(f"{path}: there is a case {path.stem} already; give it another name")
            found[path.stem] = decode_case(path.stem, _read(path))
    return found


def _read(path: Path) -> bytes:
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise BadInput(f"{path}: too long for a case; at most {_MAX_BYTES} bytes")
        return path.read_bytes()
    except OSError as error:
        raise BadInput(f"{path}: cannot be read: {error.strerror}") from None


def cases_named(text: str, cases: dict[str, Case]) -> list[Case]:
    """`all`, or names by commas; UnknownName with the nearest for what is no case."""
    if text == "all":
        return list(cases.values())
    names = list(dict.fromkeys(word.strip() for word in text.split(",")))
    for name in names:
        if name not in cases:
            raise UnknownName("case", name, cases, "`ridge promises` lists them; all runs every one")
    return [cases[name] for name in names]
