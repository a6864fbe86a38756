"""Where a training step's time and memory go, and what of it another side still pays: why LoRA trains little faster."""

from ridgepoint.prediction import StepTime
from ridgepoint.prediction.training_memory import training_need
from ridgepoint.quantity import show_time
from ridgepoint.workload import Decoder, Plan

__all__ = ["memory_items", "parts_of", "training_because", "training_words"]

PARTS = ("forward", "gradients of activations", "gradients of weights", "adapters", "recomputed", "update")
_SWEEPS = {
    "forward": "forward", "grad_input": "gradients of activations", "grad_weight": "gradients of weights",
    "recompute": "recomputed", "update": "update",
}  # fmt: skip


def parts_of(time: StepTime) -> dict[str, float]:
    """Seconds by part; what adapters add, in whatever sweep, is a part of its own."""
    parts = dict.fromkeys(PARTS, 0.0)
    for t in time.ops:
        adapter = t.op.role == "adapter" and t.op.sweep != "recompute"
        parts["adapters" if adapter else _SWEEPS[t.op.sweep]] += float(t.seconds)
    return parts


def training_words(a: StepTime, b: StepTime, a_text: str, b_text: str, batch: int) -> str:
    """One sentence: what B still pays of A's step, what it drops, and what it adds."""
    ours, theirs, whole = parts_of(a), parts_of(b), float(a.seconds)
    paid = [
        f"{name} {_percent(min(ours[name], theirs[name]) / whole)}" for name in PARTS if _same(ours[name], theirs[name])
    ]
    drops = [
        f"{name} {show_time(ours[name] - theirs[name])}" for name in PARTS if _changes(ours[name] - theirs[name], whole)
    ]
    adds = [
        f"{name} {show_time(theirs[name] - ours[name])}" for name in PARTS if _changes(theirs[name] - ours[name], whole)
    ]
    said = f"At batch {batch} {b_text} still pays of {a_text}'s {show_time(whole)}: {', '.join(paid) or 'nothing'}"
    said += f"; it saves {', '.join(drops)}" if drops else "; it saves next to nothing"
    return said + (f"; it adds {', '.join(adds)}" if adds else "")


def training_because(a: StepTime, b: StepTime, faster: bool) -> str:
    """The part that makes most of the difference; "" where paper expected the other side to win."""
    ours, theirs = parts_of(a), parts_of(b)
    gains = {name: (ours[name] - theirs[name]) * (1 if faster else -1) for name in PARTS}
    name = max(gains, key=lambda part: gains[part])
    if gains[name] <= 0 or (float(a.seconds) > float(b.seconds)) != faster:
        return ""
    verb = "take" if name in ("gradients of activations", "gradients of weights", "adapters") else "takes"
    named = {"forward": "the forward pass", "update": "the optimizer's update", "recomputed": "running layers again"}
    return f"{named.get(name, name)} {verb} {show_time(theirs[name])} in B and {show_time(ours[name])} in A"


def memory_items(plan: Plan) -> dict[str, float]:
    """Bytes of a training step by item, as predicted; they do not add up to `peak`, which is of one moment."""
    if plan.step.phase != "train" or not isinstance(plan.workload, Decoder):
        return {}
    need = training_need(plan)
    return {
        "weights": float(need.weights), "adapters": float(need.adapters), "gradients": float(need.all_gradients),
        "optimizer": float(need.optimizer), "kept": float(need.kept), "peak": float(need.total),
    }  # fmt: skip


def _same(ours: float, theirs: float) -> bool:
    return min(ours, theirs) > 0.5 * max(ours, theirs) > 0


def _changes(gain_s: float, whole_s: float) -> bool:
    return gain_s > 0.01 * whole_s


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"
