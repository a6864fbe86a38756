"""Tasks: our log-likelihoods against transformers' log-softmax, tasks with known answers, seeds, refusals, words of reports."""

import importlib.util
import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from ridgepoint.errors import BadInput, NotSupported, RidgeError, UnknownName
from ridgepoint.measurement.request import SideRequest, TasksRequest
from ridgepoint.measurement.runnable import build_weights
from ridgepoint.measurement.tasks import check_package, task_items
from ridgepoint.measurement.tokens import tokens_of
from ridgepoint.report.accuracy_words import accuracy_lines
from ridgepoint.report.task_words import task_methods
from ridgepoint.study.tasks import Tasks, _definition, _summary, check_tasks
from ridgepoint.workload import forward, heldout_text, load_model, weights_directory

TASK = str(Path(__file__).parent / "data" / "tasks" / "continuation" / "continuation.yaml")
POCKET = weights_directory("pocket")
here = pytest.mark.skipif(importlib.util.find_spec("lm_eval") is None, reason="pip install 'ridgepoint[tasks]'")


def request(*names: str, sides: tuple[str, ...] = ("fp32",), items: int = 12, **more: Any) -> TasksRequest:
    return TasksRequest(
        decoder=load_model("pocket"), directory=str(POCKET), sides=tuple(SideRequest(spec=s, device="cpu") for s in sides),
        tasks=names, items=items, **more,
    )  # fmt: skip


@pytest.fixture(scope="module")
def ours() -> Any:
    pytest.importorskip("lm_eval", reason="pip install 'ridgepoint[tasks]'")
    from ridgepoint.measurement.task_model import EngineLM

    decoder = load_model("pocket")
    side = SideRequest(spec="fp32", device="cpu")
    model = build_weights(decoder, side.side(), forward(1, 512), {}, str(POCKET)).model
    return EngineLM(model, decoder, "fp32", tokens_of(Path(POCKET), 256), 512)


@pytest.fixture(scope="module")
def theirs() -> Any:
    from transformers import LlamaForCausalLM

    return LlamaForCausalLM.from_pretrained(POCKET, dtype=torch.float32).eval()


def log_p(theirs: Any, ids: list[int]) -> torch.Tensor:
    """[T - 1, V] of the successors of all tokens but the last."""
    with torch.no_grad():
        return theirs(input_ids=torch.tensor([ids])).logits[0, :-1].log_softmax(-1)


def asked(*args: Any) -> list[Any]:
    return [SimpleNamespace(args=a) for a in args]


def test_log_likelihoods_are_those_of_transformers(ours: Any, theirs: Any) -> None:
    """Continuations of unlike length in one batch, one without a context, one whose context exceeds the 512 positions."""
    text = heldout_text("pocket").read_text(errors="ignore")
    pairs = [
        ("def f(x):", "\n    return x"),
        ("import", " os\n"),
        ("", "class A"),
        (text[:700], text[700:730]),
        ("a", "b"),
    ]
    for (context, new), (value, greedy) in zip(pairs, ours.loglikelihood(asked(*pairs)), strict=True):
        ids = list((context or "\n").encode() + new.encode())[-513:]
        log = log_p(theirs, ids)[-len(new) :]
        wanted = torch.tensor(ids[-len(new) :])
        assert value == pytest.approx(float(log.gather(-1, wanted[:, None]).sum()), abs=2e-3)
        assert greedy == bool((log.argmax(-1) == wanted).all())


def test_rolling_predicts_each_token_once(ours: Any, theirs: Any) -> None:
    """1,100 tokens as 512 after a newline, 512 after the one before them, and the last 76 after the 437 before them."""
    text = heldout_text("pocket").read_text(errors="ignore")[:1100]
    ids, total = [10, *text.encode()], 0.0
    for start, first in ((0, 1), (512, 513), (588, 1025)):
        log = log_p(theirs, ids[start : start + 513])
        total += sum(float(log[i - start - 1, ids[i]]) for i in range(first, min(start + 513, len(ids))))
    assert ours.loglikelihood_rolling(asked((text,)))[0] == pytest.approx(total, rel=1e-5)


