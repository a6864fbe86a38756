"""Accuracy: the interval and verdict of paired losses against hand and library figures, windows, and losses of known models."""

import json
import math
import statistics
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from ridgepoint.errors import BadInput, RidgeError
from ridgepoint.measurement.accuracy import window_losses
from ridgepoint.measurement.request import AccuracyRequest, SideRequest, TextRequest
from ridgepoint.measurement.text import PROTOCOLS, check_text, windows_of
from ridgepoint.study.accuracy import Text, check_accuracy, paired_difference, student95
from ridgepoint.workload import load_model, weights_directory
from ridgepoint.workload.families import from_config

CONFIG = {
    "model_type": "llama", "vocab_size": 256, "hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 2,
    "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 64, "max_position_embeddings": 256,
    "tie_word_embeddings": True, "torch_dtype": "bfloat16",
}  # fmt: skip


@pytest.mark.parametrize("freedom", [7, 9, 15, 29, 99, 199])
def test_quantiles_are_student_s(freedom: int) -> None:
    """The share of Student's density that lies below, integrated numerically from its definition."""
    t = np.linspace(0.0, student95(freedom), 200_001)
    scale = math.exp(math.lgamma((freedom + 1) / 2) - math.lgamma(freedom / 2)) / math.sqrt(freedom * math.pi)
    below = 0.5 + float(np.trapezoid(scale * (1 + t**2 / freedom) ** (-(freedom + 1) / 2), t))
    assert below == pytest.approx(0.975, abs=2e-4)


def test_interval_by_hand() -> None:
    before = [1.0] * 10
    after = [1.02, 1.03, 1.01, 1.02, 1.04, 1.00, 1.02, 1.03, 1.01, 1.02]
    found = paired_difference(before, after, 0.05)
    half = 2.26 * statistics.stdev(after) / math.sqrt(10)
    assert found.mean == pytest.approx(0.02)
    assert (found.low, found.high) == pytest.approx((0.02 - half, 0.02 + half), rel=0.01)
    assert (found.verdict, found.more) == ("small loss", 0)
    assert paired_difference(before, [x - 0.02 for x in after], 0.05).verdict == "harmless"
    assert paired_difference(before, after, 0.005).verdict == "loss"


def test_undecided_says_how_many_more_windows() -> None:
    rng = np.random.default_rng(0)
    before = rng.normal(1.0, 0.3, 40)
    noise = rng.normal(0.0, 0.1, 400)
    after = before + 0.005 + noise[:40]
    found = paired_difference(before, after, 0.03)
    assert found.verdict == "undecided" and found.more > 0
    n = 40 + found.more
    longer = np.resize(before, n)
    again = paired_difference(longer, longer + found.mean + np.resize((noise[:40] - noise[:40].mean()), n), 0.03)
    assert again.verdict != "undecided"  # the number that it named was enough


@pytest.mark.parametrize("seed", range(5))
def test_the_interval_covers_the_truth_in_95_of_100(seed: int) -> None:
    rng = np.random.default_rng(seed)
    inside = 0
    for _ in range(400):
        before = rng.normal(1.0, 0.5, 12)
        found = paired_difference(before, before + rng.normal(0.02, 0.04, 12), 0.01)
        inside += found.low <= 0.02 <= found.high
    assert 0.92 <= inside / 400 <= 0.98


