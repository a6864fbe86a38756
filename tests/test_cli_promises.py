"""`ridge promises`: the list, a run on a tiny model with its page and its record, and refusals in one line."""

import importlib.util
import json
import shutil
from pathlib import Path

import pytest

from ridgepoint.store import Store

ROOT = Path(__file__).resolve().parent.parent
DATA = ROOT / "tests" / "data"
CASE = """
question = "Is int8 twice as fast?"
promise = "Half of the bytes is half of the time."
kind = "why"
seconds = 2
holds = "A tiny model."
[[thread]]
title = "a title"
repository = "owner/name"
number = 7
date = 2024-01-31
[run]
model = "{model}"
bet = "fp32..int8"
batches = [1, 2]
isl = 16
[claim]
ratio = "bits"
[[known]]
batch = 1
verdict = "short"
"""


@pytest.fixture
def mine(tmp_path: Path, isolated_home: Path) -> Path:
    """A folder with one small case, on a machine that is calibrated."""
    (isolated_home / "targets").mkdir()
    shutil.copy(DATA / "test-target.calibrated.toml", isolated_home / "targets" / "test-target.calibrated.toml")
    (tmp_path / "cases").mkdir()
    (tmp_path / "cases" / "mine.toml").write_text(CASE.format(model=(DATA / "tiny-llama.json").as_posix()))
    return tmp_path / "cases"


def test_the_list_needs_no_calibration(ridge):
    ran = ridge("promises")
    assert (ran.code, ran.err) == (0, "")
    assert "int4-large-batch" in ran.out and "on paper" in ran.out
    rows = {row["name"]: row for row in json.loads(ridge("promises", "--json").out)}
    assert rows["will-it-fit"]["status"] == "paper" and rows["flash-short"]["status"] == "needs"
    assert rows["flash-short"]["words"] == "needs a calibration: ridge calibrate"
    assert rows["flash-short"]["threads"][0]["repository"] == "Dao-AILab/flash-attention"


def test_a_run_bets_measures_scores_and_keeps(ridge, mine, isolated_home, tmp_path):
    asked = ("promises", "--cases", mine, "--run", "mine,mfu-above-100,two-gpus-slower", "--seconds", "0.2")
    ran = ridge(*asked, "--report", tmp_path / "p.html", "--keep", tmp_path / "p.json")
    assert ran.code == 0, ran.err
    assert "promised and measured" in ran.out and "on paper only" in ran.out
    record = json.loads((tmp_path / "p.json").read_text())
    measured = record["outcomes"][0]
    assert measured["case"] == "mine" and [p["batch"] for p in measured["points"]] == [1, 2]
    for p in measured["points"]:
        assert p["claim"] > 3 and p["measured_low"] < p["measured"] < p["measured_high"]
    assert record["complete"] and {row["points"] for row in record["score"]} == {2}, "paper is not counted"
    assert set(record["by_case"]) == {"mine"}
    with Store(isolated_home / "ridge.db") as store:
        kinds = [r.kind for r in store.records()]
        (answer,) = store.records(kind="answer")
        promise = store.records(kind="promise")[0]
    assert kinds.index("bet") < kinds.index("point") < kinds.index("answer") < kinds.index("promise")
    assert promise.study == answer.study == measured["bet"]
    page = (tmp_path / "p.html").read_text()
    assert page.lstrip().lower().startswith("<!doctype html>") and "http" not in page.replace("http-equiv", "")
    assert "a title, owner/name #7, 2024-01-31" in page and page.count("<svg") == 1
    listed = json.loads(ridge("promises", "--cases", mine, "--json").out)
    assert next(row["last"]["case"] for row in listed if row["name"] == "mine") == "mine"
    assert "measured, promised" in ridge("promises", "--cases", mine).out.replace("\n", " ")
    again = ridge("promises", "--cases", mine, "--keep", tmp_path / "again.json", "--json")
    assert again.code == 0
    kept = {o["case"]: o for o in json.loads((tmp_path / "again.json").read_text())["outcomes"]}
    assert kept["mine"]["points"] == measured["points"]
    check_figures(tmp_path / "p.json", tmp_path / "records")


def check_figures(record: Path, folder: Path) -> None:
    """The README's table is made from the record."""
    folder.mkdir()
    shutil.copy(record, folder / "promises.json")
    for name in ("sheet_figures", "promise_figures"):
        spec = importlib.util.spec_from_file_location(name, ROOT / "benchmarks" / f"{name}.py")
        module = importlib.util.module_from_spec(spec)
        import sys

        sys.modules.setdefault(name, module)
        spec.loader.exec_module(module)
    found = module.promise_figures(folder)
    assert "Is int8 twice as fast?" in found["promises.table"] and found["promises.cases"] == "1"
    assert found["promises.paper"] == "2" and found["promises.points"] == "2"
    assert module.promise_figures(folder / "nowhere") == {}


def test_a_case_that_needs_something_is_listed_and_no_error(ridge, mine):
    strange = (mine / "mine.toml").read_text().replace("fp32..int8", "fp32..glue:2")
    (mine / "mine.toml").write_text(strange)
    ran = ridge("promises", "--cases", mine, "--run", "mine", "--json")
    assert ran.code == 0
    found = json.loads(ran.out)
    assert found["outcomes"] == [] and found["refused"] == [{"case": "mine", "words": "needs the choice glue:2"}]
    assert "needs the choice glue:2" in ridge("promises", "--cases", mine, "--run", "mine").out


def test_refusals_are_one_line(ridge, mine, tmp_path):
    assert "did you mean will-it-fit?" in ridge("promises", "--run", "will-it-fi").complaint
    assert "no folder with cases" in ridge("promises", "--cases", tmp_path / "nowhere").complaint
    assert "cannot be written" not in ridge("promises").err
    assert "--keep" in ridge("promises", "--keep", tmp_path).complaint
    assert "--report" in ridge("promises", "--report", tmp_path / "no" / "p.html").complaint
    assert "--seconds" in ridge("promises", "--run", "all", "--seconds", "0").complaint
    broken = ridge("promises", "--keep", tmp_path / "p.json", "--json")
    assert broken.code == 2 and "--run all" in broken.complaint and not (tmp_path / "p.json").exists()
    (mine / "mine.toml").write_text("colour = 1")
    assert "case mine" in ridge("promises", "--cases", mine).complaint


def test_ctrl_c_ends_with_130_and_what_was_done(ridge, mine, monkeypatch):
    from ridgepoint.study.promises import settle

    def interrupted(*asked: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(settle, "why", interrupted)
    ran = ridge("promises", "--cases", mine, "--run", "mfu-above-100,mine", "--json")
    assert ran.code == 130 and ran.complaint == "ridge: interrupted"
    found = json.loads(ran.out)
    assert [o["case"] for o in found["outcomes"]] == ["mfu-above-100"] and found["complete"] is False
