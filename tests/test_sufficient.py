"""What suffices: verdicts, the frontier and the sentence, on a bet whose figures are made up."""

from dataclasses import dataclass
from io import StringIO

import pytest

from ridgepoint.report.html_sufficient import frontier_chart, sufficient_section
from ridgepoint.report.sufficient_terminal import sufficient_parts
from ridgepoint.study.sufficient import sufficiency


@dataclass(frozen=True)
class Card:
    text: str
    weight_bytes: float
    memory_bytes: float


@dataclass(frozen=True)
class Line:
    b: str
    batch: tuple[int, ...]
    speedup: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]


@dataclass(frozen=True)
class Bet:
    a: Card
    b: tuple[Card, ...]
    grid: tuple[int, ...]
    curves: tuple[Line, ...]
    tie: float = 0.03


@dataclass(frozen=True)
class Point:
    b: str
    batch: int
    measured_speedup: float | None
    measured_low: float = 0.0
    measured_high: float = 0.0
    energy_a_j: float | None = None
    energy_b_j: float | None = None


def side(mean, low, high, verdict, more=0):
    return {"difference": mean, "low": low, "high": high, "verdict": verdict, "more_windows": more}


BET = Bet(
    Card("bf16", 100.0, 120.0), (Card("int8", 50.0, 70.0), Card("int4", 25.0, 45.0), Card("nf4", 26.0, 46.0)), (1, 64),
    tuple(Line(b, (1, 64), s, s, s) for b, s in (("int8", (1.6, 1.2)), ("int4", (2.5, 0.8)), ("nf4", (2.0, 0.7)))),
)  # fmt: skip
POINTS = (Point("int8", 1, 1.5, 1.4, 1.6, 2.0, 1.0), Point("int4", 1, 2.4, 2.3, 2.5), Point("int4", 64, 0.85, 0.8, 0.9),
          Point("nf4", 1, None))  # fmt: skip
ACCURACY = {
    "measured": True, "tolerance": 0.01,
    "sides": {
        "bf16": {}, "int8": side(0.0001, -0.0002, 0.0004, "harmless"), "int4": side(0.006, 0.004, 0.008, "small loss"),
        "nf4": side(0.012, 0.008, 0.016, "undecided", 150),
    },
}  # fmt: skip


def test_what_was_not_measured_suffices_for_nothing():
    assert sufficiency(BET, POINTS, {"measured": False, "reason": "random weights"}) == {}
    assert sufficient_parts({}, "bf16") == [] and sufficient_section({}, "bf16") == ""


def test_verdicts_sizes_and_speeds():
    found = sufficiency(BET, POINTS, ACCURACY)
    rows = {r["side"]: r for r in found["sides"]}
    assert {n: r["suffices"] for n, r in rows.items()} == {
        "bf16": "yes", "int8": "yes", "int4": "yes", "nf4": "undecided",
    }  # fmt: skip
    assert rows["int4"]["speed"]["64"]["measured"] and not rows["int8"]["speed"]["64"]["measured"]
    assert not rows["nf4"]["speed"]["1"]["measured"] and rows["nf4"]["speed"]["1"]["speedup"] == 2.0
    assert rows["int8"]["speed"]["1"]["energy_j"] == 1.0 and rows["bf16"]["speed"]["1"]["energy_j"] == 2.0
    assert found["fastest"] == {"1": "int4", "64": "int8"} and found["smallest"] == "int4"
    said = found["statement"]
    assert "int8 and int4 suffice" in said and "nf4 is undecided (about 150 more windows would tell)" in said
    assert "int4 at batch 1 (2.4x faster), int8 at batch 64 (1.20x faster)" in said


def test_the_frontier_is_what_nobody_beats():
    """nf4 is slower, larger and worse than int4; bf16 at batch 64 loses nothing, so that nobody beats it."""
    rows = {r["side"]: r for r in sufficiency(BET, POINTS, ACCURACY)["sides"]}
    assert [n for n, r in rows.items() if r["speed"]["1"]["frontier"]] == ["bf16", "int8", "int4"]
    assert not rows["nf4"]["speed"]["64"]["frontier"]


def test_of_equally_fast_sides_the_one_that_loses_less_is_named():
    points = (*POINTS[1:], Point("int8", 1, 2.38))
    assert sufficiency(BET, points, ACCURACY)["fastest"]["1"] == "int8"


def test_a_loss_does_not_suffice():
    worse = {**ACCURACY, "sides": {**ACCURACY["sides"], "int4": side(0.05, 0.04, 0.06, "loss")}}
    found = sufficiency(BET, POINTS, worse)
    assert "int4 does not" in found["statement"] and found["fastest"]["1"] == "int8" and found["smallest"] == "int8"


def test_the_page_and_the_terminal_show_every_side():
    found = sufficiency(BET, POINTS, ACCURACY)
    page = sufficient_section(found, "bf16")
    assert page.count("<figure>") == 2 and all(f"<td>{r['side']}</td>" in page for r in found["sides"])
    assert frontier_chart(found, "64", "bf16").count('class="mark') == 4
    rich = pytest.importorskip("rich.console")
    console = rich.Console(width=100, record=True, file=StringIO())
    for part in sufficient_parts(found, "bf16"):
        console.print(part)
    text = console.export_text()
    assert "~1.20x" in text and "2.40x*" in text and "undecided" in text
