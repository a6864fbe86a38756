"""What a person gets to see: tables that fit, charts that hold the figures, a page that stands alone and escapes."""

import io
import json
import re
from html.parser import HTMLParser

import msgspec
import pytest
from rich.cells import cell_len
from rich.console import Console

from ridgepoint.report.html import answer_html
from ridgepoint.report.scale import log_scale
from ridgepoint.report.terminal import answer_table, bet_panel
from ridgepoint.report.words import clean, factor, points_of, sign_of, span, tally
from ridgepoint.study.document import Answer, Bet, Curve, Flip, Point, SideCard

GRID = (1, 4, 16, 64)
HOSTILE = "<script>alert(1)</script>\"'&[bold red]\x1b[31m\u202e{x}"
ROLES = ("attention.in", "attention", "attention.out", "mlp.in", "mlp.out", "head", "other operators")


def side(
    text: str, spec: str, kernel: str, memory: float, bounds: tuple[dict, dict], shares: tuple[tuple, tuple]
) -> SideCard:
    names = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    return SideCard(
        text=text,
        spec=spec,
        kernels={**dict.fromkeys(names, kernel), "lm_head": "F.linear:bf16"},
        memory_bytes=memory * 1.3e6,
        weight_bytes=memory * 1e6,
        bounds=dict(zip(("1", "64"), bounds, strict=True)),
        shares={batch: dict(zip(ROLES, row, strict=True)) for batch, row in zip(("1", "64"), shares, strict=True)},
    )


def curve(b: str, speedup: tuple[float, ...], b_s: tuple[float, ...], roofline: tuple[float, ...]) -> Curve:
    return Curve(
        b=b,
        batch=GRID,
        speedup=speedup,
        low=tuple(0.88 * s for s in speedup),
        high=tuple(1.13 * s for s in speedup),
        a_s=tuple(s * t for s, t in zip(speedup, b_s, strict=True)),
        b_s=b_s,
        roofline=roofline,
        ceiling=(5.1, 4.8, 1e6, 3.3),
    )


def point(bet: Bet, which: int, i: int, measured: float | None, verdict: str, **changes) -> Point:
    c = bet.curves[which]
    seen = (
        {}
        if measured is None
        else {"measured_speedup": measured, "measured_low": 0.97 * measured, "measured_high": 1.03 * measured}
    )
    times = (
        {}
        if measured is None
        else {
            "measured_a_s": c.b_s[i] * 0.98 * measured,
            "measured_b_s": c.b_s[i] * 0.98,
            "rounds": 24 + i,
            "spread": 0.021,
            "clock": "thread CPU time",
            "load": "run queue 1.1, CPU 99 % of wall",
        }
    )
    point = Point(
        a=bet.a.text,
        b=c.b,
        batch=c.batch[i],
        predicted_speedup=c.speedup[i],
        predicted_low=c.low[i],
        predicted_high=c.high[i],
        measured_speedup=None,
        measured_low=None,
        measured_high=None,
        verdict=verdict,
        predicted_a_s=c.a_s[i],
        predicted_b_s=c.b_s[i],
        measured_a_s=None,
        measured_b_s=None,
        roofline_speedup=c.roofline[i],
        record=f"rec{which}{i}",
    )
    return msgspec.structs.replace(point, **{**seen, **times, **changes})


