"""`ridge load` and what is behind it: objectives, prices with their age, tables that fit, refusals in one line."""

import io
import json
from dataclasses import replace
from datetime import date, timedelta

import numpy as np
import pytest
from rich.console import Console

from ridgepoint.errors import BadInput, DoesNotFit, NotSupported
from ridgepoint.hardware import arch_names, data_folder, load_arch, load_target
from ridgepoint.prediction.serving_steps import room_sequences
from ridgepoint.prediction.sheet.energy import idle_watts
from ridgepoint.result import Value
from ridgepoint.study.prices import OLD_DAYS, Price, price_of
from ridgepoint.study.serving import LoadAnswer, LoadRow, OnTarget, loaded_server, parse_slo
from ridgepoint.workload import Parallel, Plan, decode, load_model


def has_servers() -> bool:
    return "hopper" in arch_names() and any(fit.operator == "serving" for fit in load_arch("hopper").fits)


needs_fit = pytest.mark.skipif(
    not has_servers(), reason="needs the classes' fitted parameters (scripts/fit_classes.py)"
)


def test_objectives():
    assert parse_slo("tpot=40ms,ttft=0.5s") == {"tpot": 0.04, "ttft": 0.5}
    assert parse_slo("") == {}


@pytest.mark.parametrize(
    "text", ["tpot", "tpot=40", "tpot=40m", "itl=4ms", "tpot=4ms,tpot=5ms", "tpot=0ms", "tpot=1.2.3ms"]
)
def test_objectives_that_say_nothing_are_refused(text):
    with pytest.raises(BadInput, match="--slo"):
        parse_slo(text)


def write_prices(text: str) -> None:
    data_folder().mkdir(parents=True, exist_ok=True)
    (data_folder() / "prices.toml").write_text(text)


PRICE = '[[price]]\ntarget = "h100-sxm"\nper_hour = {}\ncurrency = "EUR"\ndate = {}\nsource = "a list"\n'


def test_the_newest_price_counts_and_an_old_one_says_its_age():
    assert price_of("h100-sxm") is None
    write_prices(PRICE.format(3.0, "2026-01-01") + PRICE.format(2.0, "2026-03-01"))
    price = price_of("h100-sxm")
    assert price is not None and price.per_hour == 2.0
    assert price_of("l40s") is None
    young, old = (price.date + timedelta(days=OLD_DAYS + more) for more in (0, 1))
    assert "old" not in price.words(young)
    assert f"{OLD_DAYS + 1} days old" in price.words(old)


@pytest.mark.parametrize(
    "text", ["[[price]]\nper_hour = 3", PRICE.format(-1, "2026-01-01"), "nonsense", PRICE.format(1, '"x"')]
)
def test_a_price_file_that_is_wrong_is_refused_with_its_path(text):
    write_prices(text)
    with pytest.raises(BadInput, match=r"prices\.toml"):
        price_of("h100-sxm")


def plan_of(model="llama-3.1-8b", **parallel):
    return Plan(load_model(model), decode(1, 1), "bf16", device="cuda", parallel=Parallel(**parallel))


def test_room_for_sequences_is_what_memory_leaves():
    h100 = load_target("h100-sxm")
    room = room_sequences(plan_of(), h100, np.array([1024.0, 2048.0]))
    assert room[0] > room[1] > 0.4 * room[0]
    kv = 1024 * load_model("llama-3.1-8b").kv_bytes_per_token(2)
    free = 0.9 * h100.memory_bytes - plan_of().weight_bytes
    assert 0.7 * free < room[0] * kv < free
    two = room_sequences(plan_of(tp=2), h100, 1024.0)
    assert two > 2 * room[0]
    assert room_sequences(plan_of(), h100, 1024.0, "fp8") > 1.8 * room[0]


def test_a_model_that_does_not_fit_says_what_to_do():
    with pytest.raises(DoesNotFit, match=r"--tp"):
        room_sequences(plan_of("llama-3.1-70b"), load_target("h100-sxm"), 1024.0)


def answer(**changes) -> LoadAnswer:
    values = {name: Value(x, x / 1.3, x * 1.3, "model") for name, x in
              {"ttft": 0.0868, "tpot": 0.01234, "latency": 3.21, "tokens_per_s": 12345.6}.items()}  # fmt: skip
    row = LoadRow(
        256, 253.4, values, 1543.2, "front end", {"operators": 1.0}, True, Value(123456.0, 1e5, 1.5e5, "model"), 1.234
    )
    price = Price(target="h100-sxm", per_hour=2.5, currency="USD", date=date(2026, 1, 1), source="a list")
    on = OnTarget("h100-sxm", 8, 256, "largest batch", (row, replace(row, users=8, within_slo=False)), row, price, "basis",
                  ("gpu",), ("absent: energy",))  # fmt: skip
    asked = {"isl": "1024", "osl": "256", "with": "bf16", "stack": "vllm", "devices": "8 (tp:8)", "rounds": "10"}
    return LoadAnswer(
        "llama-3.1-70b", asked, {"tpot": 0.04}, "closed-loop.v1", (on,), ("rope_scaling",), date(2026, 5, 1)
    )


