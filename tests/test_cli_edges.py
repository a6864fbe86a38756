"""Edges that a trial by a new user found: narrow terminals, sides that take choices from --with, unreadable weights."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from ridgepoint.report.grid_terminal import add, grid
from ridgepoint.store import Store
from ridgepoint.study.question import ask

DATA = Path(__file__).parent / "data"
MODEL, TARGET = str(DATA / "tiny-llama.json"), str(DATA / "test-target.calibrated.toml")
ON = ("--on", TARGET)


def test_a_figure_is_never_cut_however_narrow_the_terminal():
    from rich.console import Console

    table = grid(("<a group with a long name", "n", "sign", "MAPE"))
    add(table, "linear torch.ops.quantized.linear_dynamic", "1043", "3131/3132", "12.34 %")
    add(table, "sum of operators", "", "77/78")
    console = Console(width=34, file=open(os.devnull, "w"))  # noqa: SIM115
    with console.capture() as shown:
        console.print(table)
    text = shown.get()
    assert all(figure in text for figure in ("1043", "3131/3132", "12.34 %", "77/78"))


def test_a_side_is_named_with_what_it_takes_from_with():
    question = ask(MODEL, "bf16..int8", on=TARGET, common="int4", batches=(1,))
    assert question.a_text == "bf16+int4:g32" and question.b_texts == ("int8",)
    plain = ask(MODEL, "bf16..int8", on=TARGET, common="bf16+threads:1", batches=(1,))
    assert (plain.a_text, plain.b_texts) == ("bf16", ("int8",))


@pytest.mark.parametrize(("name", "content", "says"), [
    ("model.safetensors", b"\x00" * 40, "not a safetensors file"),
    ("model.safetensors", b"", "not a safetensors file"),
    ("model.safetensors", (10**12).to_bytes(8, "little") + b"{}", "not a safetensors file"),
    ("model.safetensors", (7).to_bytes(8, "little") + b'{"a":1}', "not a safetensors file"),
    ("model.safetensors.index.json", b'{"weight_map": {"a": "model-1.safetensors"}}', "model-1.safetensors is missing"),
    ("model.safetensors.index.json", b"[", "not an index"),
])  # fmt: skip
def test_unreadable_weights_are_refused_before_a_bet_is_stored(ridge, isolated_home, tmp_path, name, content, says):
    shutil.copy(MODEL, tmp_path / "config.json")
    (tmp_path / name).write_bytes(content)
    for command in (("why", tmp_path, "bf16..int8"), ("measure", tmp_path)):
        ran = ridge(*command, *ON)
        assert ran.code == 2 and says in ran.complaint
    with Store(isolated_home / "ridge.db") as store:
        assert store.records(kind="bet") == []


def test_a_terminal_that_cannot_show_a_letter_shows_a_question_mark():
    command = [sys.executable, "-c", "from ridgepoint.cli import main; main()", "predict", MODEL, *ON]
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert (ran.returncode, ran.stderr) == (0, "") and "?s" in ran.stdout


def test_an_interrupted_bet_says_so_and_not_that_nothing_flips(ridge, monkeypatch):
    from ridgepoint.measurement.session import Session

    def interrupted(*asked: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Session, "ask", interrupted)
    ran = ridge("why", MODEL, "bf16..int8", *ON, "--batch", "1,64")
    assert ran.code == 130
    assert "interrupted before it" in ran.out and "measured unknown, interrupted" in ran.out.replace("\n", " ")
    assert "not needed" not in ran.out and "measured none" not in ran.out
    document = json.loads(ridge("report", "--json").out)
    assert document["complete"] is False and document["points"] == []
