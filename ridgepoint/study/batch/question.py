"""What is asked of a batch study: model, side, step, grid, objective and machine, settled before anything is predicted."""

from dataclasses import dataclass

import numpy as np

from ridgepoint.choice import parse_choices
from ridgepoint.errors import BadInput, DoesNotFit
from ridgepoint.hardware import HOST
from ridgepoint.prediction import step_time
from ridgepoint.quantity import show_bytes, show_time
from ridgepoint.study.batch.document import WallCard
from ridgepoint.study.batch.wall import SHARE, at_batch, memory_wall, need_bytes
from ridgepoint.study.measure import Setting, set_side, step_named
from ridgepoint.study.question import PHASES, check_training
from ridgepoint.study.serving import parse_slo
from ridgepoint.study.units import Unit, unit_of
from ridgepoint.workload import Traced, weights_directory

__all__ = ["BATCH_PHASES", "SLO_METRICS", "BatchQuestion", "ask_batch", "slo_of"]

BATCH_PHASES = PHASES
"""Steps that can be predicted and measured by batch."""
SLO_METRICS = {"decode": ("tpot", "latency")}
"""What an objective can bound, by phase; a phase that is not named has latency alone."""
_LARGEST = {"cpu": 256, "cuda": 1024}
"""Largest batch of the default grid, if nothing ends it before."""
_LONGEST_S = 3.0
"""Longest predicted step of the default grid on a machine where it will be run: a point runs about six of them."""
_LEAST = 4
"""Batches that the default grid has however long their steps are."""


@dataclass(frozen=True)
class BatchQuestion:
    """A settled question: `setting` is the side at batch 1, `grid` the batches asked about, `limit` where memory ends."""

    setting: Setting
    directory: str
    grid: tuple[int, ...]
    capped: str
    wall: WallCard | None
    slo: tuple[str, float] | None
    """Metric, and its bound in seconds."""

    @property
    def limit(self) -> int:
        """The largest batch that fits; no limit where the memory is not known."""
        return self.wall.batch if self.wall is not None else 2**62


def ask_batch(
    model: str, side: str = "", *, phase: str = "decode", isl: int = 128, grid: tuple[int, ...] = (), slo: str = "",
    on: str = HOST, device: str = "cpu", threads: int = 1, room_bytes: float | None = None,
) -> BatchQuestion:  # fmt: skip
    """Settle a question as a user writes it; no `grid` is powers of two up to where memory, time or sense ends.

    `room_bytes`: what is free on this machine, where the step is to be run on it; None: the target's own memory.
    Raises UnknownName, BadInput, NotSupported or DoesNotFit before anything runs.
    """
    if phase not in BATCH_PHASES:
        raise BadInput(
            f"--phase is {', '.join(BATCH_PHASES[:-1])} or {BATCH_PHASES[-1]} for a batch curve, not {phase[:40]!r}"
        )
    if any(choice.AXIS == "batch" for choice in parse_choices(side)):
        raise BadInput("--with names a batch, which is what is asked about; --grid takes the batches")
    objective = slo_of(slo, phase, unit_of(model))
    setting = set_side(model, side, step_named(phase, 1, isl), on, device, threads)
    if phase == "train":
        check_training(setting.plan, setting.target)
    wall = _wall(setting, room_bytes)
    if wall is not None and not wall.batch:
        raise DoesNotFit(
            f"{model} at batch 1 needs {show_bytes(wall.need_bytes)}; {show_bytes(wall.room_bytes / SHARE)} "
            f"{'is' if room_bytes is None else 'are'} {wall.of}, of which {100 * SHARE:.0f} % may be used; "
            f"a smaller model, a lighter format or a shorter --isl may fit"
        )
    found, capped = (_checked(grid), "as asked") if grid else _default_grid(setting, wall, room_bytes is not None)
    return BatchQuestion(setting, _directory(model, setting), found, capped, wall, objective)


def slo_of(text: str, phase: str, unit: Unit = "tokens") -> tuple[str, float] | None:
    """`slo_of("tpot=40ms", "decode") == ("tpot", 0.04)`; of several the tightest; BadInput saying what is possible.

    A step that has no tokens (rows, items) has latency alone.
    """
    if not text.strip():
        return None
    where = f"for --phase {phase}" if unit == "tokens" else f"for a step of {unit}"
    metrics = SLO_METRICS.get(phase, ("latency",)) if unit == "tokens" else ("latency",)
    found = parse_slo(text, metrics, f" {where}")
    return min(found.items(), key=lambda item: item[1]) if found else None


def _directory(model: str, setting: Setting) -> str:
    return "" if isinstance(setting.plan.workload, Traced) else str(weights_directory(model) or "")


def _wall(setting: Setting, room_bytes: float | None) -> WallCard | None:
    target = setting.target
    if room_bytes is not None:
        return memory_wall(setting.plan, room_bytes, "free on this machine")
    if target.memory_bytes is None:
        return None
    return memory_wall(setting.plan, target.memory_bytes, f"the memory of {target.name}")


def _checked(grid: tuple[int, ...]) -> tuple[int, ...]:
    if any(not 1 <= b <= 2**20 for b in grid):
        raise BadInput(f"--grid takes whole numbers from 1 to {2**20}, separated by commas; for example 1,2,4,8")
    return tuple(sorted(set(grid)))


def _default_grid(setting: Setting, wall: WallCard | None, runs: bool) -> tuple[tuple[int, ...], str]:
    """Powers of two from 1, and what ended them."""
    largest = _LARGEST[setting.plan.device]
    batches = [2**i for i in range(largest.bit_length())]
    fitting = [b for b in batches if wall is None or b <= wall.batch]
    if runs:
        seconds = np.ravel(step_time(at_batch(setting.plan, np.array(fitting, float)), setting.target).seconds)  # type: ignore[arg-type]
        short = [b for i, b in enumerate(fitting) if seconds[i] <= _LONGEST_S or i < _LEAST]
        if len(short) < len(fitting):
            longest = show_time(float(seconds[len(short)]))
            return tuple(short), f"as a step of batch {fitting[len(short)]} would take {longest}; --grid goes further"
    if len(fitting) < len(batches):
        need = need_bytes(setting.plan, batches[len(fitting)])
        return tuple(fitting), f"as batch {batches[len(fitting)]} would need {show_bytes(need)} of memory"
    return tuple(fitting), "the largest that is looked at unless --grid names more"