def test_too_few_windows_are_refused() -> None:
    with pytest.raises(BadInput, match="at least 8"):
        paired_difference([1.0] * 3, [1.0] * 3, 0.01)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny checkpoint with random weights and a text."""
    from safetensors.torch import save_file

    path = tmp_path_factory.mktemp("model")
    torch.manual_seed(0)
    tensors = {"model.embed_tokens.weight": torch.randn(256, 128) * 0.3, "model.norm.weight": torch.ones(128)}
    matrices = {
        "self_attn.q_proj": (128, 128), "self_attn.k_proj": (64, 128), "self_attn.v_proj": (64, 128),
        "self_attn.o_proj": (128, 128), "mlp.gate_proj": (256, 128), "mlp.up_proj": (256, 128), "mlp.down_proj": (128, 256),
    }  # fmt: skip
    for i in range(2):
        at = f"model.layers.{i}."
        tensors |= {f"{at}{name}.weight": torch.randn(*shape) * 0.1 for name, shape in matrices.items()}
        tensors |= {f"{at}{name}.weight": torch.ones(128) for name in ("input_layernorm", "post_attention_layernorm")}
    save_file({k: v.bfloat16() for k, v in tensors.items()}, path / "model.safetensors")
    (path / "config.json").write_text(json.dumps(CONFIG))
    (path / "text.txt").write_bytes(bytes(np.random.default_rng(1).integers(32, 127, 256 * 14 + 100).tolist()))
    return path


def request(folder: Path, *sides: str, **text: object) -> AccuracyRequest:
    fields = {"path": str(folder / "text.txt"), "protocol": "windows", "windows": 10, "seed": 0, **text}
    return AccuracyRequest(
        decoder=from_config("tiny", CONFIG), directory=str(folder), text=TextRequest(**fields),
        sides=tuple(SideRequest(spec=f"{s}+threads:1", device="cpu") for s in sides),
    )  # fmt: skip


def cut(asked: AccuracyRequest) -> list[list[int]]:
    """The windows that are asked for."""
    return windows_of(asked.decoder, asked.directory, asked.text)


def test_losses_equal_those_of_transformers(folder: Path) -> None:
    transformers = pytest.importorskip("transformers")
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    asked = request(folder, "fp32")
    rows = [m["sides"][0] for m in window_losses(asked) if m["kind"] == "window"]
    for row, window in zip(rows, cut(asked), strict=True):
        ids = torch.tensor([window])
        with torch.no_grad():
            loss = float(model(ids, labels=ids).loss)
        assert row["loss"] == pytest.approx(loss, rel=1e-4)
        assert row["kl"] == pytest.approx(0, abs=1e-6) and row["top1"] == 1.0


def test_a_coarser_format_is_further_from_the_reference(folder: Path) -> None:
    rows = [
        m["sides"]
        for m in window_losses(request(folder, "fp32", "bf16+int8", "bf16+int4:g32"))
        if m["kind"] == "window"
    ]
    kl = [float(np.mean([row[i]["kl"] for row in rows])) for i in range(3)]
    top1 = [float(np.mean([row[i]["top1"] for row in rows])) for i in range(3)]
    assert 0 <= kl[0] < kl[1] < kl[2]
    assert top1[0] == 1.0 > top1[1] > top1[2]


def test_the_same_seed_gives_the_same_number(folder: Path) -> None:
    def losses(seed: int) -> list[float]:
        return [
            m["sides"][0]["loss"]
            for m in window_losses(request(folder, "bf16+int8", seed=seed))
            if m["kind"] == "window"
        ]

    assert losses(3) == losses(3)
    assert losses(3) != losses(4)


def test_windows_are_whole_distinct_and_in_order(folder: Path) -> None:
    data = (folder / "text.txt").read_bytes()
    found = cut(request(folder, "fp32", windows=99))
    assert [w for window in found for w in window] == list(data[: 14 * 256])
    assert len(cut(request(folder, "fp32", windows=5))) == 5


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"protocol": "gptq"}, "takes 256 positions"), ({"protocol": "none"}, "no protocol named"),
        ({"path": "/nowhere/text"}, "cannot be read"), ({"path": "/dev/null"}, "0 tokens"),
    ],
)  # fmt: skip
def test_what_cannot_be_measured_is_said(folder: Path, change: dict[str, str], said: str) -> None:
    with pytest.raises(RidgeError, match=said):
        cut(request(folder, "fp32", **change))


def test_another_vocabulary_needs_a_tokenizer(folder: Path) -> None:
    asked = request(folder, "fp32")
    other = AccuracyRequest(
        decoder=from_config("x", {**CONFIG, "vocab_size": 300}),
        directory=asked.directory,
        sides=asked.sides,
        text=asked.text,
    )
    with pytest.raises(BadInput, match=r"tokenizer\.json"):
        cut(other)


@pytest.mark.parametrize(("model", "text", "said"), [
    ("pocket", {"protocol": "gptq"}, "takes 512 positions"), ("pocket", {"path": "short.txt"}, "6 tokens"),
    ("pocket", {"path": "binary.txt"}, "not UTF-8"), ("pocket", {"path": "few.txt"}, "3 windows of text are too few"),
    ("smollm2-135m", {"path": "few.txt"}, "random weights"),
])  # fmt: skip
def test_an_accuracy_that_was_asked_for_is_refused_before_anything_runs(
    tmp_path: Path, model: str, text: dict[str, str], said: str
) -> None:
    (tmp_path / "short.txt").write_text("short\n")
    (tmp_path / "binary.txt").write_bytes(b"\xff\xfe" * 4000)
    (tmp_path / "few.txt").write_text("ab" * 400)
    path = str(tmp_path / text["path"]) if "path" in text else ""
    workload = load_model(model)
    question = SimpleNamespace(
        model=model,
        workload=workload,
        directory=str(weights_directory(model) or ""),
        device="cpu",
        calibration="",
        phase="decode",
    )
    with pytest.raises(RidgeError, match=said):
        check_accuracy(question, Text(**{**text, "path": path}))
    check_accuracy(question, Text())


def test_a_text_is_checked_before_anything_runs(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="no such file"):
        check_text(tmp_path / "none.txt", "windows")
    with pytest.raises(RidgeError, match="gptq"):
        check_text(None, "gptqq")
    assert all("v1" in p.definition for p in PROTOCOLS.values())
