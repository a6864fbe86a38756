"""What a reader of a report meets: a module's items, merged rows in words, facts without Python, few stops of the Tab key."""

import io
import re
import shutil
import subprocess
from pathlib import Path

import msgspec
import pytest
from rich.console import Console

from ridgepoint.report.html import answer_html
from ridgepoint.report.machine_words import fact_words, machine_facts
from ridgepoint.report.operator_words import operator_notes, operator_words, short_operator
from ridgepoint.report.terminal import answer_table, bet_panel, card, compare_table, result_table
from ridgepoint.result import OpRow, Result, Value
from ridgepoint.study.document import Answer, Bet, Curve, OpCard, Point, Roof, SideCard
from ridgepoint.study.units import unit_of

MODULE = "./net.py:build"
MACHINE = {
    "cpu": "AMD EPYC", "flags": ["avx2", "bf16"], "caches_bytes": {"L1d": 32768, "L2": 1048576}, "cores_usable": 2,
    "memory_total_bytes": 25276514304, "memory_total_gib": 24, "hypervisor": True, "python": "3.11.7",
    "gpus": [{"name": "NVIDIA H100", "driver": "550"}], "environment": {"OMP_NUM_THREADS": "1"},
}  # fmt: skip
ROOFS = (Roof(kind="memory", name="DRAM", per_s=3e10), Roof(kind="compute", name="fp32", per_s=1e11))
OPS = tuple(
    OpCard(name=name, kind=kind, kernel="k", time_s=time_s, flops=1e9, bytes=1e6, bound="compute")
    for name, kind, time_s in (("f.0.2 +3", "linear", 2e-3), ("f.0.1 +3:relu", "relu", 1e-3), ("layers.*.up", "linear", 1e-3))
)  # fmt: skip


def side(text: str, ops: tuple[OpCard, ...] = OPS) -> SideCard:
    return SideCard(
        text=text, spec=text, kernels={"f.0.2 +3": "k"}, memory_bytes=2e6, weight_bytes=1e6, bounds={"4": {"compute": 1.0}},
        shares={"4": {"linear layers": 1.0}}, ops={"4": ops},
    )  # fmt: skip


def answer(model: str = MODULE) -> Answer:
    faster = tuple(
        OpCard(**{**{f: getattr(op, f) for f in op.__struct_fields__}, "time_s": op.time_s / 2}) for op in OPS
    )
    curve = Curve(
        b="bf16", batch=(4,), speedup=(2.0,), low=(1.8,), high=(2.2,), a_s=(4e-3,), b_s=(2e-3,), roofline=(2.0,),
        ceiling=(2.5,),
    )  # fmt: skip
    bet = Bet(
        model=model, random_weights=True, phase="forward", context=0, new=1, grid=(4,), device="cpu", target="t",
        target_date="2026-11-23", machine_id="m1", a=side("fp32"), b=(side("bf16", faster),), curves=(curve,),
        flips={"bf16": None}, tie=0.03, statement="s", roofs=ROOFS,
    )  # fmt: skip
    point = Point(
        a="fp32", b="bf16", batch=4, predicted_speedup=2.0, predicted_low=1.8, predicted_high=2.2, measured_speedup=2.1,
        measured_low=2.0, measured_high=2.2, verdict="faster", predicted_a_s=4e-3, predicted_b_s=2e-3, measured_a_s=4e-3,
        measured_b_s=1.9e-3, roofline_speedup=2.0,
    )  # fmt: skip
    return Answer(
        id="i", created="2026-11-23", digest="d" * 64, bet=bet, points=(point,), flip_predicted=None, flip_measured=None,
        accuracy={"measured": False, "reason": "no language model"}, energy={"reason": "no counter"}, verdict="bf16: faster",
        machine=MACHINE, versions={"python": "3.11.7"},
    )  # fmt: skip


