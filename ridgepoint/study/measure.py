"""One side alone, on paper and on metal: the same result twice, so that one can be subtracted from the other."""

from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any

from ridgepoint.choice import Side, resolve
from ridgepoint.engine.runs import check_adapters, check_runs
from ridgepoint.errors import BadInput, DoesNotFit
from ridgepoint.hardware import HOST, Target
from ridgepoint.measurement.request import SideRequest, SingleRequest, Subject, step_request, subject
from ridgepoint.measurement.rows import BETWEEN
from ridgepoint.measurement.session import Session
from ridgepoint.prediction import predict, predict_memory, step_time
from ridgepoint.prediction.roofline import bound_of
from ridgepoint.quantity import show_bytes
from ridgepoint.result import OpRow, Result, Value
from ridgepoint.study.cards import kernels_of
from ridgepoint.study.modules import not_modelled, step_words, subject_named
from ridgepoint.study.provenance import provenance
from ridgepoint.study.question import (
    check_elsewhere,
    check_launch,
    check_step,
    check_training,
    device_for,
    target_for,
    traced_in,
)
from ridgepoint.workload import (
    ALONE,
    Encoder,
    Parallel,
    Plan,
    Step,
    Traced,
    decode,
    forward,
    mixed,
    prefill,
    stored_of,
    train,
    weights_directory,
)

__all__ = ["Setting", "measure_side", "predict_side", "set_side", "step_named"]


def step_named(phase: str, batch: int, isl: int, new: tuple[int, ...] = (), cached: tuple[int, ...] = ()) -> Step:
    """The step that the options of the command line describe; `mixed` takes `new` and `cached` per sequence."""
    if not 1 <= batch <= 2**20 or not 1 <= isl <= 2**27:
        raise BadInput(f"batch {batch} and isl {isl}: possible are 1 to {2**20} sequences of 1 to {2**27} tokens")
    if phase == "mixed":
        return mixed(new, cached)
    makers = {"decode": decode, "prefill": prefill, "forward": forward, "train": train}
    if phase not in makers:
        raise BadInput(f"no phase {phase!r}; possible: {', '.join([*makers, 'mixed'])}")
    return makers[phase](batch, isl)


@dataclass(frozen=True)
class Setting:
    """One side of a model, settled on a target, ready for paper and for metal alike."""

    model: str
    plan: Plan
    side: Side
    target: Target
    given: Subject | Encoder
    """The model as it was named, from which the side's choices are carried out; the plan's own may be a smaller one."""
    flags: tuple[str, ...] = ()
    """Of the target."""


def set_side(
    model: str, side: str, step: Step, on: str, device: str = "cpu", threads: int = 1, stack: str = "",
    parallel: Parallel = ALONE,
) -> Setting:  # fmt: skip
    """Looks everything up once (a module of the user's is traced here); refuses positions that the model does not have.

    `stack` and `parallel` are for machines that are known from their datasheets.
    """
    target = target_for(on, device)
    device = device_for(target, device)
    check_elsewhere(target, stack, parallel)
    workload = subject_named(model, traced_in(side))
    check_step(model, workload, step.phase, max(int(g.context) for g in step.groups))
    settled = resolve(side, workload.dtype, device, "", threads, stored_of(workload))
    if isinstance(workload, Traced):
        step = forward(step.sequences, 1)
    if isinstance(workload, Encoder):
        step = _whole_inputs(workload, step)
    check_launch(target, (settled,))
    plan = replace(settled.plan(workload, step), stack=stack, parallel=parallel)
    return Setting(model, plan, settled, target, workload, _elsewhere(target, on))


def _whole_inputs(encoder: Encoder, step: Step) -> Step:
    """An encoder reads its inputs whole, and an image has as many tokens as it has."""
    if step.phase not in ("decode", "prefill", "forward"):
        raise BadInput(f"{encoder.name} is an encoder, which has no phase {step.phase}; leave --phase out")
    (group,) = step.groups
    tokens = group.cached if step.phase == "decode" else group.new
    return forward(group.count, encoder.positions if encoder.patches else tokens)


_ROUGH = "gradients are timed by the laws of inference, and other kernels run: `ridge calibrate --train` adds their own"
_AS_IF = "times are of the same machine with enough memory"


def predict_side(setting: Setting) -> Result:
    """`ridge predict`: the result on paper; of a model that does not fit the target, with a flag that says so."""
    plan, target = setting.plan, setting.target
    need, room = float(predict_memory(plan).total_bytes), target.memory_bytes
    misfit = f"does not fit: it needs {show_bytes(need)}, {target.name} has {show_bytes(room or 0.0)} in all; {_AS_IF}"
    fits = room is None or need <= room
    result = predict(plan, target)
    rough = (_ROUGH,) if plan.step.phase == "train" and not (target.training or target.is_datasheet) else ()
    flags = (*(() if fits else (misfit,)), *rough, *result.flags, *not_modelled(plan.workload), *setting.flags)
    return replace(result, step=step_words(plan), flags=flags)


