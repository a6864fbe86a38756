"""`ridge fit`: the account, its limits and changes, JSON, two widths of terminal, and one line for what cannot be."""

import json
import time

import pytest

GIB = 2**30
TARGET = """
schema = 2
name = "{name}"
kind = "{kind}"
date = "2026-01-01"
{memory}
"""


@pytest.fixture(autouse=True)
def targets(isolated_home):
    """Made-up devices, so that the tests need no catalogue."""
    folder = isolated_home / "targets"
    folder.mkdir()
    for name, kind, gib in (
        ("big", "gpu", 80), ("small", "gpu", 24), ("tiny", "gpu", 4), ("box", "cpu", 64), ("void", "gpu", 0),
    ):  # fmt: skip
        memory = f"memory_bytes = {gib * GIB}.0" if gib else ""
        (folder / f"{name}.toml").write_text(TARGET.format(name=name, kind=kind, memory=memory))


def asked(ridge, *words):
    ran = ridge("fit", *words, "--json")
    assert (ran.code, ran.err) == (0, "")
    return json.loads(ran.out)


def test_the_account_adds_up_and_each_target_has_its_own(ridge):
    answer = asked(ridge, "llama-3.1-8b", "--on", "big,small", "--ctx", 8192, "--users", 16)
    big, small = answer["targets"]
    for on in (big, small):
        assert sum(item["bytes"] for item in on["items"]) == on["total_bytes"]
        assert on["spare_bytes"] == on["usable_bytes"] - on["total_bytes"]
        assert on["usable_bytes"] == pytest.approx(on["memory_bytes"] * 0.92)
    assert (big["fits"], small["fits"], answer["fits"]) == (True, False, False)
    assert sum(i["bytes"] for i in big["items"] if i["group"] == "KV cache") == 16 * 8192 * 131072
    assert big["changes"] == []


def test_limits_are_what_fits_and_changes_do_what_they_say(ridge):
    words = ("llama-3.1-8b", "--on", "small", "--ctx", 8192)
    (on,) = asked(ridge, *words, "--users", 32)["targets"]
    most = on["most"]["users"]
    assert asked(ridge, *words, "--users", most)["fits"]
    assert not asked(ridge, *words, "--users", most + 1)["fits"]
    assert f"--users {most}" in [change["flags"] for change in on["changes"]]
    for change in on["changes"]:
        flags = change["flags"].split()
        base = [*words, "--users", "32"]
        for flag, value in zip(flags[::2], flags[1::2], strict=True):
            if flag in base:
                base[base.index(flag) + 1] = value
            else:
                base += [flag, value]
        again = asked(ridge, *base)
        assert again["fits"] and again["targets"][0]["spare_bytes"] == change["spare_bytes"]


def test_changes_of_training_do_what_they_say(ridge):
    words = ["llama-3.2-1b", "--on", "small", "--train", "full", "--seq", "4096", "--micro-batch", "8"]
    (on,) = asked(ridge, *words)["targets"]
    assert not on["fits"] and on["changes"]
    for change in on["changes"]:
        flags, base = change["flags"].split(), list(words)
        for flag, value in zip(flags[::2], flags[1::2], strict=True):
            if flag in base:
                base[base.index(flag) + 1] = value
            else:
                base += [flag, value]
        again = asked(ridge, *base)["targets"][0]
        assert again["fits"] == change["fits"] and again["spare_bytes"] == change["spare_bytes"]


def test_flags_set_what_is_assumed(ridge):
    words = ("gpt2", "--on", "small", "--tp", 2)
    plain = asked(ridge, *words)
    assert {a["flag"] for a in plain["assumptions"]} == {
        "--chunk", "--reserve", "--context-gib", "--collectives-gib", "--graphs-gib",
    }  # fmt: skip
    assert all(a["source"] for a in plain["assumptions"])
    none = asked(
        ridge, *words, "--reserve", 0, "--context-gib", 0, "--collectives-gib", 0, "--graphs-gib", 0, "--chunk", 512
    )
    (on,) = none["targets"]
    assert on["usable_bytes"] == on["memory_bytes"]
    assert not [item for item in on["items"] if item["group"] == "runtime"]
    assert {a["source"] for a in none["assumptions"]} == {"as given"}


def test_a_cpu_has_no_context_and_no_graphs(ridge):
    answer = asked(ridge, "gpt2", "--on", "box")
    assert not [i for i in answer["targets"][0]["items"] if i["group"] == "runtime"]
    assert {a["flag"] for a in answer["assumptions"]} == {"--chunk", "--reserve"}


def test_without_a_context_it_is_the_models_own(ridge):
    assert asked(ridge, "llama-3.2-1b", "--on", "big")["asked"]["ctx"] == "131072"