def make_bet(model: str, count: int) -> Bet:
    """int8, and int4 where `count` is 2, against bf16 on a small model."""
    a = side(
        "bf16",
        "bf16+threads:1",
        "F.linear:bf16",
        269,
        ({"memory": 0.86, "dispatch": 0.14}, {"compute": 0.7, "memory": 0.3}),
        ((0.14, 0.03, 0.09, 0.31, 0.15, 0.21, 0.07), (0.13, 0.13, 0.08, 0.28, 0.14, 0.16, 0.08)),
    )
    int8 = side(
        "int8",
        "bf16+int8+threads:1",
        "torch._weight_int8pack_mm",
        163,
        ({"memory": 0.8}, {"compute": 0.9}),
        ((0.12, 0.05, 0.07, 0.24, 0.12, 0.30, 0.10), (0.2, 0.05, 0.12, 0.34, 0.17, 0.08, 0.04)),
    )
    int4 = side(
        "int4",
        "bf16+int4:g32+threads:1",
        "torch._weight_int4pack_mm_for_cpu",
        113,
        ({"memory": 0.55, "dispatch": 0.4}, {"compute": 0.95}),
        ((0.09, 0.07, 0.06, 0.19, 0.09, 0.37, 0.13), (0.21, 0.04, 0.13, 0.36, 0.17, 0.06, 0.03)),
    )
    curves = (
        curve("int8", (1.62, 1.31, 0.92, 0.55), (0.0121, 0.0184, 0.0479, 0.1722), (1.83, 1.83, 1.8, 1.2)),
        curve("int4", (2.24, 1.55, 0.84, 0.402), (0.0088, 0.0155, 0.0525, 0.2356), (2.9, 2.9, 2.7, 1.4)),
    )
    return Bet(
        model=model,
        random_weights=True,
        phase="decode",
        context=512,
        new=1,
        grid=GRID,
        device="cpu",
        target="host",
        target_date="2026-11-23",
        machine_id="m1",
        a=a,
        b=(int8, int4)[:count],
        curves=curves[:count],
        flips={"int8": Flip(batch=12.1, low=9, high=17), "int4": Flip(batch=10.4, low=8, high=13)},
        tie=0.03,
        statement="int8: 1.62x faster than bf16 at batch 1, 1.8x slower at 64; flips at 12",
        flags=("weights are random",),
    )


def make_answer(model: str = "smollm2-135m", several: bool = True) -> Answer:
    """A plausible answer: one point refused, one not run."""
    bet = make_bet(model, 2 if several else 1)
    points = [
        point(bet, 0, 0, 1.55, "faster"),
        point(bet, 0, 1, 1.36, "faster"),
        point(bet, 0, 2, 0.987, "tie"),
        point(bet, 0, 3, None, "not measured", flags=("MachineBusy: run queue 3.4, wall time is needed",)),
    ]
    if several:
        points += [
            point(bet, 1, 0, 2.31, "faster"),
            point(bet, 1, 2, 0.79, "slower"),
            point(bet, 1, 3, 0.437, "slower"),
        ]
    verdict = "int8: 1.55x faster than bf16 at batch 1; flips at 4–16, predicted 12; because it moves 1.9x fewer bytes"
    if several:
        verdict += "\nint4: 2.3x faster than bf16 at batch 1; 2.3x slower at batch 64; flips at 1–16, predicted 10"
    flips = ({"int8": 12.1, "int4": 10.4}, {"int8": 14.8, "int4": 9.2}) if several else (12.1, 14.8)
    return Answer(
        id="01j9zq8c2m5v7x1y3z5b7d9f1h",
        created="2026-11-23T08:33:36.000000Z",
        digest="ab12" * 16,
        bet=bet,
        points=tuple(points),
        flip_predicted=flips[0],
        flip_measured=flips[1],
        accuracy={"measured": False, "reason": "random weights: speed only"},
        energy={"measured": False, "reason": "not measurable here: no counter for this device"},
        verdict=verdict,
        flags=("weights are random", "int8 at batch 64: MachineBusy: run queue 3.4"),
        machine={"cpu": "Xeon, 2 cores", "cores": 2},
        versions={"torch": "2.13.0", "ridgepoint": "0.1.0"},
    )


# --- on the terminal


def rendered(renderable, width: int = 80) -> str:
    console = Console(file=io.StringIO(), width=width, color_system=None, force_terminal=False, legacy_windows=False)
    console.print(renderable)
    return console.file.getvalue()


