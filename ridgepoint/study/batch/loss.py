"""What a second of training is worth by batch: short runs of the same length in time, on real text, over several seeds."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ridgepoint.errors import BadInput
from ridgepoint.measurement.curve import CURVE_DEFINITION
from ridgepoint.measurement.request import CurveRequest, SideRequest
from ridgepoint.measurement.session import Session
from ridgepoint.measurement.text import text_tokens
from ridgepoint.store import Provenance, Store, new_record
from ridgepoint.study.batch.document import BatchPoint
from ridgepoint.study.batch.question import BatchQuestion
from ridgepoint.study.curve import mean_with_interval
from ridgepoint.workload import Decoder, heldout_text

__all__ = ["DEFINITION", "LossRate", "check_loss", "losses_by_batch"]

DEFINITION = (
    "loss-per-second.v1: loss of text kept apart before training less that after it, per second of measured steps; every batch "
    "trains for the same time at the same learning rate, so that a larger one takes fewer steps of more tokens. A rate tuned "
    "for each batch may rank them otherwise"
)
_SEEDS = (0, 1, 2)
_FEWEST, _MOST = 2, 10_000


@dataclass(frozen=True)
class LossRate:
    """Train each measured batch for `seconds` of steps; `path` "": the text that ships with the model."""

    seconds: float
    path: str = ""


def check_loss(question: BatchQuestion, model: str, asked: LossRate) -> None:
    """Refuse, before anything runs, what has no loss to show."""
    if question.setting.plan.step.phase != "train":
        raise BadInput("--loss-seconds trains the model; it needs --step train")
    if not 0 < asked.seconds <= 3600:
        raise BadInput(
            f"--loss-seconds is {asked.seconds:g}; possible are up to 3600 seconds of training at each batch"
        )
    if not question.directory:
        raise BadInput(f"{model} has random weights, whose loss means nothing; --loss-seconds needs a checkpoint")
    path = Path(asked.path) if asked.path else heldout_text(model)
    if path is None:
        raise BadInput(f"no text ships with {model}; --text FILE gives one to train on")
    if not path.is_file():
        raise BadInput(f"--text {path}: {'no file' if path.exists() else 'no such file'}; give a text file in UTF-8")
    assert isinstance(question.setting.given, Decoder), "a training step is of a language model"
    tokens = len(text_tokens(path, Path(question.directory), question.setting.given.vocab_size))
    (group,) = question.setting.plan.step.groups
    if min(int(0.8 * tokens), tokens - int(0.8 * tokens)) <= group.new:
        raise BadInput(
            f"--text {path}: {tokens} tokens are too few to train on and to keep a fifth apart; give a longer text"
        )


def losses_by_batch(
    question: BatchQuestion, asked: LossRate, points: Sequence[BatchPoint], store: Store, provenance: Provenance, bet: str,
    session: Session,
) -> dict[str, Any]:  # fmt: skip
    """The answer's `loss`: a row for each measured batch, and the batch whose loss falls fastest; each run is stored as soon
    as it is over, and is not run again."""
    plan = question.setting.plan
    path = Path(asked.path) if asked.path else heldout_text(question.setting.model)
    assert path is not None, "checked before anything ran"
    (group,) = plan.step.groups
    rows, digest = [], hashlib.sha256(path.read_bytes()).hexdigest()
    for point in sorted(points, key=lambda p: p.batch):
        if point.measured_s is None:
            continue
        steps = min(max(round(asked.seconds / point.measured_s), _FEWEST), _MOST)
        what = {
            "text": path.name,
            "sha256": digest,
            "seeds": list(_SEEDS),
            "definition": CURVE_DEFINITION,
            "side": plan.side,
            "steps": steps,
            "batch": point.batch,
            "length": int(group.new),
        }
        kept = [r for r in store.records(kind="curve", study=bet) if {k: r.body.get(k) for k in what} == what]
        if kept:
            runs = kept[-1].body["runs"]
        else:
            runs = _runs(question, path, steps, point.batch, int(group.new), session)
            store.append(new_record("curve", {**what, "runs": runs}, provenance, study=bet))
        rows.append(_row(point, steps, runs))
    found = {"measured": bool(rows), "text": path.name, "seconds": asked.seconds, "seeds": list(_SEEDS), "rows": rows}
    return {**found, "definition": f"{DEFINITION}; {CURVE_DEFINITION}", **_fastest(rows)}


def _runs(
    question: BatchQuestion, path: Path, steps: int, batch: int, length: int, session: Session
) -> list[dict[str, Any]]:
    setting = question.setting
    assert isinstance(setting.given, Decoder), "checked before anything ran"
    request = CurveRequest(
        decoder=setting.given, directory=question.directory, path=str(path), steps=steps, seeds=_SEEDS,
        batch=batch, length=length, sides=(SideRequest(spec=setting.side.spec, device=setting.plan.device),),
    )  # fmt: skip
    return [{k: m[k] for k in ("seed", "before", "after")} for m in session.ask(request) if m["kind"] == "curve"]


def _row(point: BatchPoint, steps: int, runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    seconds = steps * (point.measured_s or 0.0)
    rate, low, high = mean_with_interval([(r["before"] - r["after"]) / seconds for r in runs])
    after = mean_with_interval([r["after"] for r in runs])
    return {
        "batch": point.batch, "steps": steps, "seconds": seconds, "before": runs[0]["before"], "after": after[0],
        "after_low": after[1], "after_high": after[2], "per_s": rate, "low": low, "high": high,
    }  # fmt: skip


def _fastest(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The batch whose loss falls fastest, and those that are too close to it to call."""
    if not rows:
        return {"fastest": None, "close": []}
    best = max(rows, key=lambda r: r["per_s"])
    return {
        "fastest": best["batch"],
        "close": [r["batch"] for r in rows if r is not best and r["high"] >= best["low"]],
    }
