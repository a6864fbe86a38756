"""What a bet on a weight format owes to the dtype that came with it: said where it matters, silent where it does not."""

import io
from pathlib import Path

import msgspec
import pytest
from rich.console import Console

from ridgepoint.choice import resolve
from ridgepoint.prediction import StepTime
from ridgepoint.prediction.optime import OpTime
from ridgepoint.report.html import answer_html
from ridgepoint.report.terminal import answer_table, bet_panel
from ridgepoint.store import Store
from ridgepoint.study.betting import place_bet
from ridgepoint.study.outside import outside_words
from ridgepoint.study.provenance import provenance
from ridgepoint.study.question import ask
from ridgepoint.study.verdict import verdict_line
from ridgepoint.study.why import settle, stored_bet
from ridgepoint.workload import Linear, Pointwise

DATA = Path(__file__).parent / "data"
MODEL, TARGET = str(DATA / "tiny-llama.json"), str(DATA / "test-target.calibrated.toml")


def step(dtype: str, weight: str, linear_ms: float, rest_ms: float, waiting: float = 1.0) -> StepTime:
    """A step of one linear layer stored as `weight` and one operator on its results."""
    ops = (
        OpTime(Linear("up", "other", 4, 64, 64, dtype, weight), linear_ms / 1e3, ()),
        OpTime(Pointwise("relu", "other", "relu", 4, 64, dtype), rest_ms / 1e3, ()),
    )
    return StepTime(waiting * (linear_ms + rest_ms) / 1e3, ops, 0.0, 0.1)


def said(a: StepTime, b: StepTime, bet: str = "fp32..int8") -> str:
    left, right = bet.split("..")
    return outside_words({4: (a, b)}, resolve(left, "fp32"), resolve(right, "fp32"), right)


def test_the_share_is_that_of_the_operators_without_packed_weights() -> None:
    words = said(step("fp32", "fp32", 4.0, 4.0), step("bf16", "int8", 1.0, 2.0))
    assert words == (
        "Of the time that int8 is predicted to save, 40 % at batch 4 comes from operators whose weights are not in int8 "
        "(the operators between the layers), by bf16 in place of fp32, the rest from layers in int8; "
        "a bet that starts from bf16 tells what int8 alone gains"
    )


def test_packed_layers_that_cost_time_leave_all_of_it_to_the_others() -> None:
    words = said(step("fp32", "fp32", 4.0, 4.0), step("bf16", "int8", 4.5, 2.0))
    assert "all at batch 4 comes from" in words and "the rest" not in words


@pytest.mark.parametrize(
    ("b", "bet"),
    [
        (step("bf16", "int8", 1.0, 3.8), "fp32..int8"),  # 6 % of the saving
        (step("bf16", "int8", 9.0, 2.0), "fp32..int8"),  # nothing is saved
        (
            step("bf16", "int8", 1.0, 2.0, waiting=2.0),
            "fp32..int8",
        ),  # launches set the pace: no operator saves anything
        (step("bf16", "bf16", 1.0, 2.0), "fp32..bf16"),  # no format of weights
        (step("bf16", "int8", 1.0, 2.0), "bf16..int8"),  # the same dtype
        (step("bf16", "int8", 1.0, 2.0), "fp32+batch:1..bf16+int8+batch:4"),  # steps of other sizes
    ],
)
def test_nothing_is_said_where_it_does_not_matter(b: StepTime, bet: str) -> None:
    assert said(step("fp32", "fp32", 4.0, 4.0), b, bet) == ""


def test_what_else_changed_is_named() -> None:
    words = said(step("fp32", "fp32", 4.0, 4.0), step("bf16", "int8", 1.0, 2.0), "fp32..int8+channels-last")
    assert "by bf16 in place of fp32 and channels-last" in words


def test_the_sentence_is_in_the_bet_the_verdict_and_the_page(tmp_path: Path) -> None:
    question = ask(MODEL, "fp32..int8", on=TARGET, batches=(1, 4))
    with Store(tmp_path / "s.sqlite") as store:
        record, bet = stored_bet(question, store, provenance())
    said_here = "Of the time that int8 is predicted to save, 40 %"
    bet = msgspec.structs.replace(bet, curves=(msgspec.structs.replace(bet.curves[0], outside=said_here),))
    answer = settle(question, bet, record, [], provenance())
    assert verdict_line(bet, "int8", [], "").endswith(f". {said_here}")
    for shown in (rendered(bet_panel(bet)), rendered(answer_table(answer)), answer_html(answer)):
        assert said_here in shown
    page = answer_html(answer)
    assert f"<p>{said_here}.</p>" in page and page.count(said_here) == 1, "below the verdict, not in it"


def test_a_bet_carries_it() -> None:
    question = ask(MODEL, "fp32..int8,bf16", on=TARGET, batches=(64,))
    times = place_bet(question).curves
    assert times[1].outside == "" and place_bet(ask(MODEL, "bf16..int8", on=TARGET)).curves[0].outside == ""
    question = ask("smollm2-135m", "fp32..int8", on=TARGET, batches=(1,), isl=1)
    found = place_bet(question).curves[0].outside
    assert found.startswith("Of the time that int8 is predicted to save")


def rendered(renderable: object) -> str:
    console = Console(file=io.StringIO(), width=100, color_system=None, force_terminal=False, legacy_windows=False)
    console.print(renderable)
    return " ".join(console.file.getvalue().split())
