"""Broken promises: the cases that ship, what a promise is computed from, the score against an oracle, and refusals."""

import datetime
import math
import re
import shutil
import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from ridgepoint.choice import resolve
from ridgepoint.errors import BadInput, RidgeError, UnknownName
from ridgepoint.hardware import load_target
from ridgepoint.report.promise_words import markdown_table
from ridgepoint.store import Provenance, Store
from ridgepoint.study.promises import case as case_module
from ridgepoint.study.promises.availability import available
from ridgepoint.study.promises.case import Claim, Fit, Why, cases_named, decode_case, packaged_cases, read_cases
from ridgepoint.study.promises.claim import claimed
from ridgepoint.study.promises.outcome import Comparison, Outcome, call_of, last_outcomes, stands
from ridgepoint.study.promises.paper import on_paper, paper_outcome
from ridgepoint.study.promises.scoring import flip_right, score
from ridgepoint.study.promises.settle import run_cases
from ridgepoint.study.why import Effort
from ridgepoint.workload import Parallel, Plan, decode, load_model, prefill

ROOT = Path(__file__).resolve().parent.parent
DATA = ROOT / "tests" / "data"
TINY = str(DATA / "tiny-llama.json")
CASES = read_cases()
TEXT = """
question = "Is it faster?"
promise = "Yes."
kind = "why"
seconds = 5
holds = "Anywhere."
[[thread]]
title = "a title"
repository = "owner/name"
number = 7
date = 2024-01-31
[run]
model = "pocket"
bet = "fp32..int8"
batches = [1, 2]
isl = 16
[claim]
ratio = "bits"
"""


@pytest.fixture
def at_host(isolated_home: Path) -> Path:
    """This machine is calibrated, as far as predictions need it."""
    (isolated_home / "targets").mkdir()
    shutil.copy(DATA / "test-target.calibrated.toml", isolated_home / "targets" / "test-target.calibrated.toml")
    return isolated_home


# The cases that ship


@pytest.mark.parametrize("case", CASES.values(), ids=list(CASES))
def test_a_case_that_ships_runs_or_says_what_it_needs(case, at_host):
    found = available(case)
    if found.status == "needs":
        assert re.match(r"needs (the choice \S|a bet on steps of phase |a calibration: ridge calibrate)", found.words)
    else:
        assert found.status == ("paper" if on_paper(case) else "here")
    assert all(t.date < datetime.date(2026, 1, 1) for t in case.thread)
    assert case.question.endswith("?") and case.promise.endswith(".") and case.holds.endswith(".")
    assert case.seconds <= 40, "a case takes less than 40 s on one slow core"


def test_all_that_run_here_take_less_than_eight_minutes():
    assert sum(case.seconds for case in CASES.values() if not on_paper(case)) < 8 * 60


def test_the_questions_of_the_trackers_are_there():
    cited = {f"{t.repository}#{t.number}" for case in CASES.values() for t in case.thread}
    assert cited >= {
        "huggingface/transformers#24762", "lm-sys/FastChat#1698", "bitsandbytes-foundation/bitsandbytes#347",
        "casper-hansen/AutoAWQ#106", "vllm-project/vllm#2268", "mit-han-lab/llm-awq#79", "microsoft/onnxruntime#6695",
        "pytorch/tutorials#905", "VainF/Torch-Pruning#149", "pytorch/pytorch#111339", "pytorch/pytorch#119611",
        "pytorch/pytorch#93472", "Dao-AILab/flash-attention#607", "huggingface/peft#664", "tloen/alpaca-lora#56",
        "pytorch/pytorch#86270", "InternLM/lmdeploy#525", "vllm-project/vllm#732", "microsoft/CNTK#751",
        "vllm-project/vllm#1877",
    }  # fmt: skip