def result(kind: str = "predicted") -> Result:
    rows = tuple(
        OpRow(op.name, op.kind, "other", op.kernel, 4, op.time_s, op.time_s, op.time_s, "compute", 1e9, 1e6)
        for op in OPS
    )
    metrics = {
        "latency_s": Value(4e-3, 4e-3, 4e-3, "sum of laws"), "tokens_per_s": Value(1e3, 1e3, 1e3, "tokens / latency"),
        "memory_bytes": Value(1e6, 1e6, 1e6, "itemised: weights, KV cache, activations; no interval"),
    }  # fmt: skip
    return Result(
        kind=kind, workload=MODULE, step="forward of 4 items", side="fp32", target="t", metrics=metrics, ops=rows
    )


def rendered(renderable: object, width: int = 100) -> str:
    console = Console(file=io.StringIO(), width=width, color_system=None, force_terminal=False, legacy_windows=False)
    console.print(renderable)
    return " ".join(console.file.getvalue().split())


def shown() -> dict[str, str]:
    """Everything that is printed of a module."""
    return {
        "bet": rendered(bet_panel(answer().bet)), "answer": rendered(answer_table(answer())), "page": answer_html(answer()),
        "result": rendered(result_table(result())), "comparison": rendered(compare_table(result(), result("measured"))),
    }  # fmt: skip


@pytest.mark.parametrize("where", ["bet", "answer", "page", "result", "comparison"])
def test_a_module_has_items_and_no_tokens(where: str) -> None:
    text = shown()[where]
    assert "token" not in text and "KV cache" not in text and "random weights" not in text
    wanted = {
        "bet": "over the items of the batch",
        "page": "time per item of A",
        "result": "items/s",
        "comparison": "items/s",
    }
    assert wanted.get(where, "faster") in text
    assert "forward of 1" not in text


def test_units_by_the_name_of_the_model() -> None:
    assert [unit_of(name) for name in (MODULE, "linear:8x8", "smollm2-135m", "org/net.py")] == [
        "items", "rows", "tokens", "tokens",
    ]  # fmt: skip
    assert "time per token of A" in answer_html(answer("m")) and "forward of 1 tokens" in rendered(
        bet_panel(answer("m").bet)
    )
    assert "over the rows of the batch" in rendered(bet_panel(answer("linear:8x8").bet))


@pytest.mark.parametrize("where", ["bet", "page", "result", "comparison"])
def test_rows_of_several_places_are_said_in_words(where: str) -> None:
    text = shown()[where]
    assert "+3" not in text
    if where != "bet":  # which has the kernel of most operators without their names
        assert "f.0.2 and 3 more" in text and "f.0.1:relu and 3 more" in text
        assert text.lower().count("a row “x and 3 more” is of x") == 1, "explained once"


def test_names_of_operators() -> None:
    assert operator_words("f.0.2 +3:relu") == "f.0.2:relu and 3 more"
    assert operator_words("f.0.2 +3:relu#2") == "f.0.2:relu#2 and 3 more"
    assert operator_words("q_proj") == "q_proj" and operator_words("7 more") == "7 more"
    assert short_operator("encoder.layers.0.1 +11:relu", 24) == "encoder.lay… and 11 more"
    assert len(short_operator("encoder.layers.0.1 +11:relu", 24)) == 24
    assert short_operator("a" * 30, 24) == "a" * 23 + "…"
    assert operator_notes(["q_proj", "mlp"]) == ()
    assert len(operator_notes(["f +1", "layers.*.up", "add#2"])) == 3


def test_facts_of_a_machine_are_no_python_values() -> None:
    facts = dict(machine_facts(MACHINE))
    assert facts == {
        "CPU": "AMD EPYC", "instruction sets": "avx2, bf16", "caches": "L1d 32 KiB, L2 1 MiB", "usable cores": "2",
        "memory": "23.5 GiB", "virtual machine": "yes", "python": "3.11.7", "GPUs": "NVIDIA H100, driver 550",
        "environment of measuring processes": "OMP_NUM_THREADS 1",
    }  # fmt: skip
    text = answer_html(answer())
    assert "L1d 32 KiB, L2 1 MiB" in text and "23.5 GiB" in text
    assert not any(sign in text for sign in ("{&#x27;", "[&#x27;", ">True<", "25276514304"))
    assert text.count("3.11.7") == 1, "once, with the versions"


