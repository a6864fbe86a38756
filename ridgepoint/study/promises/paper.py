"""What paper says of a case before anything is measured: the question settled, the promise, the roofline, the prediction."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from msgspec.structs import replace

from ridgepoint.errors import NotSupported
from ridgepoint.hardware import HOST, Target
from ridgepoint.prediction import Z80, ratio_sigma, roofline_seconds, step_time
from ridgepoint.quantity import show, show_bytes
from ridgepoint.study.betting import crossing_of
from ridgepoint.study.document import Bet
from ridgepoint.study.fit_memory import fit_serving
from ridgepoint.study.promises.case import Case, Fit, Known, Machine, Machines, Mfu, Thread, Why
from ridgepoint.study.promises.claim import claimed
from ridgepoint.study.promises.outcome import Comparison, Outcome, stands
from ridgepoint.study.question import Question, ask, plan_for, target_for
from ridgepoint.study.step_roofline import roofline_s
from ridgepoint.workload import Parallel, Plan

__all__ = ["asked_of", "bet_outcome", "on_paper", "outcome_of", "paper_outcome", "question_of"]


def question_of(case: Why) -> Question:
    """The bet as `ridge why` would settle it; its errors where this version or machine cannot."""
    run = case.run
    common = "+".join(word for word in (run.dtype, run.with_) if word)
    return ask(
        run.model, run.bet, batches=run.batches, phase=run.phase, isl=run.isl, common=common, threads=run.threads,
        device=run.device, on=run.on, stack=run.stack,
    )  # fmt: skip


def on_paper(case: Case) -> bool:
    """Whether a case is predicted and never measured here."""
    return not isinstance(case, Why) or bool(case.run.paper_only) or case.run.on != HOST


def asked_of(case: Case) -> str:
    """What is run, in a line."""
    run = case.run
    if isinstance(case, Why):
        return f"{case.run.model} {case.run.bet}, {case.run.phase}, on {case.run.on}"
    if isinstance(case, Machines):
        return f"{case.run.model} {case.run.side}, {case.run.phase}, {_named(case.run.a)} against {_named(case.run.b)}"
    return f"{case.run.model} on {run.on}" if isinstance(case, Fit) else f"MFU {100 * case.run.mfu:.0f} % on {run.on}"  # type: ignore[union-attr]


def _named(machine: Machine) -> str:
    what = machine.on if machine.on != HOST else f"{machine.device} of {HOST}"
    return f"{machine.tp} x {what}" if machine.tp > 1 else what


def outcome_of(case: Case, flags: Mapping[str, Any]) -> Outcome:
    """The head of a case's outcome, without points; `flags`: names of the CPU's features that are there."""
    return Outcome(
        case=case.name, kind=_KINDS[type(case)], question=case.question, asked=asked_of(case),  # type: ignore[arg-type]
        threads=tuple(_cited(t) for t in case.thread), on_paper=on_paper(case), paper_only=case.run.paper_only,
        claim=case.claim.ratio if isinstance(case, Why | Machines) else "",
        flip_known=_flip_known(case, flags),
    )  # fmt: skip


def _cited(thread: Thread) -> str:
    return f"{thread.title}, {thread.repository} #{thread.number}, {thread.date}"


_KINDS = {Why: "why", Machines: "machines", Fit: "fit", Mfu: "mfu"}


def _applies(known: Any, flags: Mapping[str, Any]) -> bool:
    return all(f in flags for f in known.having) and not any(f in flags for f in known.lacking)


def _flip_known(case: Case, flags: Mapping[str, Any]) -> tuple[float, float] | None:
    flip = case.flip if isinstance(case, Why) else None
    return (flip.low, flip.high) if flip and _applies(flip, flags) else None


def _known_at(known: tuple[Known, ...], batch: int, flags: Mapping[str, Any]) -> str:
    return next((k.verdict for k in known if k.batch == batch and _applies(k, flags)), "")


def bet_outcome(case: Why, question: Question, bet: Bet, flags: Mapping[str, Any]) -> Outcome:
    """What the stored bet says, beside its two baselines, at each batch of the grid."""
    points, curve, paper = [], bet.curves[0], on_paper(case)
    rows = zip(curve.batch, curve.speedup, curve.low, curve.high, curve.roofline, strict=True)
    for batch, speedup, low, high, roofline in rows:
        plan_a, plan_b = (plan_for(question, side, batch) for side in (question.a, question.b[0]))
        ratio = claimed(case.claim, plan_a, plan_b, question.target, question.target)
        known = _known_at(case.known, batch, flags)
        points.append(
            Comparison(
                batch=batch, claim=ratio, roofline=roofline, predicted=speedup, predicted_low=low, predicted_high=high,
                known=known, stands=stands(known, speedup, ratio) if paper else None,
            )
        )  # fmt: skip
    foretold = bet.flips[curve.b]
    flips = {"predicted": foretold.batch if foretold else None, "roofline": _crossing(points, "roofline")}
    return replace(outcome_of(case, flags), points=tuple(points), target=question.target.name, flips=flips)


def _crossing(points: list[Comparison], field: str) -> float | None:
    if len(points) < 2:
        return None
    return crossing_of([p.batch for p in points], np.array([math.log(getattr(p, field)) for p in points]))


def _roofline_speedup(a: Plan, b: Plan, target_a: Target, target_b: Target) -> float:
    """By max(FLOPs / peak, bytes / bandwidth), collectives left out."""
    seconds = _roofline(a, target_a), _roofline(b, target_b)
    return (seconds[0] / float(a.step.tokens)) / (seconds[1] / float(b.step.tokens))


def _roofline(plan: Plan, target: Target) -> float:
    return float(roofline_s(plan, target) if target.is_datasheet else roofline_seconds(plan, target))


def paper_outcome(case: Machines | Fit | Mfu, flags: Mapping[str, Any]) -> Outcome:
    """Of a case that is no bet: all that there is to say of it."""
    return _PAPER[type(case)](case, flags)


def _machines(case: Machines, flags: Mapping[str, Any]) -> Outcome:
    run = case.run
    a, b = (_at(case, machine) for machine in (run.a, run.b))
    points = []
    for batch in a.grid:
        plan_a, plan_b = plan_for(a, a.a, batch), plan_for(b, b.a, batch)
        time_a, time_b = step_time(plan_a, a.target), step_time(plan_b, b.target)
        speedup, ratio = (
            float(time_a.seconds) / float(time_b.seconds),
            claimed(case.claim, plan_a, plan_b, a.target, b.target),
        )
        sigma = (
            float(ratio_sigma(time_a, time_b))
            if a.target.name == b.target.name
            else math.hypot(_sigma(time_a), _sigma(time_b))
        )
        spread = math.exp(Z80 * sigma)
        known = _known_at(case.known, batch, flags)
        points.append(
            Comparison(
                batch=batch, claim=ratio, roofline=_roofline_speedup(plan_a, plan_b, a.target, b.target), predicted=speedup,
                predicted_low=speedup / spread, predicted_high=speedup * spread, known=known,
                stands=stands(known, speedup, ratio),
            )
        )  # fmt: skip
    flips = {"predicted": _crossing(points, "predicted"), "roofline": _crossing(points, "roofline")}
    return replace(outcome_of(case, flags), points=tuple(points), target=b.target.name, flips=flips)


def _sigma(time: Any) -> float:
    return float(time.sigma)


def _at(case: Machines, machine: Machine) -> Question:
    run = case.run
    return ask(
        run.model, f"{run.side}..{run.side}", batches=run.batches, phase=run.phase, isl=run.isl, device=machine.device,
        on=machine.on, stack=machine.stack, parallel=Parallel(tp=machine.tp),
    )  # fmt: skip


def _fit(case: Fit, flags: Mapping[str, Any]) -> Outcome:
    """The promise counts the weights alone."""
    run = case.run
    answer = fit_serving(
        run.model, run.on, context=run.context, users=run.users, with_=run.with_, kv_dtype=run.kv_dtype
    )
    (on,) = answer.on
    need = on.outcome.need
    weights = sum(float(item.bytes) for item in need.items if item.group == "weights")
    if not weights:
        raise NotSupported(f"case {case.name}: the account of {run.model} has no weights")
    most = ", ".join(f"{'tokens' if k == 'context' else k} up to {v}" for k, v in on.outcome.limits.items())
    asked = f"{answer.asked['users']} x {answer.asked['ctx']} tokens"
    said = {
        "claim": f"{_fits(weights <= on.memory_bytes)}: weights of {show_bytes(weights)} in {show_bytes(on.memory_bytes)}",
        "predicted": f"{_fits(on.outcome.fits)} ({asked}): {show_bytes(float(need.total_bytes))} in all; {most}",
        "known": _fits(run.fits),
    }
    return replace(
        outcome_of(case, flags), said=said, stands=on.outcome.fits == run.fits, target=on.target,
        asked=f"{asked_of(case)}, {run.with_ or 'as it is'}, {asked}",
    )  # fmt: skip


def _fits(fits: bool) -> str:
    return "fits" if fits else "does not fit"


def _mfu(case: Mfu, flags: Mapping[str, Any]) -> Outcome:
    """The same FLOP/s by the peak of the machine that ran, and by that of the machine that was taken for it."""
    run = case.run
    peaks = {name: target_for(name, "cpu").flops_per_s(run.dtype) for name in (run.peak_of, run.on)}
    achieved = run.mfu * peaks[run.peak_of]
    share = achieved / peaks[run.on]
    rate = f"{show(achieved, 'FLOP/s')} is {100 * share:.0f} % of the {show(peaks[run.on], 'FLOP/s')} of {run.on}"
    said = {
        "claim": f"MFU {100 * run.mfu:.0f} %",
        "predicted": f"{rate}; the peak was that of {run.peak_of}" if share <= 1 else f"impossible: {rate}",
        "known": f"above 100 % cannot be; {run.on} ran it",
    }
    return replace(outcome_of(case, flags), said=said, stands=share <= 1 < run.mfu, target=run.on)


_PAPER: dict[type, Callable[[Any, Mapping[str, Any]], Outcome]] = {Machines: _machines, Fit: _fit, Mfu: _mfu}