def test_the_case_in_the_documents_is_a_case():
    text = (ROOT / "docs" / "promises.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"```toml\n(.*?)```", text, re.DOTALL)
    assert decode_case("mine", block.encode()).run.bet == "fp32..int4"


def test_the_wheel_carries_the_cases_to_where_they_are_looked_for(monkeypatch, tmp_path):
    wheel = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
    assert wheel["force-include"] == {"benchmarks/promises": "ridgepoint/data/promises"}
    assert packaged_cases() == ROOT / "benchmarks" / "promises"
    monkeypatch.setattr(case_module, "files", lambda package: tmp_path / package)
    inside = tmp_path / wheel["force-include"]["benchmarks/promises"]
    shutil.copytree(ROOT / "benchmarks" / "promises", inside)
    assert packaged_cases() == inside and read_cases().keys() == CASES.keys()


# Reading


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("seconds = 5", "seconds = 5\ncolour = 1", "unknown field `colour`"),
        ("isl = 16", "islands = 16", "unknown field `islands`"),
        ('kind = "why"', 'kind = "guess"', "Invalid value 'guess'"),
        ("number = 7", "number = 0", "cite a thread"),
        ('"owner/name"', '"owner"', "cite a thread"),
        ("date = 2024-01-31", 'date = "soon"', "date"),
        ("seconds = 5", "seconds = 0", "seconds"),
        ("fp32..int8", "fp32..int8,int4", "several B's"),
        ("fp32..int8", "fp32", "is not a bet"),
        ('ratio = "bits"', 'ratio = "zeros"', "names their share"),
        ('ratio = "bits"', 'ratio = "bits"\nzeros = 0.5', "names their share"),
        ('ratio = "bits"', 'ratio = "hope"', "hope"),
        ("[claim]", '[[known]]\nbatch = 3\nverdict = "slower"\n[claim]', "known of batch 3"),
        ("[claim]", '[[known]]\nbatch = 1\nverdict = "nice"\n[claim]', "nice"),
        ("[claim]", "[flip]\nlow = 4\nhigh = 2\n[claim]", "`low` to `high`"),
        ("batches = [1, 2]", "batches = [2, 1]", "larger than the one before"),
        ("batches = [1, 2]", "batches = []", "larger than the one before"),
        ("[claim]", "[flip]\nlow = 4\nhigh = inf\n[claim]", "positive batches"),
        ("seconds = 5", "seconds = nan", "seconds"),
        ("seconds = 5", 'seconds = 5\nname = "other"', "leave `name` out"),
        ("[run]", "[run", "case mine"),
    ],
)
def test_a_malformed_case_is_refused_with_its_name_and_field(old, new, said):
    assert decode_case("mine", TEXT.encode()).name == "mine"
    with pytest.raises(BadInput) as refused:
        decode_case("mine", TEXT.replace(old, new).encode())
    assert said in str(refused.value) and "mine" in str(refused.value)


@given(st.text(max_size=200), st.sampled_from([line for line in TEXT.splitlines() if "=" in line]))
def test_any_text_is_a_case_or_bad_input(text, line):
    for tried in (text, TEXT.replace(line, text), TEXT.replace(line.partition("= ")[2], text)):
        try:
            decode_case("mine", tried.encode("utf-8", "replace"))
        except BadInput:
            continue


def test_names_and_folders(tmp_path):
    assert [c.name for c in cases_named("will-it-fit,flash-short,will-it-fit", CASES)] == ["will-it-fit", "flash-short"]
    assert cases_named("all", CASES) == list(CASES.values())
    with pytest.raises(UnknownName, match="did you mean flash-short"):
        cases_named("flash-shor", CASES)
    with pytest.raises(BadInput, match="no folder with cases"):
        read_cases([tmp_path])
    (tmp_path / "mine.toml").write_text(TEXT)
    assert read_cases([tmp_path])["mine"].name == "mine"
    shutil.copy(tmp_path / "mine.toml", tmp_path / "will-it-fit.toml")
    with pytest.raises(BadInput, match="will-it-fit already"):
        read_cases([tmp_path])


def test_a_misspelt_model_is_no_missing_feature(at_host):
    case = decode_case("mine", TEXT.replace('"pocket"', '"pokcet"').encode())
    with pytest.raises(UnknownName, match="pocket"):
        available(case)


def test_what_a_case_needs_is_said(isolated_home):
    case = decode_case("mine", TEXT.encode())
    assert available(case).words == "needs a calibration: ridge calibrate"
    strange = TEXT.replace("fp32..int8", "fp32+int8..glue:2+int4")
    assert available(decode_case("mine", strange.encode())).words in (
        "needs the choice glue:2", "needs a calibration: ridge calibrate",
    )  # fmt: skip