def test_facts_that_a_target_keeps_as_text() -> None:
    assert fact_words("hypervisor", "False") == "no" and fact_words("gpu_l2_bytes", "52428800") == "50 MiB"
    assert fact_words("caches_bytes", "{'L2': 1048576}") == "L2 1 MiB"
    assert fact_words("cpu", "(unfinished") == "(unfinished" and fact_words("cores", "2") == "2"
    assert fact_words("memory_total_gib", 24) == "24 GiB"


def test_the_card_has_them_in_words() -> None:
    from ridgepoint.hardware import Target
    from ridgepoint.hardware.target import SCHEMA

    machine = {"cpu": "x", "hypervisor": "True", "memory_total_bytes": "25276514304", "gpu_l2_bytes": "52428800"}
    bare = Target(schema=SCHEMA, name="t", kind="cpu", date="2026-01-01", machine=machine, memory_bytes=25276514304.0)
    text = rendered(card(bare))
    assert "virtual machine yes" in text and "GPU L2 50 MiB" in text and "True" not in text
    assert text.count("23.5 GiB") == 1


def stops(page: str) -> list[str]:
    """The opening tags that the Tab key can reach."""
    return re.findall(r'<a [^>]*>|<summary>|<[^>]* tabindex="0"[^>]*>', page)


def test_a_keyboard_reaches_every_section_in_few_stops() -> None:
    page = answer_html(answer())
    sections, tables = re.findall(r'<h2 id="([a-z-]+)">', page), page.count("<table>")
    assert len(set(sections)) == len(sections) == page.count("<h2") >= 9
    found = stops(page)
    assert found[0] == '<a class="skip" href="#content">' and '<main id="content" tabindex="-1">' in page
    assert found[1 : 1 + len(sections)] == [f'<a href="#{name}">' for name in sections], "a link to each section"
    scrolling = '<div class="scroll" tabindex="0" role="region" aria-label="'
    assert sum(tag.startswith(scrolling) for tag in found) == tables
    assert len(found) == 1 + len(sections) + tables + page.count("<summary>") < 30
    assert page.count('class="mark ') == page.count('role="img" aria-label="') - page.count("<svg") > 3, (
        "points keep words"
    )


def test_operators_add_no_stops() -> None:
    many = tuple(
        OpCard(name=f"op{i}", kind="linear", kernel="k", time_s=1e-3, flops=1e9, bytes=1e6, bound="compute")
        for i in range(80)
    )
    few = answer()
    full = msgspec.structs.replace(
        few, bet=msgspec.structs.replace(few.bet, a=side("fp32", many), b=(side("bf16", many),))
    )
    assert answer_html(full).count('class="mark ') > 150
    assert len(stops(answer_html(full))) == len(stops(answer_html(few)))


@pytest.mark.skipif(shutil.which("chromium") is None, reason="needs chromium")
def test_stops_in_a_browser(tmp_path: Path) -> None:
    """As a browser counts what is visible: closed details left out."""
    count = (
        "<script>document.title = 'stops ' + [...document.querySelectorAll('*')].filter(e => e.tabIndex >= 0 && "
        "e.checkVisibility()).length</script></body>"
    )
    page = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", answer_html(answer()))
    path = tmp_path / "page.html"
    path.write_text(page.replace("</body>", count))
    flags = ("--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom")
    done = subprocess.run(["chromium", *flags, str(path)], capture_output=True, text=True, timeout=60, check=True)
    found = re.search(r"<title>stops (\d+)</title>", done.stdout)
    assert found and 10 < int(found[1]) < 25
