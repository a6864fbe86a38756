"""What a person at the terminal gets: tables, JSON and exit codes, and one clear line for whatever is wrong."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from ridgepoint.store import Store

DATA = Path(__file__).parent / "data"
MODEL, TARGET = str(DATA / "tiny-llama.json"), str(DATA / "test-target.calibrated.toml")
CONFIG = json.loads((DATA / "tiny-llama.json").read_text())
ON = ("--on", TARGET)
QUICK = (*ON, "--isl", "16", "--seconds", "0.2")
CUDA = shutil.which("nvidia-smi") is not None


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
        (["why", MODEL, "bf16..int8", *ON, "--dtype", "int4"], "no dtype named 'int4'"),
        (["why", MODEL, "bf16..int8", *ON, "--batch", ",".join(["1"] * 3000)], "up to 1000 numbers; got 3000"),
        (["why", MODEL, "bf16..int8", *ON, "--batch", "1,99999999999"], "up to 9 digits"),
        (["calibrate", "--name", "host"], "--name host is taken"),
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
        (["why", MODEL, "bf16..int8", *ON, "--phase", "mixed"], "decode, prefill, forward, train"),
        (["why", MODEL, "full..lora", *ON, "--step", "train"], "`ridge calibrate --train` adds it"),
        (["why", MODEL, "bf16..int8", *ON, "--isl", "0"], "isl 0"),
        (["why", MODEL, "bf16..int8", *ON, "--isl", "0", "--phase", "prefill"], "isl 0"),
        (["why", MODEL, "bf16..int8", *ON, "--isl", "-5"], "isl -5"),
        (["why", MODEL, "bf16..int8", *ON, "--isl", "5000"], "at most 1024 positions"),
        (["why", MODEL, "bf16..fp8", *ON], "fp8 has no kernel on a CPU"),
        (["why", MODEL, "bf16..int8", *ON, "--predict-only", "--assert", "speedup>1"], "measures nothing"),
        (["why", MODEL, "bf16..int8", *ON, "--report", "/proc/none/report.html"], "/proc/none"),
        (["why", MODEL, "bf16..int8", *ON, "--report", str(DATA)], "is not a file that can be written"),
        (["report"], "no settled bet in the store"),
        (["report", "zzzz"], "no bet named 'zzzz'"),
        (["score", "--by", "colour"], "b, side, operator, regime, phase, model or batch"),
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
        ("x = [", "bad.toml: "),
        ("", "missing required field"),
        ('schema = 99\nname = "x"\nkind = "cpu"\ndate = ""', "schema 99"),
        ("\x00", "bad.toml: "),
        ("schema = " + "9" * 6000, "a line of 6009 characters"),
        ("schema = " + "9" * 3900, "bad.toml: "),
        ('schema = 2\nname = "x"\nkind = "tpu"\ndate = ""', "kind"),
        ('schema = 2\nname = "x"\nkind = "cpu"\ndate = ""\n[xcorrection]\nsigma = 0.1', "xcorrection"),
        ('schema = 2\nname = "x"\nkind = "cpu"\ndate = ""', "x has no"),
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
    for command in (["why", tmp_path, "bf16..int8"], ["measure", tmp_path], ["compare", tmp_path]):
        ran = ridge(*command, *ON)
        assert "needs" in ran.complaint and "TiB" in ran.complaint and "are free" in ran.complaint
        assert (ran.code, ran.out) == (2, "")


def test_what_does_not_fit_is_still_predicted_and_the_prediction_says_so(ridge, tmp_path):
    huge = {**CONFIG, "hidden_size": 16384, "intermediate_size": 131072, "num_hidden_layers": 400}
    (tmp_path / "config.json").write_text(json.dumps({**huge, "num_attention_heads": 128}))
    ran = ridge("predict", tmp_path, *ON, "--json")
    found = json.loads(ran.out)
    assert ran.code == 0 and found["metrics"]["latency_s"]["value"] > 1
    assert found["flags"][0].startswith("does not fit: it needs") and "TiB" in found["flags"][0]
    assert "! does not fit" in ridge("predict", tmp_path, *ON).out
    placed = ridge("why", tmp_path, "bf16..int8", "--batch", 1, "--predict-only", *ON)
    assert placed.code == 0 and "Bet:" in placed.out
    assert "on paper only" in placed.complaint and "in all; no batch of the grid fits" in placed.complaint
    assert ridge("why", MODEL, "bf16..int8", "--batch", 1, "--predict-only", *ON).err == ""
    assert not any("does not fit" in flag for flag in json.loads(ridge("predict", MODEL, *ON, "--json").out)["flags"])


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
    (complaint,) = ran.stderr.splitlines()
    assert complaint.startswith("ridge: no model named 'smolm2-135m'; did you mean smollm2-135m")


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
    assert measured["metrics"]["memory_bytes"]["value"] > 1e5
    with Store(isolated_home / "ridge.db") as store:
        (record,) = store.records(kind="measurement")
    assert record.body["result"]["metrics"] == measured["metrics"]
    assert record.body["predicted"]["ops"] == predicted["ops"]
    assert measured["metrics"]["resident_bytes"]["value"] > 0 and predicted["metrics"]["resident_bytes"] is None
    assert predicted["metrics"]["memory_bytes"]["value"] == pytest.approx(
        measured["metrics"]["memory_bytes"]["value"], rel=0.1
    )
    groups = {row["group"]: row for row in json.loads(ridge("score", "--by", "operator", "--json").out)}
    assert groups["all"]["n"] == len(predicted["ops"]) and groups["rms_norm"]["n"] >= 1
    assert "rms_norm" in ridge("score", "--by", "operator").out


@pytest.mark.slow
def test_measure_and_compare_print_tables(ridge):
    measured = ridge("measure", MODEL, *QUICK)
    assert measured.code == 0, measured.err
    assert "measured" in measured.out and "q_proj" in measured.out and "random weights" in measured.out
    compared = ridge("compare", MODEL, *QUICK)
    assert compared.code == 0, compared.err
    assert "q_proj" in compared.out and "%" in compared.out