def test_generation_is_the_most_likely_text_up_to_the_stop(ours: Any, theirs: Any) -> None:
    ids = list(b"import os\nimport ")
    with torch.no_grad():
        for _ in range(40):
            ids.append(int(theirs(input_ids=torch.tensor([ids])).logits[0, -1].argmax()))
    text = bytes(ids[17:]).decode()
    free, stopped = ours.generate_until(
        asked(
            ("import os\nimport ", {"max_gen_toks": 40}), ("import os\nimport ", {"until": ["\n"], "max_gen_toks": 40})
        )
    )
    assert free == text and stopped == text.split("\n")[0] and stopped != free
    with pytest.raises(NotSupported, match="samples"):
        ours.generate_until(asked(("a", {"do_sample": True})))


def known(folder: Path, answer: int) -> str:
    """Items whose first choice the model surely prefers to noise."""
    text = heldout_text("pocket").read_text(errors="ignore")
    items = [
        {"q": text[i : i + 80], "c": [text[i + 80 : i + 110], "\x00\x7fq~" * 7], "a": answer}
        for i in range(0, 3000, 250)
    ]
    (folder / "items.jsonl").write_text("".join(json.dumps(i) + "\n" for i in items))
    (folder / "known.yaml").write_text(
        "task: known\ndataset_path: json\ndataset_kwargs: {data_files: {test: items.jsonl}}\ntest_split: test\n"
        "output_type: multiple_choice\ndoc_to_text: '{{q}}'\ndoc_to_choice: '{{c}}'\ndoc_to_target: a\n"
        "target_delimiter: ''\nmetric_list: [{metric: acc}]\nmetadata: {version: 3}\n"
    )
    return str(folder / "known.yaml")


@here
@pytest.mark.parametrize("answer", [0, 1])
def test_a_task_with_known_answers(tmp_path: Path, answer: int) -> None:
    described, *items, done = task_items(request(known(tmp_path, answer), items=100))
    assert (described["name"], described["version"], described["items"], described["of"]) == ("known", "3", 12, 12)
    assert done["kind"] == "done" and len(items) == 12
    for item in items:
        (side,) = item["sides"]
        assert side["score"] == 1 - answer and (side["margin"] > 50) == (answer == 0)


@here
def test_the_margin_is_a_difference_of_log_likelihoods(ours: Any) -> None:
    _, first, *_ = task_items(request(TASK, items=8))
    item = json.loads((Path(TASK).parent / "items.jsonl").read_text().splitlines()[first["doc"]])
    values = [v for v, _ in ours.loglikelihood(asked(*((item["context"], c) for c in item["choices"])))]
    right = values.pop(item["answer"])
    assert first["sides"][0]["margin"] == pytest.approx(right - max(values), abs=1e-3)
    assert first["sides"][0]["score"] == float(right > max(values))


@here
@pytest.mark.slow
def test_the_same_seed_gives_the_same_numbers_and_items_are_the_same_for_every_side() -> None:
    once = list(task_items(request(TASK, sides=("bf16", "int4"))))
    assert once == list(task_items(request(TASK, sides=("bf16", "int4"))))
    other = list(task_items(request(TASK, seed=1)))
    assert [m["doc"] for m in once[1:-1]] != [m["doc"] for m in other[1:-1]]
    assert len(once) == 14 and all(len(m["sides"]) == 2 for m in once[1:-1])
    assert any(m["sides"][0]["margin"] != m["sides"][1]["margin"] for m in once[1:-1])
    alone = list(task_items(request(TASK, sides=("int4",))))
    assert [m["sides"][0] for m in alone[1:-1]] == [m["sides"][1] for m in once[1:-1]]


@here
def test_texts_are_scored_by_their_loss_per_byte(tmp_path: Path, ours: Any) -> None:
    texts = [heldout_text("pocket").read_text(errors="ignore")[i : i + 90] for i in range(0, 1000, 100)]
    (tmp_path / "t.jsonl").write_text("".join(json.dumps({"page": t}) + "\n" for t in texts))
    (tmp_path / "t.yaml").write_text(
        "task: pages\ndataset_path: json\ndataset_kwargs: {data_files: {test: t.jsonl}}\ntest_split: test\n"
        "output_type: loglikelihood_rolling\ndoc_to_text: ''\ndoc_to_target: '{{page}}'\nmetric_list: [{metric: bits_per_byte}]\n"
    )
    described, *items, _ = task_items(request(str(tmp_path / "t.yaml"), items=100))
    assert (described["metric"], described["higher_is_better"]) == ("nats_per_byte", False)
    wanted = [
        -v / len(t.encode())
        for t, v in zip(texts, ours.loglikelihood_rolling(asked(*((t,) for t in texts))), strict=True)
    ]
    assert [m["sides"][0]["score"] for m in items] == pytest.approx(wanted, rel=1e-4)