# What a promise is made of


def plans(a: str, b: str, model: str = "smollm2-135m", step=None) -> tuple[Plan, Plan]:
    workload = load_model(model)
    return tuple(resolve(side, workload.dtype).plan(workload, step or decode(1, 16)) for side in (a, b))


def ratio_of(ratio: str, a: Plan, b: Plan, zeros: float | None = None) -> float:
    target = load_target(str(DATA / "test-target.calibrated.toml"))
    return claimed(Claim(ratio=ratio, zeros=zeros), a, b, target, target)


def test_bits_are_those_of_what_is_quantised_with_its_scales():
    assert ratio_of("bits", *plans("fp32", "int4")) == pytest.approx(32 / (4 + 8 * 4 / 32))
    n, k = 48, 64
    one = ratio_of("bits", *plans("bf16", "int8", f"linear:{n}x{k}"))
    assert one == pytest.approx(2 * n * k / (n * k + 2 * n))


def test_claims_of_plans_against_counts_by_hand():
    fp32, bf16 = plans("fp32", "bf16")
    assert ratio_of("weight bytes", fp32, bf16) == pytest.approx(2.0)
    assert ratio_of("KV bytes", fp32, bf16) == pytest.approx(2.0)
    assert ratio_of("FLOPs", fp32, bf16) == pytest.approx(1.0)
    assert ratio_of("zeros", fp32, bf16, 0.75) == 4.0
    one, sixteen = plans("batch:1", "batch:16")
    assert ratio_of("FLOPs", one, sixteen) == pytest.approx(1.0), "per token"
    two = Plan(bf16.workload, bf16.step, "bf16", parallel=Parallel(tp=2))
    assert ratio_of("devices", bf16, two) == 2.0
    target = load_target(str(DATA / "test-target.calibrated.toml"))
    peaks = target.flops_per_s("bf16") / target.flops_per_s("fp32")
    assert ratio_of("peak", fp32, bf16) == pytest.approx(peaks)
    layer = plans("fp32", "bf16", "linear:64x64")
    with pytest.raises(BadInput, match="KV bytes"):
        ratio_of("KV bytes", *layer)


def test_attention_bytes_count_the_scores_of_the_kernel_that_keeps_them():
    """SmolLM2: 9 query and 3 key/value heads of 64; 32 tokens, each of which sees itself and those before it."""
    math_, flash = plans("math", "flash", step=prefill(1, 32))
    tokens, heads, kv, dim = 32, 9, 3, 64
    plain = 2 * tokens * (2 * heads * dim + 2 * kv * dim)
    scores = 4 * 2 * heads * tokens * (tokens + 1) / 2
    assert ratio_of("attention bytes", math_, flash) == pytest.approx((plain + scores) / plain)


def test_on_paper_a_model_whose_weights_fit_does_not(at_host):
    case = CASES["will-it-fit"]
    assert isinstance(case, Fit)
    found = paper_outcome(case, {})
    assert found.said["claim"].startswith("fits: ") and found.said["predicted"].startswith("does not fit")
    assert found.stands is True
    shorter = replace(case, run=replace(case.run, context=1024))
    assert paper_outcome(shorter, {}).stands is False, "with a short context it fits"


def test_an_mfu_above_one_is_that_of_another_machine():
    case = CASES["mfu-above-100"]
    a100, h100 = (load_target(name).flops_per_s("bf16") for name in ("a100-sxm", "h100-sxm"))
    found = paper_outcome(case, {})
    assert f"{100 * 1.04 * a100 / h100:.0f} %" in found.said["predicted"] and found.stands is True
    same = replace(case, run=replace(case.run, peak_of="h100-sxm"))
    assert paper_outcome(same, {}).said["predicted"].startswith("impossible") and not paper_outcome(same, {}).stands


# The score


def point(
    batch: int, measured: float | None, predicted: float, claim: float, roofline: float = 1.0, verdict: str = "faster"
):
    return Comparison(
        batch=batch, claim=claim, roofline=roofline, predicted=predicted, predicted_low=predicted * 0.9,
        predicted_high=predicted * 1.1, measured=measured, verdict=verdict,
    )  # fmt: skip