def assert_fits(text: str, width: int) -> None:
    wide = [line for line in text.splitlines() if cell_len(line) > width]
    assert not wide, f"wider than {width}: {wide}"
    assert "\x1b" not in text


@pytest.mark.parametrize("width", [80, 120])
@pytest.mark.parametrize("several", [True, False])
def test_answer_on_the_terminal(width, several):
    answer = make_answer(several=several)
    text = rendered(answer_table(answer), width)
    assert_fits(text, width)
    for wanted in (
        "1.62x 1.43–1.83",
        "1.55x 1.50–1.60",
        "+4.5 %",
        "right",
        "tie",
        "MachineBusy: run queue 3.4, wall time is needed",
    ):
        assert wanted in text
    assert text.count("…") <= 1, "only the digest is shortened"
    for line in answer.verdict.splitlines():
        assert line in " ".join(text.split())
    assert "WRONG" in text if several else "WRONG" not in text
    assert "! int8 at batch 64" in text


def test_points_that_were_not_run_are_absent_and_never_zero():
    answer = make_answer()
    text = rendered(answer_table(answer))
    refused = next(line.split() for line in text.splitlines() if line.split()[:1] == ["64"])
    assert refused[1:] == ["0.55x", "0.48–0.62", "–", "–", "–", "–", "1.20x"]
    assert "– batch 4 not measured: not needed, the measured points decide" in text
    assert "0.00x" not in text
    assert [p.batch for p in points_of(answer, answer.bet.curves[1])] == list(GRID)


@pytest.mark.parametrize("width", [80, 120])
def test_bet_on_the_terminal(width):
    text = rendered(bet_panel(make_answer().bet), width)
    assert_fits(text, width)
    for wanted in (
        "Is int8 or int4 faster than bf16 on smollm2-135m, batch 1 to 64?",
        "bf16+int4:g32+threads:1",
        "257 MiB weights",
        "flip predicted: batch 12 (9–17)",
        "5.10x",
        "none",
        "memory 86 %, dispatch",
        "torch._weight_int8pack_mm; lm_head by F.linear:bf16",
    ):
        assert wanted in text


def test_chart_puts_each_measured_dot_where_it_belongs():
    answer = make_answer(several=False)
    text = rendered(answer_table(answer))
    picture = text[text.index("how much faster") :].splitlines()[1:18]
    dots = sorted((line.index("●"), -row) for row, line in enumerate(picture) if "●" in line)
    assert len(dots) == 3, "one per measured point"
    heights = [height for _, height in dots]
    assert heights == sorted(heights, reverse=True), "1.55x, 1.36x, 0.99x fall"
    one = next(-row for row, line in enumerate(picture) if line.lstrip().startswith("1.0x"))
    assert heights[-1] == one, "0.99x lies on the line"
    axis = next(line for line in text.splitlines() if line.lstrip().startswith("└"))
    assert axis.index("▲") < axis.index("△"), "predicted 12, measured 15"


@pytest.mark.parametrize("grid", [1, 4])
def test_one_point_is_enough_for_every_picture(grid):
    answer = make_answer(several=False)
    c = answer.bet.curves[0]
    cut = {
        name: getattr(c, name)[:grid]
        for name in ("batch", "speedup", "low", "high", "a_s", "b_s", "roofline", "ceiling")
    }
    bet = msgspec.structs.replace(
        answer.bet,
        grid=GRID[:grid],
        curves=(msgspec.structs.replace(c, **cut),),
        flips={"int8": None},
        b=answer.bet.b[:1],
    )
    nothing = msgspec.structs.replace(answer, bet=bet, points=(), flip_measured=None, flags=(), machine={}, versions={})
    assert_fits(rendered(answer_table(nothing)), 80)
    assert "nothing measured yet" in rendered(answer_table(nothing))
    assert "not measured" in answer_html(nothing)


