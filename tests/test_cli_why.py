"""`ridge why` and what it leaves in the store: the document, the page, the gate, the score, and export."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ridgepoint.errors import NotSupported
from ridgepoint.store import Store

DATA = Path(__file__).parent / "data"
MODEL, TARGET = str(DATA / "tiny-llama.json"), str(DATA / "test-target.calibrated.toml")
ON = ("--on", TARGET)
QUICK = (*ON, "--isl", "16", "--seconds", "0.2")


@pytest.fixture(scope="module")
def settled(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A home with one settled bet on two sides, and the document that `why --json` printed; a real process ran it."""
    home = tmp_path_factory.mktemp("settled")
    command = [sys.executable, "-c", "from ridgepoint.cli import main; main()", "why", MODEL, "fp32..bf16,int8"]
    done = subprocess.run(
        [*command, *QUICK, "--batch", "1,2", "--points", "all", "--json", "--report", str(home / "report.html")],
        env={**os.environ, "RIDGEPOINT_HOME": str(home)}, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return home, json.loads(done.stdout)


@pytest.fixture
def at_home(settled, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, Any]:
    """A copy of that home is in use; the document."""
    shutil.copytree(settled[0], tmp_path / "home")
    monkeypatch.setenv("RIDGEPOINT_HOME", str(tmp_path / "home"))
    return settled[1]


FIELDS = {"bet", "points", "flip_predicted", "flip_measured", "accuracy", "energy", "verdict", "flags"}
POINT_FIELDS = {
    "a", "b", "batch", "predicted_speedup", "predicted_low", "predicted_high", "measured_speedup", "measured_low",
    "measured_high",
}  # fmt: skip


def test_why_as_json_is_one_document_with_the_promised_fields(settled):
    _, answer = settled
    assert answer.keys() >= FIELDS
    assert [(p["a"], p["b"], p["batch"]) for p in answer["points"]] == [
        ("fp32", "bf16", 1), ("fp32", "bf16", 2), ("fp32", "int8", 1), ("fp32", "int8", 2),
    ]  # fmt: skip
    for point in answer["points"]:
        assert point.keys() >= POINT_FIELDS
        assert point["predicted_low"] < point["predicted_speedup"] < point["predicted_high"]
        assert point["measured_low"] < point["measured_speedup"] < point["measured_high"]
    assert answer["flip_predicted"].keys() == answer["flip_measured"].keys() == {"bf16", "int8"}
    assert answer["accuracy"]["measured"] is False and answer["accuracy"]["reason"]
    assert answer["verdict"].startswith("bf16: ") and "\nint8: " in answer["verdict"]
    assert answer["complete"] is True
    assert answer["bet"]["random_weights"] is True
    assert answer["bet"]["a"]["spec"] == "fp32+threads:1"
    assert answer["bet"]["b"][1]["spec"] == "bf16+int8+threads:1"


def test_why_writes_one_page_that_needs_nothing_else(settled):
    page = (settled[0] / "report.html").read_text(encoding="utf-8")
    assert page.lstrip().lower().startswith("<!doctype html>")
    assert settled[1]["id"] in page
    assert 'src="http' not in page and 'href="http' not in page


def test_why_prints_the_bet_before_the_verdict(ridge):
    ran = ridge("why", MODEL, "bf16..int8", *QUICK, "--batch", "1")
    assert ran.code == 0, ran.err
    bet, stored, verdict = (ran.out.index(x) for x in ("stated before measuring", "stored, sha256", "the bet, settled"))
    assert bet < stored < verdict
    assert "Traceback" not in ran.err


def test_an_assertion_is_a_gate(ridge):
    asked = ("why", MODEL, "bf16..bf16", *QUICK, "--batch", "1,2,4", "--json")
    holds = ridge(*asked, "--assert", "speedup>0.2")
    assert holds.code == 0, holds.err
    fails = ridge(*asked, "--assert", "speedup@2 >= 5.5")
    assert fails.code == 1
    assert fails.err.splitlines()[-1].startswith("ridge: asserted speedup>=5.5, but bf16 at batch 2 is ")
    assert 2 in [p["batch"] for p in json.loads(fails.out)["points"]], "an asserted point is measured"


def test_predict_only_places_the_bet_and_measures_nothing(ridge, isolated_home):
    asked = ("why", MODEL, "bf16..int8", *QUICK, "--batch", "1", "--predict-only")
    shown = ridge(*asked)
    assert (shown.code, shown.err) == (0, "")
    assert "stated before measuring" in shown.out
    printed = json.loads(ridge(*asked, "--json").out)
    with Store(isolated_home / "ridge.db") as store:
        (bet,) = store.records()
    assert (printed["id"], printed["digest"]) == (bet.id, bet.digest)
    assert printed["bet"] == bet.body["bet"]
    again = ridge("report", bet.id)
    assert (again.code, again.out) == (0, shown.out) and f"bet {bet.id} is not settled" in shown.out
    assert json.loads(ridge("report", bet.id, "--json").out) == printed
    assert "is not settled" in ridge("report", bet.id, "--html", "x.html").complaint
    assert "no settled bet in the store" in ridge("report").complaint


def test_the_digest_of_a_printed_bet_can_be_computed_from_the_export(ridge, at_home, tmp_path):
    import hashlib

    ridge("export", tmp_path / "all.jsonl")
    lines = [json.loads(line) for line in (tmp_path / "all.jsonl").read_text().splitlines()]
    (bet,) = [line for line in lines if line["kind"] == "bet"]
    whole = {k: bet[k] for k in ("id", "kind", "study", "created", "body")}
    text = json.dumps(whole, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    assert hashlib.sha256(text.encode()).hexdigest() == bet["digest"] == at_home["digest"]
    assert bet["body"]["bet"] == at_home["bet"]
    assert all(bet["id"] < line["id"] for line in lines if line["kind"] == "point"), "the bet came first"


def test_ctrl_c_ends_a_command_with_one_line(ridge, monkeypatch):
    from ridgepoint.study import measure

    def interrupted(*asked: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(measure, "predict_side", interrupted)
    ran = ridge("predict", MODEL, *ON)
    assert (ran.code, ran.complaint) == (130, "ridge: interrupted")


def test_a_bet_of_which_nothing_could_be_measured_is_no_success(ridge, monkeypatch):
    from ridgepoint.measurement.session import Session

    def refuse(*asked: object) -> None:
        raise NotSupported("no kernel for that")

    monkeypatch.setattr(Session, "ask", refuse)
    ran = ridge("why", MODEL, "bf16..int8", *QUICK, "--batch", "1", "--json")
    assert ran.code == 2
    assert ran.err.splitlines()[-1] == "ridge: no point could be measured; NotSupported: no kernel for that"
    assert json.loads(ran.out)["points"][0]["measured_speedup"] is None


# What the store holds


def test_report_repeats_what_why_printed(ridge, at_home, tmp_path):
    by_id = ridge("report", at_home["id"], "--json")
    assert (by_id.code, by_id.err) == (0, "")
    assert json.loads(by_id.out) == at_home
    assert by_id.out == json.dumps(at_home, indent=1) + "\n", "to the letter"
    assert ridge("report", at_home["id"][:20], "--json").out == by_id.out
    assert ridge("report", "--json").out == by_id.out
    first, second = ridge("report"), ridge("report")
    assert first.out == second.out
    assert "q_proj" not in first.out and "fp32" in first.out
    ridge("report", "--html", tmp_path / "again.html")
    page = (Path(os.environ["RIDGEPOINT_HOME"]) / "report.html").read_bytes()
    assert (tmp_path / "again.html").read_bytes() == page


def test_export_and_import_carry_a_report_to_another_home(ridge, at_home, tmp_path, monkeypatch):
    table = ridge("report", at_home["id"]).out
    scored = ridge("score", "--json").out
    assert ridge("export", tmp_path / "all.jsonl").code == 0
    assert ridge("export").out == (tmp_path / "all.jsonl").read_text()
    monkeypatch.setenv("RIDGEPOINT_HOME", str(tmp_path / "elsewhere"))
    assert ridge("report", at_home["id"]).code == 2
    done = ridge("import", tmp_path / "all.jsonl")
    assert (done.code, done.err) == (0, "6 records added, 0 were here already\n")
    assert ridge("import", tmp_path / "all.jsonl").err == "0 records added, 6 were here already\n"
    assert json.loads(ridge("report", at_home["id"], "--json").out) == at_home
    assert ridge("report", at_home["id"]).out == table
    assert ridge("score", "--json").out == scored


def test_a_line_that_was_tampered_with_is_refused_by_number(ridge, at_home, tmp_path, monkeypatch):
    ridge("export", tmp_path / "all.jsonl")
    lines = (tmp_path / "all.jsonl").read_text().splitlines()
    lines[1] = lines[1].replace('"batch":1', '"batch":2', 1)
    (tmp_path / "all.jsonl").write_text("\n".join(lines))
    monkeypatch.setenv("RIDGEPOINT_HOME", str(tmp_path / "elsewhere"))
    ran = ridge("import", tmp_path / "all.jsonl")
    assert ran.code == 2
    assert "line 2: record" in ran.complaint and "does not match its digest" in ran.complaint


def test_score_shows_every_bet_and_what_the_roofline_would_have_said(ridge, at_home):
    rows = {row["group"]: row for row in json.loads(ridge("score", "--json").out)}
    assert set(rows) == {"fp32..bf16", "fp32..int8", "all"}
    assert rows["all"]["n"] == 4
    points = [p for p in at_home["points"] if p["b"] == "bf16"]
    errors = [abs(p["predicted_speedup"] / p["measured_speedup"] - 1) for p in points]
    assert rows["fp32..bf16"]["speedup_mape"] == pytest.approx(sum(errors) / 2)
    shown = ridge("score")
    assert (shown.code, shown.err) == (0, "")
    assert "fp32..int8" in shown.out.replace("\n", "") and "roof" in shown.out
    for by, group in (
        ("side", "int8"),
        ("phase", "decode"),
        ("model", at_home["bet"]["model"]),
        ("batch", "batch     2"),
    ):
        assert group in {row["group"] for row in json.loads(ridge("score", "--by", by, "--json").out)}


def test_an_empty_score_says_how_to_begin(ridge):
    ran = ridge("score")
    assert ran.code == 0 and "ridge why MODEL A..B" in ran.out
    assert "ridge compare MODEL" in ridge("score", "--by", "operator").out
    assert json.loads(ridge("score", "--json").out) == []


def test_targets_lists_and_shows(ridge, isolated_home):
    (isolated_home / "targets").mkdir()
    shutil.copy(TARGET, isolated_home / "targets" / "test-target.calibrated.toml")
    assert "test-target" in ridge("targets").out
    for name in ("test-target", "test-target.calibrated", "host"):
        shown = ridge("targets", name)
        assert shown.code == 0, shown.err
        assert "test-target" in shown.out
    assert "test-target" in ridge("calibrate", "--show").out
    assert ridge("predict", MODEL).code == 0
