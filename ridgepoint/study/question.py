"""What is asked: model, sides, grid and machine, settled and checked before anything is predicted or run."""

from dataclasses import dataclass, replace
from pathlib import Path

from ridgepoint.choice import Side, parse_bet, parse_choices, resolve
from ridgepoint.engine.runs import check_trains
from ridgepoint.errors import BadInput, NotSupported
from ridgepoint.hardware import HOST, Target, load_target
from ridgepoint.measurement.request import Subject, TextRequest
from ridgepoint.prediction.training_step import check_training_law
from ridgepoint.study.modules import subject_named
from ridgepoint.workload import (
    ALONE,
    DTYPES,
    Encoder,
    LinearLayer,
    Parallel,
    Plan,
    Step,
    Traced,
    calibration_text,
    decode,
    forward,
    prefill,
    stored_of,
    train,
    weights_directory,
)

__all__ = [
    "CALIBRATION",
    "Question",
    "ask",
    "calibration_request",
    "check_elsewhere",
    "check_launch",
    "check_step",
    "check_training",
    "device_for",
    "plan_for",
    "step_for",
    "target_for",
    "traced_in",
]

DEVICES = ("cpu", "cuda")
PHASES = ("decode", "prefill", "forward", "train")


@dataclass(frozen=True)
class Question:
    """A settled question. `grid` is the batches asked for, sorted; `context` the cached, `new` the new tokens each."""

    model: str
    workload: Subject | Encoder
    directory: str
    target: Target
    device: str
    phase: str
    context: int
    new: int
    grid: tuple[int, ...]
    a_text: str
    a: Side
    b_texts: tuple[str, ...]
    b: tuple[Side, ...]
    stack: str = ""
    """The software whose kernels a datasheet target is predicted with."""
    parallel: Parallel = ALONE
    calibration: str = ""
    """The text by which algorithms choose codes; "" where none is needed."""


def ask(
    model: str,
    bet: str,
    *,
    batches: tuple[int, ...] = (1, 4, 16, 64),
    phase: str = "decode",
    isl: int = 128,
    common: str = "",
    threads: int = 1,
    device: str = "cpu",
    on: str = HOST,
    stack: str = "",
    parallel: Parallel = ALONE,
    calibration: str = "",
) -> Question:
    """Settle a question as a user writes it.

    decode: each sequence has `isl` cached tokens and adds one; prefill and forward: each adds `isl` tokens; train: each is
    of `isl` tokens.
    Raises UnknownName, BadInput or NotSupported before anything runs.
    """
    if phase not in PHASES:
        raise BadInput(f"phase {phase!r} is not measured; {', '.join(PHASES)} are")
    if not 1 <= isl <= 2**27:
        raise BadInput(f"isl {isl}: possible are 1 to {2**27} tokens")
    workload = subject_named(model, traced_in(f"{bet}+{common}"))
    target = target_for(on, device)
    device = device_for(target, device)
    a_text, b_texts = parse_bet(bet)
    if len(set(b_texts)) < len(b_texts):
        raise BadInput(f"{bet!r} names a side twice; once is enough")
    sides = [resolve(text, workload.dtype, device, common, threads, stored_of(workload)) for text in (a_text, *b_texts)]
    a_text, *labels = (_label(text, common) for text in (a_text, *b_texts))
    b_texts = tuple(labels)
    grid = _grid(sides, batches)
    context, new = (isl, 1) if phase == "decode" else (0, isl)
    check_step(model, workload, phase, context + new)
    if isinstance(workload, LinearLayer):
        context = 0
    if isinstance(workload, Traced):
        phase, context, new = "forward", 0, 1
    directory = None if isinstance(workload, Traced) else weights_directory(model)
    question = Question(
        model, workload, str(directory or ""), target, device, phase, context, new, grid, a_text, sides[0], b_texts,
        tuple(sides[1:]), stack, parallel, _calibration(model, sides, directory, calibration),
    )  # fmt: skip
    check_elsewhere(target, stack, parallel)
    check_launch(target, sides)
    _check_sides(question, sides)
    return question


def _check_sides(question: Question, sides: list[Side]) -> None:
    """Refuse what a side cannot do, before anything else."""
    for side in sides:
        plan = side.plan(question.workload, step_for(question, question.grid[0]))
        if question.phase == "train":
            check_training(plan, question.target)


def _calibration(model: str, sides: list[Side], directory: Path | None, given: str) -> str:
    """The text that the sides' algorithms look at; BadInput where trained weights need one and there is none."""
    asking = [spelled for side in sides for spelled in side.algorithms]
    if given and not asking:
        raise BadInput(f"--calib {given}: no side looks at a text; int4:gptq, int4:awq, int8:dyn:smooth and …:wanda do")
    if not asking or directory is None:
        return ""
    found = Path(given) if given else calibration_text(model)
    if found is None:
        raise BadInput(f"{asking[0]} goes by what the layers of {model} are given: name a text with --calib FILE")
    if not found.is_file():
        raise BadInput(f"--calib {found}: {'no file' if found.exists() else 'no such file'}; give a text file in UTF-8")
    return str(found)


