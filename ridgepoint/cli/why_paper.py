"""`ridge why` for machines that are not at hand: the bet on each of them, stored and shown side by side."""

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from ridgepoint.cli import options

if TYPE_CHECKING:
    from ridgepoint.store import Record, Store
    from ridgepoint.study.accuracy import Text
    from ridgepoint.study.document import Bet
    from ridgepoint.study.question import Question

__all__ = ["Elsewhere", "on_paper", "why_on_paper"]


@dataclass(frozen=True, slots=True)
class Elsewhere:
    """How a machine that is not at hand runs the model: software, and over how many devices."""

    stack: str = ""
    tp: int = 1
    pp: int = 1
    ep: int = 1
    attention_dp: int = 1


def on_paper(on: str) -> bool:
    """Whether `--on` names machines that can only be predicted: several, or one known from its datasheet."""
    from ridgepoint.hardware import HOST, load_target

    names = options.names("--on", on)
    return len(names) > 1 or (names[0] != HOST and load_target(names[0]).is_datasheet)


def why_on_paper(
    model: str, bet: str, targets: tuple[str, ...], batches: tuple[int, ...], phase: str, isl: int, common: str,
    elsewhere: Elsewhere, as_json: bool, text: "Text | None" = None,
) -> int:  # fmt: skip
    """Place the same bet on every target; no speed is measured. A target that refuses is named, the others are shown.

    `text`: measure the loss of the sides on it, on this CPU; what the CPU lacks is emulated and said to be.
    """
    from ridgepoint.errors import RidgeError, UnknownName
    from ridgepoint.store import Store, default_path
    from ridgepoint.study.accuracy_here import check_here
    from ridgepoint.study.document import bet_from
    from ridgepoint.study.provenance import provenance
    from ridgepoint.study.question import Question, ask
    from ridgepoint.study.why import misfit_on_paper, stored_bet
    from ridgepoint.workload import Parallel

    parallel = Parallel(elsewhere.tp, elsewhere.pp, elsewhere.ep, elsewhere.attention_dp)
    bets: list[Bet] = []
    documents, said, accuracies = [], [], []
    known: list[tuple[Question, dict[str, Any]]] = []
    with Store(default_path()) as store:
        for target in targets:
            asked = partial(ask, model, batches=batches, phase=phase, isl=isl, common=common, on=target,
                            stack=elsewhere.stack, parallel=parallel)  # fmt: skip
            try:
                question = asked(bet)
                if text is not None:
                    check_here(question, text)
                record, _ = stored_bet(question, store, provenance())
            except UnknownName:
                raise
            except RidgeError as error:
                if len(targets) == 1 and text is None:
                    raise
                fewer, refused = _without_refused(bet, partial(_tried, asked, text), error)
                said += [options.of_target(target, text) for text in refused]
                if not fewer:
                    if len(targets) == 1:
                        raise
                    continue
                question = asked(fewer)
                record, _ = stored_bet(question, store, provenance())
            bets.append(bet_from(record.body["bet"]))
            same = next((a for q, a in known if (q.a_text, q.b_texts) == (question.a_text, question.b_texts)), None)
            found = _accuracy(question, bets[-1], record, text, store, same)
            known.append((question, found))
            accuracies.append(found)
            documents.append({"id": record.id, "digest": record.digest, "bet": record.body["bet"], **found})
            if misfit := misfit_on_paper(question):
                said.append(f"{target}: on paper only: {misfit}")
    if as_json:
        sys.stdout.write(json.dumps({"bets": documents, "refused": said}, indent=1) + "\n")
        return 0 if bets else 2
    _show(bets, said, accuracies)
    return 0 if bets else 2


def _tried(asked: "Callable[[str], Question]", text: "Text | None", bet: str) -> None:
    """Raises what refuses this bet, or its loss where one is asked for."""
    from ridgepoint.study.accuracy_here import check_here
    from ridgepoint.study.betting import place_bet

    question = asked(bet)
    place_bet(question)
    if text is not None:
        check_here(question, text)


def _accuracy(
    question: "Question", bet: "Bet", record: "Record", text: "Text | None", store: "Store",
    known: "dict[str, Any] | None" = None,
) -> dict[str, Any]:  # fmt: skip
    """`accuracy` and `sufficiency` beside the bet; {} where no text was named. `known`: of the same sides on another target,
    whose loss is the same."""
    if text is None:
        return {}
    if known is not None:
        from ridgepoint.study.accuracy_here import beside

        return beside(bet, known["accuracy"])
    from rich.console import Console

    from ridgepoint.measurement.session import Session
    from ridgepoint.study.accuracy_here import accuracy_here
    from ridgepoint.study.provenance import provenance

    with Session() as session, Console(stderr=True).status("measuring the loss of each side on this CPU"):
        return accuracy_here(question, bet, record, text, store, provenance(), session)


def _without_refused(bet: str, tried: Callable[[str], object], error: Exception) -> tuple[str, list[str]]:
    """The bet with those of its sides that this target can be asked about, "" if none; and why the others are not."""
    from ridgepoint.choice import parse_bet
    from ridgepoint.errors import RidgeError

    a, sides = parse_bet(bet)
    if len(sides) == 1:
        return "", [str(error)]
    kept, refused = [], []
    for side in sides:
        try:
            tried(f"{a}..{side}")
            kept.append(side)
        except RidgeError as found:
            refused.append(str(found))
    return (f"{a}..{','.join(kept)}" if kept else ""), list(dict.fromkeys(refused))


def _show(bets: "list[Bet]", said: list[str], accuracies: list[dict[str, Any]]) -> None:
    from rich.console import Console

    from ridgepoint.report.accuracy_words import accuracy_lines
    from ridgepoint.report.sufficient_terminal import sufficient_parts
    from ridgepoint.report.terminal import bet_panel, bets_side_by_side

    console = Console()
    if len(bets) == 1:
        console.print(bet_panel(bets[0]))
    elif bets:
        console.print(bets_side_by_side(bets))
    for bet, found in zip(bets, accuracies, strict=True):
        for words in accuracy_lines(found["accuracy"]) if found else ():
            console.print(words, highlight=False)
        for part in sufficient_parts(found["sufficiency"], bet.a.text) if found else ():
            console.print(part)
    for line in said:
        sys.stderr.write(f"ridge: {line}\n")
