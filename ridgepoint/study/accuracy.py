"""Accuracy beside speed: what a choice costs in loss on a text, as paired differences with an interval and a verdict."""

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ridgepoint.choice import Side, resolve
from ridgepoint.errors import BadInput, DoesNotFit, NotSupported
from ridgepoint.measurement.request import AccuracyRequest, SideRequest, TextRequest
from ridgepoint.measurement.session import ChildDied, Session
from ridgepoint.measurement.text import PROTOCOLS, windows_of
from ridgepoint.store import Provenance, Store, new_record
from ridgepoint.study.question import CALIBRATION, Question, calibration_request
from ridgepoint.workload import Decoder, heldout_text, stored_of

__all__ = [
    "REFERENCE", "TOLERANCE", "Difference", "Text", "accuracy_of", "check_accuracy", "judged", "no_accuracy_reason",
    "paired_difference", "path_of", "student95",
]  # fmt: skip

TOLERANCE = 0.01
"""Nats per token, 1 % of perplexity: a loss that nobody acts on. Fixed before anything is measured."""
REFERENCE = "fp32"
"""The unquantised model: the checkpoint's weights as they are, computed in fp32; of one that is quantised already, those that
its codes stand for."""
_FEWEST = 8


@dataclass(frozen=True)
class Text:
    """On which text accuracy is measured; `path` "" is the one that ships with the model, if any."""

    path: str = ""
    protocol: str = "windows"
    windows: int = 200
    seed: int = 0
    tolerance: float = TOLERANCE


@dataclass(frozen=True, slots=True)
class Difference:
    """Mean of paired differences over windows, its 95 % interval, and what follows for a tolerance."""

    mean: float
    low: float
    high: float
    verdict: Literal["harmless", "small loss", "loss", "undecided"]
    more: int
    """About how many more windows would decide it; 0 where it is decided."""


def paired_difference(before: Sequence[float], after: Sequence[float], tolerance: float) -> Difference:
    """after - before, window by window: Student's interval, so windows are taken as independent.

    harmless: the whole interval lies below the tolerance and reaches down to 0; a small loss: between 0 and the tolerance;
    a loss: the whole interval lies above the tolerance. BadInput for fewer than 8 windows.
    """
    values = np.asarray(after, float) - np.asarray(before, float)
    n = len(values)
    if n < _FEWEST:
        raise BadInput(f"{n} windows of text are too few for an interval; at least {_FEWEST}: give a longer text")
    mean, half = float(values.mean()), student95(n - 1) * float(values.std(ddof=1)) / math.sqrt(n)
    return judged(mean, mean - half, mean + half, n, tolerance)


def judged(mean: float, low: float, high: float, n: int, tolerance: float) -> Difference:
    """What a loss with this interval from n pairs means for a tolerance; the interval shrinks with the root of n."""
    half = (high - low) / 2
    if high <= tolerance:
        return Difference(mean, low, high, "small loss" if low > 0 else "harmless", 0)
    if low > tolerance:
        return Difference(mean, low, high, "loss", 0)
    apart = max(abs(tolerance - mean), 0.05 * tolerance)
    return Difference(mean, low, high, "undecided", max(1, math.ceil(n * ((half / apart) ** 2 - 1))))