def test_hostile_names_do_nothing_on_the_terminal():
    answer = make_answer(HOSTILE)
    for renderable in (answer_table(answer), bet_panel(answer.bet)):
        text = rendered(renderable)
        assert_fits(text, 80)
        assert "[boldred]" in "".join(text.split()), "wrapped, and not taken for markup"
        assert "\u202e" not in text


# --- the page


class Page(HTMLParser):
    """Collects tags, attributes and text, and fails on tags that do not close in order."""

    VOID = ("meta", "link", "br")

    def __init__(self, text: str):
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict]] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        assert len(attrs) == len(dict(attrs)), f"{tag} names an attribute twice"
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open and self.open.pop() == tag, f"</{tag}> closes nothing"

    def handle_data(self, data):
        if self.open[-1:] != ["style"]:
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    def all(self, tag: str) -> list[dict]:
        return [attributes for name, attributes in self.tags if name == tag]


@pytest.mark.parametrize("model", ["smollm2-135m", HOSTILE])
def test_page_is_whole_and_asks_for_nothing(model):
    text = answer_html(make_answer(model))
    page = Page(text)
    assert len(text.encode()) < 300_000
    assert not re.search(r"https?:|//[a-z]|@import|<script|<iframe|javascript:|\bon\w+=", text)
    assert re.findall(r"url\([^)#]", text) == []
    links = [a[name] for _, a in page.tags for name in ("src", "href", "xlink:href", "srcset", "action") if name in a]
    assert all(link.startswith(("#", "data:")) for link in links)
    assert {tag for tag, _ in page.tags} >= {"html", "title", "h1", "svg", "table", "details", "style"}
    assert clean(model) in page.text


def hostile_everywhere() -> Answer:
    """Side names, reasons and machine fields from a record that somebody else wrote."""
    text = json.dumps(msgspec.to_builtins(make_answer(HOSTILE)))
    for word in ("int8", "MachineBusy", "Xeon", "memory"):
        text = re.sub(f'(?<=[": ]){word}(?=[":, ])', json.dumps(HOSTILE + word)[1:-1].replace("\\", r"\\"), text)
    return msgspec.convert(json.loads(text), Answer)


def test_page_escapes_hostile_text():
    page = Page(answer_html(hostile_everywhere()))
    assert not page.all("script")
    allowed = {"class", "id", "tabindex", "role", "aria-label", "viewBox", "points", "text-anchor", "colspan", "scope"}
    allowed |= {"x", "y", "x1", "x2", "y1", "y2", "cx", "cy", "r", "width", "height"}
    allowed |= {"lang", "charset", "name", "content", "http-equiv", "rel", "href", "viewbox"}
    assert {name for _, attributes in page.tags for name in attributes} <= allowed
    assert "<script>alert(1)</script>" in page.text
    assert any("<script>" in a.get("aria-label", "") for a in page.all("g"))
    assert "\x1b" not in page.text and "\u202e" not in page.text
    assert_fits(rendered(answer_table(hostile_everywhere())), 80)


def test_same_answer_same_bytes():
    first = answer_html(make_answer())
    again = answer_html(msgspec.convert(msgspec.to_builtins(make_answer()), Answer))
    assert first == again


def test_page_has_verdict_points_and_reasons():
    answer = make_answer()
    page = Page(answer_html(answer))
    assert (
        page.text.index("Is int8 or int4 faster")
        < page.text.index(answer.verdict.splitlines()[0])
        < page.text.rindex("The figures")
    )
    for p in answer.points:
        assert factor(p.predicted_speedup) in page.text
        if p.measured_speedup is not None:
            assert factor(p.measured_speedup) in page.text
    for wanted in (
        "not measured: MachineBusy: run queue 3.4, wall time is needed",
        "not measured: not needed, the measured points decide",
        "not measurable here: no counter for this device",
        "random weights: speed only",
        answer.digest,
        "speedup.v1",
        "thread CPU time",
        "bf16+int4:g32+threads:1",
        "torch 2.13.0",
        "run queue 1.1",
    ):
        assert wanted in page.text
    assert "0.00x" not in page.text