@pytest.mark.parametrize("width", [80, 120])
def test_tables_fit_and_cut_no_figure(width):
    from ridgepoint.report.serving_terminal import load_table

    console = Console(width=width, record=True, file=io.StringIO())
    console.print(load_table(answer()))
    text = console.export_text()
    assert max(map(len, text.splitlines())) <= width
    for figure in (
        "86.8 ms",
        "12.3 ms",
        "1.235e+04",
        "front end",
        "120 days old",
        "1.23",
        "123 kJ",
        "yes",
        "no",
        "rope_scaling",
    ):
        assert figure in text, figure


@needs_fit
def test_an_answer_has_what_it_was_asked_for():
    found = loaded_server(
        "llama-3.1-8b", ["h100-sxm", "l40s"], users=[1, 16, 128], isl=1024, osl=128, slo={"tpot": 0.03, "ttft": 1.0}
    )
    fast, slow = found.on
    assert [row.users for row in fast.rows] == [1, 16, 128]
    for on in found.on:
        tpot = [row.values["tpot"].value for row in on.rows]
        rate = [row.values["tokens_per_s"].value for row in on.rows]
        assert tpot == sorted(tpot) and rate == sorted(rate)
        for row in on.rows:
            value = row.values["tpot"]
            assert value.low < value.value < value.high
            assert sum(row.shares.values()) == pytest.approx(1.0)
            assert row.within_slo == (value.value <= 0.03 and row.values["ttft"].value <= 1.0)
    assert fast.best is not None and fast.best.within_slo
    assert slow.best is None or slow.best.users < fast.best.users


@needs_fit
def test_more_devices_serve_faster_and_a_price_shows():
    write_prices(PRICE.format(2.0, "2026-01-01"))
    one = loaded_server("llama-3.1-8b", ["h100-sxm"], users=[32], isl=512, osl=128).on[0].rows[0]
    four = (
        loaded_server("llama-3.1-8b", ["h100-sxm"], users=[32], isl=512, osl=128, parallel=Parallel(tp=4)).on[0].rows[0]
    )
    assert four.values["tpot"].value < one.values["tpot"].value
    assert one.price_per_million_tokens == pytest.approx(2.0 / 3600 / one.values["tokens_per_s"].value * 1e6)
    assert four.tokens_per_s_per_device == pytest.approx(four.values["tokens_per_s"].value / 4)


@needs_fit
def test_power_gives_joules():
    """Watts of every device over tokens/s; the interval has the error of both."""
    known = Value(500.0, 500.0 / 1.2, 500.0 * 1.2, "given")
    asked = {"users": [8], "isl": 512, "osl": 128, "parallel": Parallel(tp=2)}
    row = loaded_server("llama-3.1-8b", ["h100-sxm"], power=lambda plan, target, busy: known, **asked).on[0].rows[0]
    rate, joules = row.values["tokens_per_s"], row.joules_per_million_tokens
    assert joules.value == pytest.approx(2 * 500.0 / rate.value * 1e6)
    both = np.hypot(np.log(1.2), np.log(rate.high / rate.value))
    assert np.log(joules.high / joules.value) == pytest.approx(both) and joules.method == "given"


@needs_fit
def test_energy_of_a_token_falls_as_a_server_fills_and_is_called_a_model():
    """Idle power is shared by more tokens; no more than the devices' power limit is drawn, no less than idle."""
    target = load_target("h100-sxm")
    rows = loaded_server("llama-3.1-8b", ["h100-sxm"], users=[1, 8, 64], isl=512, osl=128).on[0].rows
    joules = [row.joules_per_million_tokens for row in rows]
    assert joules[0].value > joules[1].value > joules[2].value
    for row, energy in zip(rows, joules, strict=True):
        watts = energy.value * row.values["tokens_per_s"].value / 1e6
        assert idle_watts(target) < watts <= target.figure("tdp_w") * 1.05
        assert energy.method.startswith("model") and "never validated on h100-sxm" in energy.method


@needs_fit
def test_a_machine_without_a_power_model_shows_energy_as_absent():
    def unknown(plan, target, busy):
        raise NotSupported("no power")

    on = loaded_server("llama-3.1-8b", ["h100-sxm"], users=[8], isl=512, osl=128, power=unknown).on[0]
    assert on.rows[0].joules_per_million_tokens is None and any("energy" in note for note in on.notes)


@needs_fit
def test_the_command(ridge):
    ran = ridge("load", "llama-3.1-8b", "--on", "h100-sxm", "--users", "1,8", "--slo", "tpot=20ms", "--json")
    assert ran.code == 0
    document = json.loads(ran.out)
    assert document["protocol"].startswith("closed-loop.v1")
    assert [row["users"] for row in document["on"][0]["rows"]] == [1, 8]


def test_what_cannot_be_served_is_refused():
    with pytest.raises(BadInput, match="--users"):
        loaded_server("llama-3.1-8b", ["h100-sxm"], users=[], isl=8, osl=8)
    with pytest.raises(BadInput, match="--osl"):
        loaded_server("llama-3.1-8b", ["h100-sxm"], users=[1], isl=8, osl=1)
    with pytest.raises(NotSupported, match="decoder"):
        loaded_server("bert-base-uncased", ["h100-sxm"], users=[1], isl=8, osl=8)
