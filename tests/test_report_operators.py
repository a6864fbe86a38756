"""The operators' part of a page: waterfalls that add up, every operator under the roofs, the record and accuracy in words."""

import re
from html.parser import HTMLParser

import pytest

from ridgepoint.report.accuracy_words import accuracy_lines, accuracy_method
from ridgepoint.report.charts_operators import roofline_chart, waterfall_chart
from ridgepoint.report.html_operators import operators_section, record_section
from ridgepoint.study.document import Answer, Bet, OpCard, RecordRow, Roof, SideCard

HOSTILE = "<script>alert(1)</script>\"'&"
ROOFS = (
    Roof(kind="memory", name="L2", per_s=1e11), Roof(kind="memory", name="DRAM", per_s=3e10),
    Roof(kind="compute", name="fp32", per_s=1e11), Roof(kind="compute", name="bf16", per_s=2e11),
)  # fmt: skip


def card(name: str, ms: float, flops: float = 1e9, kind: str = "linear") -> OpCard:
    return OpCard(name=name, kind=kind, kernel="k", time_s=ms / 1e3, flops=flops, bytes=1e6, bound="compute")


def side(text: str, *ops: OpCard) -> SideCard:
    return SideCard(
        text=text,
        spec=text,
        kernels={},
        memory_bytes=1e6,
        weight_bytes=5e5,
        bounds={},
        shares={},
        ops={"1": ops, "64": ops},
    )


A = side("fp32", card("up", 4.0), card("down", 3.0), card("norm", 0.5, 0.0, "rms_norm"))
B = side("int8", card("up", 1.0), card("down", 3.5), card("norm", 0.5, 0.0, "rms_norm"))


def bet(a: SideCard = A, b: SideCard = B) -> Bet:
    return Bet(
        model="m", random_weights=True, phase="decode", context=1, new=1, grid=(1, 64), device="cpu", target="t",
        target_date="", machine_id="", a=a, b=(b,), curves=(), flips={}, tie=0.03, roofs=ROOFS, statement="",
    )  # fmt: skip


def milliseconds(text: str) -> float:
    found = re.fullmatch(r"([+−]?)([\d.]+) (ms|µs)", text)
    assert found, text
    return (-1 if found[1] == "−" else 1) * float(found[2]) * (1 if found[3] == "ms" else 1e-3)


def test_a_waterfall_adds_up() -> None:
    words = re.search(r'aria-label="(Predicted time[^"]*)"', waterfall_chart(A, B, "1"))
    assert words
    parts = words[1].removesuffix(".").partition(": ")[2].split("; ")
    first, *steps, last = (milliseconds(part.split(" ", 1)[1]) for part in parts)
    assert first + sum(steps) == pytest.approx(last, abs=0.01)
    assert (first, last) == (7.5, 5.0)


def test_savings_and_costs_have_their_colours() -> None:
    chart = waterfall_chart(A, B, "1")
    assert chart.count('class="saves"') == chart.count('class="adds"') == 1  # up and down; the norm stays as it is


def test_many_operators_are_summed_up() -> None:
    many = [card(f"op{i}", 1.0 + i) for i in range(30)]
    fewer = [card(f"op{i}", 0.1 + i / 2) for i in range(30)]
    chart = waterfall_chart(side("a", *many), side("b", *fewer), "1")
    assert "21 others" in chart


def test_every_operator_with_arithmetic_is_under_the_roofs() -> None:
    chart = roofline_chart(A, B, "64", ROOFS)
    assert chart.count('class="mark a"') == chart.count('class="mark b"') == 2  # the norm has no FLOPs here
    for name in ("L2 100 GB/s", "DRAM 30 GB/s", "fp32 100 GFLOP/s", "bf16 200 GFLOP/s"):
        assert name in chart
    for cx, cy in re.findall(r'<circle cx="([\d.]+)" cy="([\d.]+)" r="5"', chart):
        assert 0 < float(cx) < 460 and 0 < float(cy) < 420


def test_no_roofs_no_roofline() -> None:
    assert roofline_chart(A, B, "1", ()) == ""


def test_a_bet_without_operators_has_no_section() -> None:
    bare = SideCard(text="a", spec="a", kernels={}, memory_bytes=1.0, weight_bytes=1.0, bounds={}, shares={})
    assert operators_section(bet(bare, bare)) == ""


def test_names_are_escaped() -> None:
    hostile = side(HOSTILE, card(HOSTILE, 1.0))
    page = operators_section(bet(hostile, hostile))
    assert "<script>" not in page and "&lt;script&gt;" in page
    HTMLParser().feed(page)


def answer(*rows: RecordRow) -> Answer:
    return Answer(
        id="x", created="2026-01-01", digest="d", bet=bet(), points=(), flip_predicted=None, flip_measured=None,
        accuracy={}, energy={}, verdict="v", record=rows,
    )  # fmt: skip


def test_the_record_behind_a_bet() -> None:
    row = RecordRow(group="fp32..int8", points=12, step_error=0.034, sign_right=9, sign_n=10, inside=0.83)
    page = record_section(answer(row))
    for words in ("fp32..int8", "3.4 %", "9 of 10", "83 %"):
        assert words in page
    assert "No bet had been settled" in record_section(answer())


SIDE = {"loss": 1.07, "perplexity": 2.9, "kl": 0.0021, "top1": 0.984, "difference": 0.0234, "low": 0.02, "high": 0.0268}
BLOCK = {
    "measured": True, "windows": 200, "text": "heldout.txt", "seed": 0, "tolerance": 0.01, "reference": "the checkpoint in fp32",
    "reference_loss": 1.05, "definition": "loss.windows256.v1: windows", "sides": {
        "bf16": {"loss": 1.0466, "perplexity": 2.8, "kl": 0.0, "top1": 1.0},
        "int4": {**SIDE, "verdict": "loss", "more_windows": 0},
        "int8": {**SIDE, "difference": 0.0001, "low": -0.0004, "high": 0.0006, "verdict": "harmless", "more_windows": 0},
        "nf4": {**SIDE, "difference": 0.0101, "low": 0.0081, "high": 0.0121, "verdict": "undecided", "more_windows": 310},
    },
}  # fmt: skip


def test_accuracy_in_words() -> None:
    int4, int8, nf4 = accuracy_lines(BLOCK)
    assert int4.startswith("int4: a loss, +0.0234 nats per token (95 %: +0.0200 to +0.0268)")
    assert int8.startswith("int8: harmless, +0.0001") and "-0.0004 to +0.0006" in int8
    assert nf4.startswith("nf4: undecided, about 310 more windows would tell")
    method = accuracy_method(BLOCK)
    for words in ("bf16 1.0466", "reference 1.0500", "200 windows of heldout.txt", "seed 0", "loss.windows256.v1"):
        assert words in method


def test_absent_accuracy_gives_its_reason() -> None:
    assert accuracy_lines({"measured": False, "reason": "random weights"}) == ["random weights"]
    assert accuracy_method({"measured": False}) == ""