def outcome(*points: Comparison, flips=None, paper: bool = False) -> Outcome:
    return Outcome(
        case="x", kind="why", question="Why?", asked="m a..b", threads=("t",), on_paper=paper, paper_only="", claim="bits",
        points=points, flips=flips or {},
    )  # fmt: skip


def test_the_score_counts_as_an_oracle_counts():
    first = outcome(
        point(1, 2.0, 2.2, 4.0, 1.5), point(16, 0.5, 0.4, 4.0, 0.8), point(64, 1.02, 1.05, 4.0, 0.5),
        flips={"measured": 8.0, "predicted": 5.0, "roofline": 3.0},
    )  # fmt: skip
    second = outcome(point(1, 0.8, 1.1, 1.0, 0.9), point(2, 1.5, 1.2, 4.0, verdict="undecided"))
    absent, paper = outcome(point(1, None, 3.0, 4.0)), outcome(point(1, 0.1, 9.0, 9.0), paper=True)
    rows = {row.by: row for row in score([first, second, absent, paper])}
    ours, claim, roof = rows["predicted"], rows["claim"], rows["roofline"]
    assert {row.points for row in rows.values()} == {5} and ours.undecided == 1
    assert (ours.sign_right, ours.sign_n, ours.flat_right, ours.flat_n) == (2, 3, 1, 1)
    assert (claim.sign_right, claim.flat_right) == (1, 0), "a claim of exactly 1 is on neither side"
    assert roof.sign_right == 3 and roof.flat_right == 0
    assert ours.magnitude == pytest.approx((0.1 + 0.2 + 0.03 / 1.02 + 0.3 / 0.8 + 0.2) / 5)
    assert (ours.flips_right, ours.flips_n) == (1, 1)
    assert (claim.flips_right, claim.flips_n) == (0, 1), "a promise misses every flip"
    assert (roof.flips_right, roof.flips_n) == (0, 1), "beyond a factor of 2"


@given(st.floats(0.05, 20), st.floats(0.05, 20))
def test_a_sign_is_right_if_and_only_if_the_logarithms_agree(measured, predicted):
    (row, *_) = score([outcome(point(1, measured, predicted, 1.0))])
    clear = abs(math.log(measured)) > math.log(1.1)
    assert row.sign_n == int(clear)
    assert row.sign_right == int(clear and (measured > 1) == (predicted > 1) and predicted != 1)


def test_flips_missed_and_invented_are_wrong_and_interrupted_ones_do_not_count():
    assert flip_right(outcome(flips={"measured": 8.0, "predicted": None}), "predicted") is False
    assert flip_right(outcome(flips={"measured": None, "predicted": 4.0}), "predicted") is False
    assert flip_right(outcome(flips={"measured": None, "predicted": None}), "predicted") is None
    assert flip_right(outcome(flips={"measured": 8.0, "predicted": 16.0}), "predicted") is True
    assert flip_right(outcome(flips={"predicted": 16.0}), "predicted") is None
    assert flip_right(replace(outcome(flips={"measured": 8.0}), complete=False), "predicted") is None


def test_what_is_known_is_held_against_what_was_found():
    assert [call_of(x) for x in (1.11, 1.0, 0.89)] == ["faster", "flat", "slower"]
    assert stands("", 2.0, 4.0) is None
    assert stands("short", 3.2, 4.0) and not stands("short", 3.3, 4.0)
    assert stands("slower", 0.5, 4.0) and stands("flat", 1.05, 4.0) and not stands("faster", 1.05, 4.0)


def test_the_table_of_the_readme_keeps_paper_apart():
    measured = outcome(point(1, 2.0, 2.2, 4.0), point(16, 0.5, 0.4, 4.0), flips={"measured": 8.0, "predicted": None})
    text = markdown_table([measured, outcome(point(1, None, 3.0, 5.0), paper=True)], score([measured]))
    first, scored, paper = text.split("\n\n")
    assert "| 4.00x | 1.00x | 2.20x → 0.40x | 2.00x → 0.50x; flips at 8.0 |" in first and "5.00x" not in first
    assert "| Ridgepoint | 2 of 2 |" in scored and "on paper only" in paper and "5.00x" in paper