def test_charts_have_words_and_points_have_theirs():
    answer = make_answer()
    page = Page(answer_html(answer))
    marks = [a for a in page.all("g") if a.get("class", "").startswith("mark ")]
    measured = [p for p in answer.points if p.measured_speedup is not None]
    assert len(marks) == 2 * len(GRID) + 2 * len(measured), "speed-ups of all points, and measured steps of A and B"
    for mark in marks:
        assert mark["role"] == "img" and mark["aria-label"].startswith(("batch ", "bf16, ", "int8, ", "int4, "))
    for p in measured:
        wanted = f"batch {p.batch}: predicted {factor(p.predicted_speedup)}"
        assert any(
            m["aria-label"].startswith(wanted) and f"measured {factor(p.measured_speedup)}" in m["aria-label"]
            for m in marks
        )
    images = [a["aria-label"] for a in page.all("g") if a.get("role") == "img" and "class" not in a]
    assert len(images) == len(page.all("svg")) == 7, "2 speed-ups, 2 steps, 2 shares, 1 memory"
    assert any("Predicted flip: batch 12 (9–17); measured flip: batch 15." in words for words in images)


def test_higher_speedups_lie_higher_and_shares_fill_the_bar():
    text = answer_html(make_answer(several=False))
    dots = [
        float(y) for y in re.findall(r'class="mark b".*?<circle cx="[\d.]+" cy="([\d.]+)" r="5" class="dot"', text)
    ][:3]
    assert dots[1] > dots[0] and dots[2] > dots[1], "1.55x, 1.36x, 0.99x fall"
    bars: dict[str, float] = {}
    for x, y, width in re.findall(r'<rect x="([\d.]+)" y="([\d.]+)" width="([\d.]+)" height="26" class="c\d"', text):
        bars[y] = max(bars.get(y, 0.0), float(x) + float(width))
    lengths = sorted(bars.values())
    assert lengths[-1] == pytest.approx(419, abs=1), "the slowest side of a batch fills the width"
    assert lengths[0] > 100, "two bars of each batch share a height"


# --- the words


def test_signs_follow_the_tie_rule():
    bet = make_answer().bet
    wrong = point(bet, 0, 0, 0.8, "slower")
    assert sign_of(wrong, wrong.predicted_speedup, bet.tie) == "WRONG"
    assert sign_of(point(bet, 0, 0, 1.02, "faster"), 1.62, bet.tie) == "tie"
    assert sign_of(point(bet, 0, 0, 1.4, "undecided"), 1.62, bet.tie) == "undecided"
    assert sign_of(point(bet, 0, 0, None, "not measured"), 1.62, bet.tie) == "–"
    score = tally([wrong, point(bet, 0, 1, 1.31, "faster"), point(bet, 0, 2, None, "not measured")], bet.tie)
    assert (score.points, score.measured, score.signs, score.right, score.inside) == (3, 2, 2, 1, 1)
    assert score.error == pytest.approx((1.62 / 0.8 - 1) / 2)
    assert tally([], bet.tie).error is None
    assert factor(None) == span(None, 1.0) == "–"


@pytest.mark.parametrize("ends", [(0.4, 4.0), (0.95, 1.05), (1.0, 1.0), (1e-6, 1e6), (0.9, 30.0)])
def test_scales_hold_their_values_and_have_few_ticks(ends):
    scale = log_scale([1.0, *ends])
    assert scale.low < min(1.0, *ends) and scale.high > max(1.0, *ends)
    assert all(0 <= scale.share(v) <= 1 for v in ends)
    ticks = scale.ticks(5)
    assert 2 <= len(ticks) <= 10 and list(ticks) == sorted(ticks)
    assert scale.at(scale.share(1.0)) == pytest.approx(1.0)