@pytest.mark.parametrize("columns", [80, 120])
@pytest.mark.parametrize(
    "words",
    [
        ("llama-3.1-8b", "--on", "big,small", "--ctx", 8192, "--users", 32),
        ("llama-3.1-8b", "--on", "big,small", "--train", "full", "--seq", 4096, "--dp", 8, "--zero", 3),
        ("deepseek-v2-lite", "--on", "tiny", "--pp", 2, "--tp", 2, "--ep", 2),
    ],
)
def test_tables_fit_the_terminal_and_cut_no_figure(ridge, monkeypatch, columns, words):
    monkeypatch.setenv("COLUMNS", str(columns))
    ran = ridge("fit", *words)
    assert ran.code == 0
    assert max(map(len, ran.out.splitlines())) <= columns
    assert "…" not in ran.out
    for needed in ("weights", "to spare", "how far it goes", "--reserve 0.08"):
        assert needed in ran.out


def test_it_answers_within_two_seconds(ridge):
    ridge("fit", "gpt2", "--on", "big")
    start = time.process_time()
    ridge("fit", "llama-3.1-70b", "--on", "big,small,tiny", "--ctx", 131072, "--users", 64)
    assert time.process_time() - start < 2


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (("nope", "--on", "big"), "no model named 'nope'"),
        (("gpt2", "--on", "bigg"), "did you mean big"),
        (("gpt2", "--on", "void"), "void has no memory_bytes"),
        (("gpt2", "--on", "big,big"), "twice"),
        (("gpt2", "--on", ","), "names of targets"),
        (("gpt2", "--on", "big", "--ctx", "1025"), "possible is 1 to 1024, what gpt2 has positions for"),
        (("gpt2", "--on", "big", "--users", "0"), "--users is 0"),
        (("gpt2", "--on", "big", "--chunk", "0"), "--chunk is 0"),
        (("gpt2", "--on", "big", "--with", "int5"), "no choice named 'int5'"),
        (("gpt2", "--on", "big", "--with", "batch:4"), "batch:4 does not belong to"),
        (("gpt2", "--on", "box", "--with", "fp8"), "fp8 has no kernel on a CPU"),
        (("gpt2", "--on", "big", "--kv-dtype", "int3"), "no KV cache dtype named 'int3'"),
        (("gpt2", "--on", "big", "--tp", "5"), "12 attention heads"),
        (("gpt2", "--on", "big", "--reserve", "1"), "--reserve is 1"),
        (("gpt2", "--on", "big", "--reserve", "nan"), "--reserve is nan"),
        (("gpt2", "--on", "big", "--context-gib", "-1"), "--context-gib is -1"),
        (("gpt2", "--on", "big", "--seq", "5"), "--seq is for training"),
        (("gpt2", "--on", "big", "--train", "full", "--users", "5", "--ctx", "7"), "--ctx, --users are for serving"),
        (("gpt2", "--on", "big", "--train", "half"), "--train is full, lora:r=16 or qlora:r=16"),
        (("gpt2", "--on", "big", "--train", "lora:r=0"), "rank of 0"),
        (("gpt2", "--on", "big", "--train", "full", "--with", "int8"), "int8 does not belong to"),
        (("gpt2", "--on", "big", "--train", "full", "--zero", "2"), "give dp 2 or more"),
        (("gpt2", "--on", "big", "--train", "full", "--optimizer", "adam"), "no optimizer named 'adam'"),
        (("gpt2", "--on", "big", "--train", "full", "--recompute", "some"), "no recompute named 'some'"),
        (("gpt2", "--on", "big", "--train", "full", "--seq", "2048"), "possible is 1 to 1024"),
        (("gpt2", "--on", "big", "--train", "full", "--micro-batch", "0"), "--micro-batch is 0"),
        (("bert-base-uncased", "--on", "big"), "no decoder-only language model"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(ridge, words, complaint):
    ran = ridge("fit", *words)
    assert (ran.code, ran.out) == (2, "")
    assert complaint in ran.complaint


def test_the_cache_s_format_is_a_choice_too(ridge):
    """`--with kv:fp8` and `--kv-dtype fp8` are one question; the two may not disagree."""
    plain, chosen = (
        ridge("fit", "llama-3.1-8b", "--on", "h100-sxm", "--ctx", 8192, "--users", 8, *words, "--json")
        for words in (("--kv-dtype", "fp8"), ("--with", "kv:fp8"))
    )
    assert plain.code == chosen.code and json.loads(plain.out) == json.loads(chosen.out)
    refused = ridge("fit", "llama-3.1-8b", "--on", "h100-sxm", "--with", "kv:fp8", "--kv-dtype", "int8")
    assert refused.code == 2 and "say one" in refused.complaint
