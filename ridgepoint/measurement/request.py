"""What is asked of the measuring child process, as plain JSON: a pair, one side alone, a trace, or a calibration."""

from typing import Any

import msgspec

from ridgepoint.choice import Side, resolve
from ridgepoint.workload import Decoder, Group, LinearLayer, Step, Traced, Workload

__all__ = [
    "AccuracyRequest", "CalibrationRequest", "CurveRequest", "MixedRequest", "PairRequest", "SideRequest", "SingleRequest",
    "StepRequest", "Subject", "TasksRequest", "TextRequest", "TraceRequest", "step_request", "subject",
]  # fmt: skip

Subject = Decoder | LinearLayer | Traced
"""What can be run."""


class StepRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A step of like sequences, or of several groups."""

    phase: str
    groups: tuple[tuple[int, int, int], ...]
    """(count, new, cached) of each group."""
    logits: str = "last"

    def step(self) -> Step:
        """The noun."""
        return Step(self.phase, tuple(Group(*g) for g in self.groups), self.logits)  # type: ignore[arg-type]


def step_request(step: Step) -> StepRequest:
    """The request for a step of scalars."""
    groups = tuple((int(g.count), int(g.new), int(g.cached)) for g in step.groups)
    return StepRequest(phase=step.phase, groups=groups, logits=step.logits)


class SideRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A settled side, and the kernel that the prediction names for each operator."""

    spec: str
    device: str
    kernels: dict[str, str] = {}

    def side(self) -> Side:
        """The noun; `spec` is complete, so nothing is defaulted."""
        return resolve(self.spec, "bf16", self.device)


class TextRequest(msgspec.Struct, frozen=True, kw_only=True):
    """Which text, cut how: `protocol` is one of `measurement.text.PROTOCOLS`; `windows` of them are drawn by `seed`."""

    path: str
    protocol: str
    windows: int
    seed: int = 0


class _Measurable(msgspec.Struct, frozen=True, kw_only=True):
    decoder: Decoder | None = None
    linear: tuple[int, int] | None = None
    traced: Traced | None = None
    directory: str = ""
    cache_bytes: float = 32e6

    def workload(self) -> Subject:
        """The noun that is to be run."""
        found = self.decoder or self.traced
        if found is not None:
            return found
        assert self.linear is not None, "a request names a decoder, a linear layer or a module"
        return LinearLayer(*self.linear)


def subject(workload: Workload) -> dict[str, Any]:
    """The fields of a request that name the workload."""
    return {
        "decoder": workload if isinstance(workload, Decoder) else None,
        "linear": (workload.n, workload.k) if isinstance(workload, LinearLayer) else None,
        "traced": workload if isinstance(workload, Traced) else None,
    }


class TraceRequest(msgspec.Struct, frozen=True, kw_only=True, tag="trace"):
    """The module that `name` of the file builds, as calls in each of the dtypes ("" is its own)."""

    path: str
    name: str
    dtypes: tuple[str, ...] = ("",)


class PairRequest(_Measurable, frozen=True, kw_only=True, tag="pair"):
    """Two sides, interleaved."""

    a: SideRequest
    b: SideRequest
    step: StepRequest
    seconds: float = 8.0
    slow_b: float = 1.0
    """Factor by which side b is slowed down on purpose, to check that the comparison sees it; 1 is not at all."""
    energy_s: float = 0.0
    """Seconds to spend on the energy of both sides; 0 is none."""


class SingleRequest(_Measurable, frozen=True, kw_only=True, tag="single"):
    """One side alone, with its operators."""

    a: SideRequest
    step: StepRequest
    seconds: float = 6.0
    energy_s: float = 0.0


class AccuracyRequest(msgspec.Struct, frozen=True, kw_only=True, tag="accuracy"):
    """Losses of the same windows under each side; the first is the reference."""

    decoder: Decoder
    directory: str
    sides: tuple[SideRequest, ...]
    text: TextRequest
    calibration: TextRequest | None = None


class MixedRequest(msgspec.Struct, frozen=True, kw_only=True, tag="mixed"):
    """Losses of assignments: to each layer the index of one of `sides`, the first of which is also that of the head."""

    decoder: Decoder
    directory: str
    sides: tuple[SideRequest, ...]
    text: TextRequest
    calibration: TextRequest | None = None
    assignments: tuple[tuple[int, ...], ...]


class CurveRequest(msgspec.Struct, frozen=True, kw_only=True, tag="curve"):
    """Short fine-tuning runs of each side on a text, one for each seed."""

    decoder: Decoder
    directory: str
    path: str
    sides: tuple[SideRequest, ...]
    steps: int
    seeds: tuple[int, ...]
    batch: int
    length: int


class TasksRequest(msgspec.Struct, frozen=True, kw_only=True, tag="tasks"):
    """The same items of tasks of lm-eval under each side, in the order of `tasks`; without sides they are only looked up."""

    decoder: Decoder
    directory: str
    sides: tuple[SideRequest, ...]
    tasks: tuple[str, ...]
    """Names of lm-eval's own, YAML files, or folders of them."""
    items: int
    """At most so many items of each of `tasks`, drawn by `seed`."""
    seed: int = 0
    allow_code: bool = False
    """Whether the tasks' own Python may run."""
    calibration: TextRequest | None = None


class CalibrationRequest(msgspec.Struct, frozen=True, kw_only=True, tag="calibration"):
    """All probes on this machine."""

    cache_sizes: dict[str, float]
    cores: int
    done: dict[str, float] = {}
    """Title -> seconds of the probes that an earlier run finished: they are left out, and their time counts."""
    device: str = "cpu"
    stage: str = ""
    """On a GPU: which stage of `calibrate.cuda_grid`, each a request of its own; on a CPU "modules" and the like, or the rest."""
    limit_s: float = 60.0
    rehearse: bool = False
    """A GPU's calibration on the CPU with tiny sizes: tests the code, its figures mean nothing."""