@here
@pytest.mark.parametrize(
    "change,error,said",
    [
        ("metric_list: [{metric: rouge}]", UnknownName, "no metric of lm-eval named 'rouge'"),
        ("test_split: nowhere", BadInput, "lm-eval cannot load it"),
        ("dataset_path: owner/not-there", RidgeError, "--tasks"),
    ],
)
def test_tasks_that_cannot_be_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str, error: type, said: str
) -> None:
    path = Path(known(tmp_path, 0))
    key = change.partition(":")[0]
    path.write_text("\n".join(x for x in path.read_text().splitlines() if not x.startswith(key)) + f"\n{change}\n")
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    with pytest.raises(error, match=said) as found:
        list(task_items(request(str(path), sides=())))
    assert "\n" not in str(found.value)


@here
def test_templates_cannot_leave_the_sandbox(tmp_path: Path) -> None:
    ran = tmp_path / "ran"
    path = Path(known(tmp_path, 0))
    escape = f"{{{{ cycler.__init__.__globals__.os.system('touch {ran}') }}}}"
    path.write_text(path.read_text().replace("'{{q}}'", json.dumps(escape)))
    with pytest.raises(RidgeError):
        list(task_items(request(str(path))))
    assert not ran.exists()


def test_without_the_package_one_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(NotSupported, match=r"pip install 'ridgepoint\[tasks\]'"):
        check_package()


def test_random_weights_have_no_accuracy_on_tasks() -> None:
    question: Any = SimpleNamespace(
        workload=load_model("smollm2-135m"), directory="", device="cpu", model="smollm2-135m", phase="decode"
    )
    with pytest.raises(BadInput, match="random weights"):
        check_tasks(question, Tasks((TASK,)))
    check_tasks(question, Tasks())


@pytest.mark.parametrize("extra", [["--predict-only"], ["--on", "h100-sxm"]])
def test_paper_has_no_tasks(ridge: Any, extra: list[str]) -> None:
    assert "--tasks out" in ridge("why", "pocket", "bf16..int4", "--tasks", TASK, *extra).complaint


def blocks() -> Iterator[dict[str, Any]]:
    described = {
        "name": "arc", "version": "1", "metric": "acc", "num_fewshot": 0, "leaves": 1, "lm_eval": "0.4.13", "sha256": "",
        "first_token": "newline", "positions": 512, "higher_is_better": True, "of": 300,
    }  # fmt: skip
    items = [
        {"sides": [{"score": 1.0, "margin": 2.0}, {"score": float(i % 10 > 0), "margin": 1.5}]} for i in range(200)
    ]
    found = _summary(items, ["bf16", "int4"], described, 0.01)
    yield {"task": "arc", "measured": True, "seed": 0, **found}
    yield {"task": "gone", "measured": False, "reason": "no data"}
    assert _definition(described) == found["definition"]


def test_words_say_the_verdict_the_interval_and_the_flips() -> None:
    words, gone = accuracy_lines({"measured": False, "reason": "no text", "tasks": list(blocks())})
    assert words.startswith("int4 on task.arc.v1: a loss; acc 1.000 to 0.900, lost +0.1000 (95 %: +0.0")
    assert "right only before 20, right only after 0, McNemar's p 1.9e-06; margin -0.500 nats" in words
    assert gone == "gone: no data"
    (method,) = task_methods({"tasks": list(blocks())})
    assert "200 of 300 items of arc, seed 0" in method and "task.arc.v1: acc, 0 shots, lm-eval 0.4.13" in method


@here
@pytest.mark.slow
def test_why_measures_tasks_beside_the_text_and_stores_the_items(ridge: Any) -> None:
    from ridgepoint.store import Store, default_path

    target = str(Path(__file__).parent / "data" / "test-target.calibrated.toml")
    quick = ("--on", target, "--batch", "1", "--seconds", "0.5", "--windows", "8", "--json")
    ran = ridge("why", "pocket", "bf16..int4", *quick, "--tasks", TASK, "--items", "16")
    assert ran.code == 0, ran.err
    answer = json.loads(ran.out)
    (block,) = answer["accuracy"]["tasks"]
    assert answer["accuracy"]["measured"] and block["items"] == 16 and set(block["sides"]) == {"bf16", "int4"}
    with Store(default_path()) as store:
        record = store.get(block["record"])
    assert len(record.body["items"]) == 16 and record.body["definition"] == block["definition"]