def calibration_request(question: Question) -> TextRequest | None:
    """What a measurement is told of the question's calibration text."""
    if not question.calibration:
        return None
    return TextRequest(path=question.calibration, protocol="windows", windows=CALIBRATION_WINDOWS)


CALIBRATION_WINDOWS = 128
"""As GPTQ's own evaluation takes (arXiv 2210.17323, section 4, "setup"), but of 256 tokens."""
CALIBRATION = f"calibration.windows256x{CALIBRATION_WINDOWS}.v1"


def check_training(plan: Plan, target: Target) -> None:
    """Refuse a training step of a machine that was calibrated for inference only, and what cannot be trained."""
    check_training_law(target)
    if not target.is_datasheet:
        check_trains(plan)


def _label(text: str, common: str) -> str:
    """The side as written, and what it takes from `--with` that changes weights or batch: its name says what it is."""
    own = {choice.AXIS for choice in parse_choices(text)}
    taken = [c.spelled for c in parse_choices(common) if c.AXIS not in own and c.AXIS not in ("dtype", "threads")]
    return "+".join([text, *taken])


def traced_in(text: str) -> tuple[str, ...]:
    """In which dtypes a module has to be traced for sides that name these words: kernels of integers take bf16 or fp32."""
    named = [dtype for dtype in DTYPES if dtype in text]
    return ("", *named, *(("bf16", "fp32") if "int" in text or "nf4" in text else ()))


def check_step(model: str, workload: Subject | Encoder, phase: str, longest: int) -> None:
    """Refuses a phase of a single layer or of a module, and positions that a model does not have."""
    if isinstance(workload, Traced):
        if phase not in ("decode", "forward"):
            raise BadInput(
                f"{model} is a module, which has no phase {phase}: its items are the batch; leave --phase out"
            )
    elif isinstance(workload, LinearLayer):
        if phase != "decode":
            raise BadInput(f"{model} has no phase: its rows are the batch; leave --phase out, or name a model")
    elif longest > workload.max_position_embeddings:
        raise BadInput(f"{model} takes at most {workload.max_position_embeddings} positions; asked for {longest}")


def target_for(on: str, device: str) -> Target:
    """The target `on`, which must be a machine that has the device."""
    if device not in DEVICES:
        raise BadInput(f"--device is {' or '.join(DEVICES)}, not {device[:40]!r}")
    target = load_target(on, device)
    if target.is_datasheet:
        return target
    if (target.kind == "gpu") != (device == "cuda"):
        raise BadInput(f"target {target.name} is a {target.kind} and has no {device}; give --on another or --device")
    return target


def check_elsewhere(target: Target, stack: str, parallel: Parallel) -> None:
    """Refuse a stack or several devices on a machine that was calibrated itself: its laws are those of one process."""
    if not target.is_datasheet and (stack or parallel != ALONE):
        raise BadInput(
            f"--stack, --tp, --pp, --ep and --attention-dp are for datasheet targets; {target.name} was calibrated itself"
        )


def check_launch(target: Target, sides: "tuple[Side, ...] | list[Side]") -> None:
    """Refuse eager mode on a datasheet target, whose steps are launched as a CUDA graph."""
    if target.is_datasheet and any("eager" in side.spec.split("+") for side in sides):
        raise NotSupported(
            f"eager is not predicted for {target.name}: steps of a datasheet target are launched as a CUDA graph"
        )


def plan_for(question: Question, side: Side, batch: int) -> Plan:
    """The plan of one side at one batch, with the stack and the devices of the question."""
    plan = side.plan(question.workload, step_for(question, batch))
    return replace(plan, stack=question.stack, parallel=question.parallel)


def device_for(target: Target, device: str) -> str:
    """The device that choices are checked for: of a datasheet what it is of, else the one asked for."""
    if not target.is_datasheet:
        return device
    return "cpu" if target.kind == "cpu" else "cuda"


def step_for(question: Question, batch: int) -> Step:
    """The step of the question at one batch."""
    if question.phase == "decode":
        return decode(batch, question.context)
    makers = {"prefill": prefill, "forward": forward, "train": train}
    return makers[question.phase](batch, question.new)


def _grid(sides: list[Side], batches: tuple[int, ...]) -> tuple[int, ...]:
    if not batches or any(not 1 <= b <= 2**20 for b in batches):
        raise BadInput(f"--batch takes whole numbers from 1 to {2**20}, separated by commas; for example 1,4,16,64")
    if any(choice.AXIS == "batch" for side in sides for choice in side.choices):
        return (min(batches),)  # a side that settles the batch leaves one point to compare
    return tuple(sorted(set(batches)))
