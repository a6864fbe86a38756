"""How much of a predicted saving is not the weight format's: that of operators whose weights are not in it."""

from collections.abc import Mapping

from ridgepoint.choice import Side
from ridgepoint.prediction import StepTime
from ridgepoint.prediction.optime import OpTime
from ridgepoint.workload import Linear

__all__ = ["outside_words"]

_LEAST = 0.10
"""Of the saving: what is less changes nobody's mind."""
_ALL = 0.995
"""From here on the packed layers save nothing; they may even cost time."""
_GROUPS = {
    "linear": "other linear layers", "conv": "convolutions", "matmul": "products of activations", "attention": "attention",
}  # fmt: skip
_REST = "the operators between the layers"
_FOLLOWED = frozenset(("dtype", "weights"))


def outside_words(times: Mapping[int, tuple[StepTime, StepTime]], a: Side, b: Side, named: str) -> str:
    """One sentence on what `b`, of the name `named`, saves outside its packed layers; "" where that is little.

    `times`: predicted steps of a and of b by batch. Only sides that differ in the weights and in the dtype of activations
    need it, because the choice of the weights brought that dtype along.
    """
    ours, theirs = ({c.AXIS: c.spelled for c in side.choices} for side in (a, b))
    changed = {axis for axis in {**ours, **theirs} if ours.get(axis) != theirs.get(axis)}
    if not changed >= _FOLLOWED or "weights" not in theirs or "batch" in changed:
        return ""
    ends = {batch: times[batch] for batch in sorted({min(times), max(times)})}
    shares = {batch: share for batch, (x, y) in ends.items() if (share := _share(x, y)) >= _LEAST}
    if not shares:
        return ""
    said = " and ".join(f"{_percent(share)} at batch {batch}" for batch, share in shares.items())
    causes = [f"{theirs['dtype']} in place of {ours['dtype']}", *sorted(theirs.get(x, x) for x in changed - _FOLLOWED)]
    verb = "comes" if len(shares) == 1 else "come"
    rest = f", the rest from layers in {theirs['weights']}" if max(shares.values()) < _ALL else ""
    return (
        f"Of the time that {named} is predicted to save, {said} {verb} from operators whose weights are not in "
        f"{theirs['weights']} ({', '.join(_savers(*ends[max(shares)]))}), by {' and '.join(causes)}{rest}; "
        f"a bet that starts from {theirs['dtype']} tells what {theirs['weights']} alone gains"
    )


def _share(a: StepTime, b: StepTime) -> float:
    """Share of the saved seconds outside the packed layers; 0 where nothing is saved, or the host's launches set the pace."""
    saved = float(a.seconds) - float(b.seconds)
    if saved <= 0 or any(float(t.seconds) > 1.02 * float(t.device_s) for t in (a, b)):
        return 0.0
    return sum(_saved(a, b).values()) / saved


def _saved(a: StepTime, b: StepTime) -> dict[str, float]:
    """Seconds that each group of operators saves, without the layers that are packed on either side."""
    packed = {t.op.name for step in (a, b) for t in step.ops if isinstance(t.op, Linear) and t.op.weight != t.op.dtype}
    groups: dict[str, float] = {}
    for step, sign in ((a, 1), (b, -1)):
        for time in step.ops:
            if time.op.name not in packed:
                groups[_group(time)] = groups.get(_group(time), 0.0) + sign * float(time.seconds)
    return groups


def _group(time: OpTime) -> str:
    return _GROUPS.get(time.op.kind, _REST)


def _savers(a: StepTime, b: StepTime) -> list[str]:
    """The groups that save, largest first, at most two."""
    saved = _saved(a, b)
    ranked = sorted((group for group in saved if saved[group] > 0), key=lambda group: -saved[group])
    return [group for group in ranked[:2] if saved[group] >= _LEAST * saved[ranked[0]]]


def _percent(share: float) -> str:
    return "all" if share >= _ALL else f"{100 * share:.0f} %"
