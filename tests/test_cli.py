"""What a person at the terminal gets: tables, JSON and exit codes, and one clear line for whatever is wrong."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from ridgepoint.cli import main
from ridgepoint.errors import NotSupported
from ridgepoint.store import Store

DATA = Path(__file__).parent / "data"
MODEL, TARGET = str(DATA / "tiny-llama.json"), str(DATA / "test-target.calibrated.toml")
CONFIG = json.loads((DATA / "tiny-llama.json").read_text())
ON = ("--on", TARGET)
QUICK = (*ON, "--isl", "16", "--seconds", "0.2")
CUDA = shutil.which("nvidia-smi") is not None


@dataclass(frozen=True)
class Ran:
    """What a command left: its exit code and what it wrote."""

    code: int
    out: str
    err: str

    @property
    def complaint(self) -> str:
        """The one line on standard error of a refused command."""
        lines = [line for line in self.err.splitlines() if line.strip()]
        assert len(lines) == 1, f"one line, not {len(lines)}:\n{self.err}"
        assert lines[0].startswith("ridge: ")
        assert "Traceback" not in self.err
        return lines[0]


Ridge = Callable[..., Ran]


@pytest.fixture
def ridge(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Ridge:
    """Runs a command in this process; an exception that would be a traceback fails the test."""

    def run(*words: object) -> Ran:
        monkeypatch.setattr(sys, "argv", ["ridge", *map(str, words)])
        capfd.readouterr()
        with pytest.raises(SystemExit) as stop:
            main()
        out, err = capfd.readouterr()
        return Ran(int(stop.value.code or 0), out, err)

    return run


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


# Refusals


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["predict", "smolm2-135m", *ON], "did you mean smollm2-135m"),
        (["predict", "no/such/model.json", *ON], "no model named 'no/such/model.json'"),
        (["predict", MODEL, "--on", "test-targt"], "no target named 'test-targt'"),
        (["predict", MODEL, "--on", "missing.toml"], "no target named 'missing.toml'"),
        (["predict", MODEL], "this machine is not calibrated yet: run `ridge calibrate`"),
        (["predict", MODEL, *ON, "--with", "bf61"], "did you mean bf16"),
        (["predict", MODEL, *ON, "--with", "int8:dny"], "no option 'dny'"),
        (["predict", MODEL, *ON, "--with", "bf16+fp32"], "both settle the dtype"),
        (["predict", MODEL, *ON, "--batch", "0"], "batch 0"),
        (["predict", MODEL, *ON, "--isl", "-1"], "isl -1"),
        (["predict", MODEL, *ON, "--isl", "1025"], "at most 1024 positions"),
        (["predict", MODEL, *ON, "--phase", "sleep"], "decode, prefill, forward, train, mixed"),
        (["predict", MODEL, *ON, "--phase", "mixed"], "--new and --cached"),
        (["predict", MODEL, *ON, "--new", "5"], "--new and --cached"),
        (["predict", MODEL, *ON, "--phase", "mixed", "--new", "5,1", "--cached", "0"], "as many cached as new"),
        (["predict", MODEL, *ON, "--device", "tpu"], "--device is cpu or cuda, not 'tpu'"),
        (["predict", MODEL, *ON, "--device", "cuda"], "test-target is a cpu"),
        (["predict", MODEL, *ON, "--threads", "0"], "'--threads'"),
        (["predict", MODEL, *ON, "--threads", "64"], "not calibrated for 64 threads"),
        (["predict", "linear:4096", *ON], "linear:4096x4096"),
        (["predict"], "Missing argument 'model'"),
        (["measure", MODEL, *ON, "--seconds", "-1"], "--seconds is -1; possible is 0.05 to 3600"),
        (["measure", MODEL, *ON, "--seconds", "nan"], "--seconds is nan"),
        (["measure", MODEL, *ON, "--phase", "mixed"], "it is not measured yet"),
        (["compare", MODEL, *ON, "--batch", "x"], "'--batch'"),
        (["wy", MODEL, "bf16..int8"], "did you mean 'why'"),
        (["why", MODEL, "bf16..int8", "--bacth", "1"], "--batch"),
        (["why", MODEL, "bf16..in8", *ON], "did you mean int8"),
        (["why", MODEL, "bf16", *ON], "'bf16' is not a bet; write A..B"),
        (["why", MODEL, "bf16..int8,", *ON], "is not a bet"),
        (["why", MODEL, "bf16..int8,int8", *ON], "names a side twice"),
        (["why", MODEL, "bf16..int8+int4", *ON], "both settle the weights"),
        (["why", MODEL, "bf16..int8", *ON, "--dtype", "fp31"], "did you mean fp32"),
        (["why", MODEL, "bf16..int8", *ON, "--batch", "0"], "from 1 to"),
        (["why", MODEL, "bf16..int8", *ON, "--batch", "-4"], "got '-4'"),
        (["why", MODEL, "bf16..int8", *ON, "--batch", "1,,4"], "got '1,,4'"),
        (["why", MODEL, "bf16..int8", *ON, "--batch", "9999999"], "from 1 to"),
        (["why", MODEL, "bf16..int8", *ON, "--assert", "speedup"], "--assert takes speedup>1.2"),
        (["why", MODEL, "bf16..int8", *ON, "--assert", "speedup>>1"], "--assert takes speedup>1.2"),
        (["why", MODEL, "bf16..int8", *ON, "--assert", "speedup@7>1"], "--assert speaks of batch 7; --batch has 1, 4"),
        (["why", MODEL, "bf16..int8", *ON, "--seconds", "0"], "--seconds is 0"),
        (["why", MODEL, "bf16..int8", *ON, "--seconds", "soon"], "'--seconds'"),
        (["why", MODEL, "bf16..int8", *ON, "--points", "some"], "--points is few or all"),
        (["why", MODEL, "bf16..int8", *ON, "--threads", "-2"], "'--threads'"),
        (["why", MODEL, "bf16..int8", *ON, "--device", "tpu"], "--device is cpu or cuda"),
        (["why", MODEL, "bf16..int8", *ON, "--device", "cuda"], "test-target is a cpu and has no cuda"),
        (["why", MODEL, "bf16..int8", *ON, "--phase", "train"], "decode, prefill, forward"),
        (["why", MODEL, "bf16..int8", *ON, "--isl", "0"], "isl 0"),
        (["why", MODEL, "bf16..int8", *ON, "--isl", "0", "--phase", "prefill"], "isl 0"),
        (["why", MODEL, "bf16..int8", *ON, "--isl", "-5"], "isl -5"),
        (["why", MODEL, "bf16..int8", *ON, "--isl", "5000"], "at most 1024 positions"),
        (["why", MODEL, "bf16..fp8", *ON], "fp8 has no kernel on a CPU"),
        (["why", MODEL, "bf16..int8", *ON, "--predict-only", "--assert", "speedup>1"], "measures nothing"),
        (["why", MODEL, "bf16..int8", *ON, "--report", "/proc/none/report.html"], "/proc/none"),
        (["why", MODEL, "bf16..int8", *ON, "--report", str(DATA)], "is not a file that can be written"),
        (["report"], "no settled bet there"),
        (["report", "zzzz"], "no bet named 'zzzz'"),
        (["score", "--by", "colour"], "b, regime, phase, model or batch"),
        (["targets", "tst"], "no target named 'tst'"),
        (["import", "nowhere.jsonl"], "no file nowhere.jsonl"),
        (["import", str(DATA)], "no file"),
        (["import", MODEL], "line 1: not a record"),
        (["export", "/proc/none/records.jsonl"], "/proc/none/records.jsonl"),
        (["export", str(DATA)], str(DATA)),
        (["calibrate", "--device", "tpu"], "--device is cpu or cuda"),
        (["calibrate", "--refit", "zz"], "no calibration named 'zz'"),
        (["calibrate", "--show"], "run `ridge calibrate`"),
    ],
    ids=lambda x: " ".join(x).replace(str(DATA), "DATA")[:80] if isinstance(x, list) else "",
)  # fmt: skip
def test_bad_input_gets_one_line_and_exit_code_2(ridge, words, says):
    ran = ridge(*words)
    assert says.lower() in ran.complaint.lower()
    assert (ran.code, ran.out) == (2, "")


def test_a_refusal_leaves_no_bet_behind(ridge, isolated_home):
    ridge("why", MODEL, "bf16..in8", *ON)
    ridge("why", MODEL, "bf16..int8", *ON, "--assert", "speedup@7>1")
    ridge("why", MODEL, "bf16..int8", *ON, "--report", str(DATA))
    assert not (isolated_home / "ridge.db").exists()


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"hidden_size": -1}, "hidden_size is -1; possible is 1 to"),
        ({"hidden_size": "128"}, "Expected `int`, got `str` - at `$.hidden_size`"),
        ({"num_hidden_layers": 2.5}, "num_hidden_layers"),
        ({"vocab_size": 10**30}, "vocab_size"),
        ({"num_attention_heads": 0}, "num_attention_heads is 0"),
        ({"num_attention_heads": 7}, "7 attention heads"),
        ({"num_key_value_heads": 3}, "cannot share 3 key/value heads"),
        ({"head_dim": 33}, "even head_dim"),
        ({"model_type": "lama"}, "did you mean llama"),
        ({"model_type": None}, "no model family"),
        ({"hidden_act": "gelu"}, "silu is"),
        ({"torch_dtype": "int3"}, "float32, bfloat16, float16"),
    ],
    ids=lambda x: json.dumps(x)[:60] if isinstance(x, dict) else "",
)
@pytest.mark.parametrize("command", [["predict"], ["why", "bf16..int8"]], ids=["predict", "why"])
def test_an_impossible_config_is_refused(ridge, tmp_path, changes, says, command):
    path = tmp_path / "config.json"
    path.write_text(json.dumps({**CONFIG, **changes}))
    ran = ridge(command[0], path, *command[1:], *ON)
    assert says in ran.complaint
    assert (ran.code, ran.out) == (2, "")


@pytest.mark.parametrize("text", [b"", b"{", b"[1, 2]", b"{}", b"null", b"\xff\xfe{}", b"[" * 100_000, b'{"a": NaN}'])
def test_a_malformed_config_is_refused(ridge, tmp_path, text):
    (tmp_path / "config.json").write_bytes(text)
    for model in (tmp_path, tmp_path / "config.json"):
        ran = ridge("predict", model, *ON)
        assert "config.json" in ran.complaint
        assert (ran.code, ran.out) == (2, "")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("x = [", "target bad.toml: "),
        ("", "missing required field"),
        ('schema = 99\nname = "x"\nkind = "cpu"\ndate = ""', "schema 99"),
        ("\x00", "target bad.toml: "),
        ('schema = 1\nname = "x"\nkind = "cpu"\ndate = ""', "x has no"),
    ],
)
def test_a_malformed_or_poor_target_is_refused(ridge, tmp_path, text, says):
    (tmp_path / "bad.toml").write_text(text)
    ran = ridge("predict", MODEL, "--on", tmp_path / "bad.toml")
    assert says in ran.complaint
    assert (ran.code, ran.out) == (2, "")


def test_a_model_that_does_not_fit_is_refused_with_need_and_rest(ridge, tmp_path):
    huge = {**CONFIG, "hidden_size": 16384, "intermediate_size": 131072, "num_hidden_layers": 400}
    (tmp_path / "config.json").write_text(json.dumps({**huge, "num_attention_heads": 128}))
    for command in (["why", tmp_path, "bf16..int8"], ["measure", tmp_path]):
        ran = ridge(*command, *ON)
        assert "needs" in ran.complaint and "TiB" in ran.complaint and "are free" in ran.complaint
        assert (ran.code, ran.out) == (2, "")


@pytest.mark.skipif(CUDA, reason="a CUDA device is here")
def test_cuda_without_a_cuda_device_is_refused(ridge):
    for command in (["measure", MODEL], ["why", MODEL, "bf16..int8"], ["calibrate"]):
        ran = ridge(*command, "--device", "cuda")
        assert "cuda" in ran.complaint.lower()
        assert (ran.code, ran.out) == (2, "")


def test_the_installed_command_refuses_without_a_traceback():
    command = Path(sys.executable).with_name("ridge")
    ran = subprocess.run(
        [command, "predict", "smolm2-135m", *ON], capture_output=True, text=True, timeout=60, check=False
    )
    assert (ran.returncode, ran.stdout) == (2, "")
    assert Ran(2, "", ran.stderr).complaint.startswith("ridge: no model named 'smolm2-135m'; did you mean smollm2-135m")


def test_help_is_no_error(ridge):
    ran = ridge("--help")
    assert ran.code == 0
    for command in ("why", "predict", "measure", "compare", "calibrate", "score", "report", "export", "import"):
        assert command in ran.out
    assert ridge("why", "--help").code == 0


# Results


def test_predict_prints_a_row_per_operator_and_totals(ridge):
    ran = ridge("predict", MODEL, *ON, "--with", "int8", "--batch", "4")
    assert (ran.code, ran.err) == (0, "")
    for word in ("q_proj", "down_proj", "lm_head", "attention", "latency", "tokens/s", "memory", "energy", "MFU"):
        assert word in ran.out
    assert "torch._weight_int8pack_mm" in ran.out


def test_predict_as_json_adds_up(ridge):
    ran = ridge("predict", MODEL, *ON, "--json")
    assert (ran.code, ran.err) == (0, "")
    result = json.loads(ran.out)
    assert result["kind"] == "predicted"
    latency = result["metrics"]["latency_s"]
    assert latency["low"] < latency["value"] < latency["high"]
    assert latency["value"] == pytest.approx(sum(op["time_s"] for op in result["ops"]))
    assert result["metrics"]["energy_j"] is None and "power" in result["absent"]["energy_j"]
    assert {op["kernel"] for op in result["ops"] if op["kind"] == "linear"} == {"F.linear:bf16"}


def test_predict_takes_mixed_and_training_steps(ridge):
    ran = ridge("predict", MODEL, *ON, "--phase", "mixed", "--new", "64,1,1", "--cached", "0,90,90", "--json")
    assert json.loads(ran.out)["step"] == "mixed 2x(new 1, cached 90) + 1x(new 64, cached 0)"
    forward, train = (
        json.loads(ridge("predict", MODEL, *ON, "--phase", phase, "--isl", "32", "--json").out)["metrics"]
        for phase in ("forward", "train")
    )
    assert train["latency_s"]["value"] > 2 * forward["latency_s"]["value"]


def test_compare_measures_every_operator_of_the_prediction(ridge, isolated_home):
    ran = ridge("compare", MODEL, *QUICK, "--json")
    assert ran.code == 0, ran.err
    result = json.loads(ran.out)
    predicted, measured = result["predicted"], result["measured"]
    assert [op["name"] for op in measured["ops"]] == [op["name"] for op in predicted["ops"]]
    assert all(op["time_s"] > 0 for op in measured["ops"])
    assert measured["kind"] == "measured"
    assert measured["flags"] == ["random weights"]
    assert measured["metrics"]["memory_bytes"]["value"] > 1e6
    with Store(isolated_home / "ridge.db") as store:
        (record,) = store.records(kind="measurement")
    assert record.body["result"]["metrics"] == measured["metrics"]


@pytest.mark.slow
def test_measure_and_compare_print_tables(ridge):
    measured = ridge("measure", MODEL, *QUICK)
    assert measured.code == 0, measured.err
    assert "measured" in measured.out and "q_proj" in measured.out and "random weights" in measured.out
    compared = ridge("compare", MODEL, *QUICK)
    assert compared.code == 0, compared.err
    assert "q_proj" in compared.out and "%" in compared.out


# why


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
    assert (ran.code, ran.complaint) == (130, "ridge: interrupted; what was measured is kept")


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
    assert "fp32..int8" in shown.out and "roofline" in shown.out
    for by, group in (("phase", "decode"), ("model", at_home["bet"]["model"]), ("batch", "batch     2")):
        assert group in {row["group"] for row in json.loads(ridge("score", "--by", by, "--json").out)}


def test_an_empty_score_says_how_to_begin(ridge):
    ran = ridge("score")
    assert ran.code == 0 and "ridge why MODEL A..B" in ran.out
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