# Running


class Silent:
    """Remembers what it is told."""

    def __init__(self):
        self.told = []

    def bet(self, bet, record):
        self.told.append("bet")

    def stage(self, text, done, total): ...
    def point(self, point): ...
    def case(self, name, done, total):
        self.told.append(name)

    def outcome(self, outcome): ...


MADE = Provenance({"machine_id": "here", "flags": ["avx2"]}, {}, {})


def test_a_case_that_cannot_be_measured_costs_the_others_nothing(at_host, monkeypatch):
    from ridgepoint.study.promises import settle

    first, second = (decode_case(name, TEXT.encode()) for name in ("one", "two"))
    second = replace(second, run=replace(second.run, isl=32))

    def refused(question, store, *rest):
        assert len(store.records(kind="bet")) == 2, "all bets are placed before anything is measured"
        raise BadInput("no")

    monkeypatch.setattr(settle, "why", refused)
    with Store(at_host / "ridge.db") as store:
        ran = run_cases([first, second, CASES["mfu-above-100"]], store, MADE, Silent(), Effort(), 1e12)
        kept = store.records(kind="promise")
        bets = [r.id for r in store.records(kind="bet")]
        last = last_outcomes(store, MADE)
        elsewhere = last_outcomes(store, Provenance({"machine_id": "there"}, {}, {}))
    assert ran.complete and [o.case for o in ran.outcomes] == ["one", "two", "mfu-above-100"]
    assert [o.flags for o in ran.outcomes[:2]] == [("BadInput: no",)] * 2 and not ran.outcomes[0].measured
    assert [r.study for r in kept] == [*bets, ""]
    assert last.keys() == {"one", "two", "mfu-above-100"} and elsewhere.keys() == {"mfu-above-100"}


def test_ctrl_c_keeps_what_was_measured(at_host, monkeypatch):
    from ridgepoint.study.promises import settle

    def interrupted(*asked):
        raise KeyboardInterrupt

    monkeypatch.setattr(settle, "why", interrupted)
    with Store(at_host / "ridge.db") as store:
        cases = [CASES["mfu-above-100"], decode_case("one", TEXT.encode())]
        ran = run_cases(cases, store, MADE, Silent(), Effort(), 1e12)
        assert [r.body["outcome"]["case"] for r in store.records(kind="promise")] == ["mfu-above-100"]
    assert not ran.complete and [o.case for o in ran.outcomes] == ["mfu-above-100"]


def test_a_case_that_was_cut_short_is_kept_with_its_points_or_not_at_all(at_host, monkeypatch):
    from ridgepoint.study.promises import settle

    case = decode_case("one", TEXT.encode())
    monkeypatch.setattr(settle, "why", lambda *asked: None)
    for points, kept in (((), []), ((point(1, 2.0, 2.2, 4.0),), ["one"])):
        cut = lambda outcome, answer, points=points: replace(outcome, complete=False, points=points)  # noqa: E731
        monkeypatch.setattr(settle, "_settled", cut)
        with Store(at_host / f"{len(points)}.db") as store:
            ran = run_cases([case, CASES["mfu-above-100"]], store, MADE, Silent(), Effort(), 1e12)
            assert [r.body["outcome"]["case"] for r in store.records(kind="promise")] == kept
        assert not ran.complete and [o.case for o in ran.outcomes] == kept, "nothing after it is begun"


def test_known_by_features_of_the_cpu(at_host):
    """What holds on CPUs without bf16 units is not said of those that have them."""
    case = CASES["bf16-not-faster"]
    assert isinstance(case, Why)
    with Store(at_host / "ridge.db") as store:

        def known(*flags: str) -> list[str]:
            from ridgepoint.study.promises.settle import _placed

            made = Provenance({"machine_id": "m", "flags": list(flags)}, {}, {})
            (placed,) = _placed([case], store, made, Silent(), [])
            return [p.known for p in placed.outcome.points]

        assert known("avx2") == ["slower", "slower"] and known("avx2", "avx512", "bf16") == ["", ""]


def test_every_refusal_is_of_our_own_tree():
    assert issubclass(UnknownName, RidgeError) and UnknownName("case", "x", []).what == "case"
