"""A loaded server in closed form: laws that hold for every load, and figures that can be worked out by hand."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ridgepoint.errors import BadInput
from ridgepoint.prediction.serving import Engine, Load, Protocol, Steps, closed_loop
from ridgepoint.prediction.serving_engine import DEFAULTS, engine_of, stack_defaults
from ridgepoint.prediction.serving_open import Requests, open_loop
from ridgepoint.prediction.serving_parameters import ServingParameters

FOR_LONG = Protocol(rounds=np.inf)


def steps(token_s=1e-5, context_s=2e-9, fixed_s=5e-3, prompt_s=2e-5, layers=32, stages=1):
    """A machine whose decode step grows with sequences and context, and whose prompts take so long per token."""
    return Steps(
        lambda n, context: fixed_s + token_s * n + context_s * n * context,
        lambda n, context, new, cached: prompt_s * new + 0.0 * (n + context + cached),
        layers,
        stages,
    )


def parameters(**changes):
    base = {"step_s": 1e-4, "layer_s": 1e-7, "sequence_s": 1e-6, "prompt_layer_s": 1e-5, "token_s": 1e-6,
            "prompt_token_s": 1e-8, "request_s": 1e-3, "late_share": 0.5}  # fmt: skip
    return ServingParameters(**{**base, **changes})


def served(users, isl=1024, osl=256, slots=256.0, p=None, protocol=FOR_LONG, of=None, **engine):
    return closed_loop(of or steps(), Load(users, isl, osl), Engine(slots, **engine), p or parameters(), protocol)


def test_one_user_is_a_prompt_and_decode_steps():
    x = served(1)
    step = 5e-3 + 1e-5 + 2e-9 * (1024 + 257 / 2) + 1e-4 + 32e-7 + 1e-6
    assert x.tpot_s == pytest.approx(step, rel=1e-9)
    prompt = 2e-5 * 1024
    assert x.ttft_s == pytest.approx(1e-3 + 1024e-8 + 1.5 * step + prompt, rel=0.01)
    assert x.running == 1.0


def test_prompts_of_others_stall_an_answer():
    quiet, loaded = served(16, of=steps(prompt_s=1e-12)), served(16)
    stall = (loaded.running - 1) * 2e-5 * 1024 / 255
    assert loaded.tpot_s - stall == pytest.approx(quiet.tpot_s, rel=0.02)
    assert loaded.tpot_s > 1.15 * quiet.tpot_s


def test_a_prompt_waits_for_a_slot_where_there_are_fewer_than_users():
    x = served(16, slots=8.0)
    assert x.running == pytest.approx(8.0, rel=0.1)
    assert x.slot_wait_s > 0.8 * 255 * x.tpot_s
    assert served(16, slots=16.0).slot_wait_s < 0.02 * x.slot_wait_s
    one_held = served(16, slots=15.0)
    assert 0.5 < one_held.slot_wait_s / (255 * one_held.tpot_s / 15) < 1.5


def test_steps_with_prompts_take_at_least_their_launches():
    slow_host = served(8, isl=16, p=parameters(prompt_layer_s=1e-3))
    assert slow_host.prompt_s == pytest.approx(32e-3 - slow_host.step_s, rel=1e-6)
    of_a_long_prompt = served(8, isl=4096, p=parameters(prompt_layer_s=1e-3))
    assert of_a_long_prompt.prompt_s == pytest.approx(2e-5 * 4096, rel=1e-6)


def test_a_busy_front_end_sets_the_pace():
    x = served(128, p=parameters(token_s=4e-4))
    assert x.front_end == 1.0
    assert x.tokens_per_s == pytest.approx(1 / 4e-4, rel=0.02)
    assert served(128).front_end < 0.5


def test_prompts_that_go_first_delay_tokens_as_much_and_wait_less():
    mixed, first = served(32), served(32, scheduler="prefill-first")
    assert first.ttft_s < mixed.ttft_s
    assert first.tpot_s == pytest.approx(mixed.tpot_s, rel=0.05)


def test_a_long_prompt_goes_through_several_steps():
    whole, chunked = served(1, isl=8192, chunk=8192.0), served(1, isl=8192, chunk=1024.0)
    assert chunked.ttft_s - whole.ttft_s == pytest.approx(7 * whole.step_s, rel=0.2)


def test_the_first_round_queues_behind_itself():
    once, long = served(64, protocol=Protocol(rounds=1.0)), served(64)
    assert once.burst_s == pytest.approx(1e-3 + 1024e-8 + (64 + 8) / 2 * 2e-5 * 1024, rel=0.05)
    assert once.ttft_s == pytest.approx(once.burst_s)
    ten = served(64, protocol=Protocol(rounds=10.0))
    assert ten.ttft_s == pytest.approx(0.9 * long.ttft_s + 0.1 * once.burst_s, rel=1e-6)


def test_a_pipeline_gives_each_stage_a_part_of_the_batch():
    assert served(64, of=steps(stages=4)).step_s < served(64, of=steps()).step_s


LOADS = st.tuples(st.integers(1, 512), st.integers(1, 16384), st.integers(2, 2048))


ANSWERS = st.tuples(st.integers(1, 512), st.integers(1, 16384), st.integers(16, 2048))


@given(ANSWERS, st.integers(1, 300), st.sampled_from(["mixed", "prefill-first"]), st.floats(1e-6, 3e-4))
def test_tpot_does_not_fall_with_users_or_prompts(load, slots, scheduler, token_s):
    """With prompts to within 1.5 %: longer ones keep a user out of the running batch for longer."""
    users, isl, osl = load
    p = parameters(token_s=token_s)
    here = served(users, isl, osl, float(slots), p, scheduler=scheduler).tpot_s
    assert served(2 * users, isl, osl, float(slots), p, scheduler=scheduler).tpot_s >= here * (1 - 1e-3)
    idle = served(users, isl, osl, float(slots), scheduler=scheduler).tpot_s
    assert served(users, 2 * isl, osl, float(slots), scheduler=scheduler).tpot_s >= idle * 0.985


@given(LOADS, st.integers(1, 300))
def test_throughput_is_not_above_what_the_steps_allow(load, slots):
    users, isl, osl = load
    x = served(users, isl, osl, float(slots))
    most = min(users, slots)
    fastest = most / steps().decode_s(float(most), isl + osl / 2)
    assert x.tokens_per_s <= fastest * osl / (osl - 1) * (1 + 1e-9)
    assert x.tokens_per_s * 2e-5 * isl / osl <= 1 + 1e-9, "prompts alone fill the time"
    assert x.running <= most and x.latency_s >= x.ttft_s


@given(st.lists(LOADS, min_size=1, max_size=6), st.sampled_from([7.0, 256.0]))
def test_an_array_gives_what_its_elements_give_bit_for_bit(loads, slots):
    users, isl, osl = (np.array(x, float) for x in zip(*loads, strict=True))
    together = served(users, isl, osl, slots)
    for i, load in enumerate(loads):
        alone = served(*(float(x) for x in load), slots)
        for name in ("ttft_s", "tpot_s", "latency_s", "tokens_per_s", "running", "slot_wait_s"):
            assert getattr(alone, name) == getattr(together, name)[i], name


def test_users_and_lengths_broadcast():
    x = served(np.array([1.0, 8.0, 64.0])[:, None], np.array([128.0, 4096.0])[None, :])
    assert x.tpot_s.shape == (3, 2)
    assert x.tpot_s[2, 1] == served(64.0, 4096.0).tpot_s


@pytest.mark.parametrize("load", [(0, 8, 8), (1, 0, 8), (1, 8, 1), (np.nan, 8, 8)])
def test_loads_that_cannot_be_are_refused(load):
    with pytest.raises(BadInput, match="of a loaded server"):
        Load(*load)


def test_no_slot_is_refused():
    with pytest.raises(BadInput, match="no slot"):
        served(1, slots=0.0)


def test_engines_of_stacks():
    large, small = 80e9, 24e9
    assert engine_of("vllm", "h100-sxm", large, 256, 1e4).chunk == DEFAULTS["vllm"].chunk
    assert engine_of("vllm", "a100-sxm", large, 256, 1e4).chunk == DEFAULTS["vllm"].small_chunk
    assert engine_of("vllm", "rtx-4090", small, 256, 1e4).chunk == DEFAULTS["vllm"].small_chunk
    assert engine_of("sglang", "h100-sxm", large, 256, 1e4).scheduler == "prefill-first"
    assert engine_of("vllm", "h100-sxm", large, 256, 100).slots == 100
    padded = engine_of("trtllm", "h100-sxm", large, np.array([1, 2, 8]), 1e4)
    assert padded.slots.tolist() == [1, 2, 7], "a batch of 1 or 2 is never filled up"
    assert engine_of("trtllm", "h100-sxm", large, 64, 1e4, groups=8).slots == 56
    assert stack_defaults("another") == DEFAULTS["vllm"]


def requests(count, every_s, isl=500.0, osl=200.0):
    return Requests(np.arange(count) * every_s, np.full(count, isl), np.full(count, osl))


def test_requests_that_come_slowly_do_not_queue():
    x = open_loop(steps(), requests(50, 10.0), Engine(16.0), parameters())
    assert not x.saturated
    assert x.running == pytest.approx(1.0, abs=0.2)
    assert x.ttft_s.max() < 0.1


def test_requests_that_come_too_fast_wait_for_those_before():
    x = open_loop(steps(), requests(200, 0.01), Engine(16.0), parameters())
    assert x.saturated
    assert x.running == pytest.approx(16, rel=0.05)
    assert np.all(np.diff(x.ttft_s[20:]) > 0)
    rate = 16 / x.tpot_s[0]
    assert x.ttft_s[-1] == pytest.approx((200 - 16) * 200 / rate - 199 * 0.01, rel=0.05)


def test_long_answers_count_longer_in_what_is_held():
    both = Requests(np.array([0.0, 1.0]), np.array([100.0, 100.0]), np.array([10.0, 1000.0]))
    assert both.held_tokens == pytest.approx((10 * 105 + 1000 * 600) / 1010)