def student95(freedom: int) -> float:
    """97.5 % quantile of Student's t by its expansion in 1/freedom (Cornish-Fisher); 0.2 % off at 7 degrees of freedom."""
    z = 1.959964
    first, second = (z**3 + z) / 4, (5 * z**5 + 16 * z**3 + 3 * z) / 96
    third = (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384
    return z + first / freedom + second / freedom**2 + third / freedom**3


def accuracy_of(
    question: Question, text: Text, store: Store, provenance: Provenance, bet: str, session: Session
) -> dict[str, Any]:
    """The answer's `accuracy`: measured, or with the reason why not. The windows' figures are stored with the bet."""
    if reason := _absent(question, text):
        return {"measured": False, "reason": reason}
    sides = {question.a_text: question.a, **dict(zip(question.b_texts, question.b, strict=True))}
    path = path_of(question, text)
    asked = {
        "text": path.name, "protocol": text.protocol, "windows_wanted": text.windows, "seed": text.seed,
        "sides": ["reference", *(s.spec for s in sides.values())], "calibration": _calibration(question),
    }  # fmt: skip
    kept = [r for r in store.records(kind="accuracy", study=bet) if {k: r.body.get(k) for k in asked} == asked]
    if kept:
        record = kept[-1]
    else:
        try:
            windows = _measured(question, text, sides, session)
        except (ChildDied, DoesNotFit, NotSupported, BadInput) as error:
            return {"measured": False, "reason": str(error)}
        record = new_record("accuracy", {**asked, "windows": windows}, provenance, study=bet)
        store.append(record)
    summary = _summary(record.body["windows"], list(sides), text)
    return {**summary, "text": path.name, "calibration": asked["calibration"], "record": record.id}


def _calibration(question: Question) -> str:
    """Which text algorithms looked at, and how: protocol id, file name, and the start of its hash; "" for none."""
    if not question.calibration:
        return ""
    path = Path(question.calibration)
    return f"{CALIBRATION} of {path.name}, sha256 {hashlib.sha256(path.read_bytes()).hexdigest()[:16]}"


def check_accuracy(question: Question, text: Text) -> None:
    """Refuse, before anything runs, a text or a protocol that somebody asked for and that cannot give an answer."""
    if (shown := calibration_request(question)) is not None and isinstance(question.workload, Decoder):
        windows_of(question.workload, question.directory, shown)
    if not text.path and text.protocol == Text.protocol:
        return
    if reason := _absent(question, text):
        raise BadInput(f"accuracy was asked for and cannot be measured: {reason}")
    request = _request(question, text, ())
    windows = windows_of(request.decoder, request.directory, request.text)
    if len(windows) < _FEWEST:
        raise BadInput(
            f"{path_of(question, text)} and --windows {text.windows}: {len(windows)} windows of text are too few for an "
            f"interval; at least {_FEWEST}"
        )


def _absent(question: Question, text: Text) -> str:
    """Why accuracy on this text cannot be measured; "" where it can."""
    if reason := no_accuracy_reason(question):
        return reason
    if not text.path and heldout_text(question.model) is None:
        return f"no text: --text FILE measures the loss of {question.model} on it"
    return ""


def no_accuracy_reason(question: Question) -> str:
    """Why the accuracy of this model cannot be measured here, on whatever; "" where it can."""
    if question.phase == "train":
        return "a training step changes the weights: --curve N shows the loss of N steps of each side"
    if not isinstance(question.workload, Decoder):
        return f"{question.model} is no language model: its accuracy is yours to measure"
    if not question.directory:
        return "random weights: speed is measured, accuracy would mean nothing"
    if question.device != "cpu":
        return "accuracy is measured on the CPU only by this version"
    return ""


def path_of(question: Question, text: Text) -> Path:
    """The text: the one asked for, or the one that ships with the model."""
    found = Path(text.path) if text.path else heldout_text(question.model)
    assert found is not None, "asked after `_absent` found a text"
    return found


def _measured(
    question: Question, text: Text, sides: Mapping[str, Side], session: Session
) -> list[list[dict[str, float]]]:
    """[windows][reference, a, b, …]: loss, kl and top1 of each."""
    text_of = f"{REFERENCE}+dequantised" if stored_of(question.workload) else REFERENCE
    reference = resolve(text_of, question.workload.dtype, question.device)
    request = _request(question, text, (reference, *sides.values()))
    return [m["sides"] for m in session.ask(request) if m["kind"] == "window"]


def _request(question: Question, text: Text, sides: Sequence[Side]) -> AccuracyRequest:
    assert isinstance(question.workload, Decoder)
    return AccuracyRequest(
        decoder=question.workload, directory=question.directory,
        sides=tuple(SideRequest(spec=s.spec, device=question.device) for s in sides),
        text=TextRequest(path=str(path_of(question, text)), protocol=text.protocol, windows=text.windows, seed=text.seed),
        calibration=calibration_request(question),
    )  # fmt: skip


def _summary(windows: list[list[dict[str, float]]], names: list[str], text: Text) -> dict[str, Any]:
    def column(side: int, figure: str) -> list[float]:
        return [row[side][figure] for row in windows]

    out: dict[str, Any] = {}
    for i, name in enumerate(names, 1):
        loss = float(np.mean(column(i, "loss")))
        out[name] = {
            "loss": loss, "perplexity": math.exp(min(loss, 700.0)), "kl": float(np.mean(column(i, "kl"))),
            "top1": float(np.mean(column(i, "top1"))),
        }  # fmt: skip
        if i > 1:
            found = paired_difference(column(1, "loss"), column(i, "loss"), text.tolerance)
            out[name] |= {
                "difference": found.mean, "low": found.low, "high": found.high, "verdict": found.verdict,
                "more_windows": found.more,
            }  # fmt: skip
    return {
        "measured": True, "definition": PROTOCOLS[text.protocol].definition, "protocol": text.protocol,
        "windows": len(windows), "seed": text.seed, "tolerance": text.tolerance,
        "reference": f"the checkpoint computed in {REFERENCE}", "reference_loss": float(np.mean(column(0, "loss"))),
        "sides": out,
    }  # fmt: skip