def measure_side(
    setting: Setting, available_bytes: float, seconds: float = 6.0, shared: Session | None = None
) -> Result:
    """`ridge measure`: the result on metal, a row per operator of the plan.

    `shared`: a session to measure in and to leave open, so that its model serves several steps.
    """
    model, plan, settled, target = setting.model, setting.plan, setting.side, setting.target
    check_runs(plan.workload)
    check_adapters(plan)
    if plan.step.phase == "train":
        check_training(plan, target)
    need = float(predict_memory(plan).total_bytes)
    if need > 0.9 * available_bytes:
        raise DoesNotFit(
            f"{model} as {settled.spec} needs {show_bytes(need)}; {show_bytes(available_bytes)} are free; try a smaller batch"
        )
    workload = setting.given
    directory = None if isinstance(workload, Traced) else weights_directory(model)
    time = step_time(plan, target)
    request = SingleRequest(
        **subject(workload),
        directory=str(directory or ""),
        cache_bytes=target.cache_bytes or 32e6,
        a=SideRequest(spec=settled.spec, device=plan.device, kernels=kernels_of(time)),
        step=step_request(plan.step),
        seconds=seconds,
        energy_s=seconds,
    )
    with nullcontext(shared) if shared else Session() as session:
        message = [m for m in session.ask(request) if m["kind"] == "done"][-1]
    result = _result(plan, target, message, {t.op.name: t.kernel for t in time.ops}, float(time.miss))
    return replace(result, flags=(*result.flags, *setting.flags))


def _elsewhere(target: Target, on: str) -> tuple[str, ...]:
    """A flag if `host` stands for a calibration of another machine, as after its data folder was moved."""
    if on != HOST or target.machine_id in ("", provenance().machine.get("machine_id")):
        return ()
    return (f"{target.name} was calibrated on another machine; `ridge calibrate` measures this one",)


def _result(plan: Plan, target: Target, message: dict[str, Any], kernels: dict[str, str], miss: float) -> Result:
    single = message["single"]
    seconds = single["p20_s"]
    half = single["spread"] / 2
    tokens = message["tokens"]
    ops = message["ops"]
    rows = (
        () if ops is None
        else tuple(_row(op, ops.get(op.name, 0.0), kernels.get(op.name, ""), half, target, miss) for op in plan.ops)
    )  # fmt: skip
    if ops and BETWEEN in ops:
        rows = (*rows, _between(ops[BETWEEN], half))
    rest = seconds - sum(r.time_s for r in rows)
    outside = sum(s for name, s in (ops or {}).items() if name not in {r.name for r in rows})
    method = (
        f"{message['clock']}, 20th percentile of {single['n']} steps; interval: half the interquartile range each way"
    )
    memory, resident = message["memory_bytes"], message["resident_bytes"]
    energy = message.get("energy_j")
    return Result(
        kind="measured", workload=plan.workload.name, step=step_words(plan), side=plan.side, target=target.name,
        metrics={
            "latency_s": Value(seconds, seconds * (1 - half), seconds * (1 + half), method),
            "tokens_per_s": _rate(tokens / seconds, half),
            "memory_bytes": Value(memory, memory, memory, _MEMORY),
            "resident_bytes": None if resident is None else Value(resident, resident, resident, _RESIDENT),
            "energy_j": None if energy is None
            else Value(energy, message["energy_low_j"], message["energy_high_j"], message["energy_method"]),
            **_compilation(message["compile_s"]),
        },
        ops=rows,
        absent={
            **({"energy_j": message.get("energy_reason", _NO_ENERGY)} if energy is None else {}),
            **({"resident_bytes": "it is told of a process on the CPU"} if resident is None else {}),
        },
        flags=(
            *(("random weights",) if message["random"] else ()),
            *_unpredicted(outside, seconds), *message["flags"],
        ),
        provenance={"clock": message["clock"], "load": message["load"], "between_operators_s": rest, "n": single["n"]},
    )  # fmt: skip


def _unpredicted(outside_s: float, step_s: float) -> tuple[str, ...]:
    """A flag for time in calls that the trace did not have, as where torch takes another way on real tensors."""
    if outside_s < 0.01 * step_s:
        return ()
    return (f"{100 * outside_s / step_s:.0f} % of the step is in operator calls that were not in the trace",)


_NO_ENERGY = "no energy counter for this device"


def _compilation(seconds: float | None) -> dict[str, Value | None]:
    return {} if seconds is None else {"compile_s": Value(seconds, seconds, seconds, "wall clock, once; no interval")}


_MEMORY = "counted: stored tensors, KV cache, activations of one step"
_RESIDENT = "of the measuring process; building the model and the allocator's slack included"


def _rate(rate: float, half: float) -> Value:
    return Value(rate, rate / (1 + half), rate / max(1 - half, 0.01), "tokens / latency")


def _between(seconds: float, half: float) -> OpRow:
    """A row of its own: no operator's work, but a part of the step."""
    return OpRow(
        name=BETWEEN, kind="between", role="other", kernel="", count=1, time_s=seconds, low_s=seconds * (1 - half),
        high_s=seconds * (1 + half), bound="dispatch", flops=0.0, bytes=0.0,
    )  # fmt: skip


def _row(op: Any, seconds: float, kernel: str, half: float, target: Target, miss: float) -> OpRow:
    return OpRow(
        name=op.name, kind=op.kind, role=op.role, kernel=kernel, count=op.count, time_s=seconds, low_s=seconds * (1 - half),
        high_s=seconds * (1 + half), bound=bound_of(op, max(seconds, 1e-12), target, miss), flops=float(op.count * op.flops),
        bytes=float(op.count * op.bytes),
    )  # fmt: skip
