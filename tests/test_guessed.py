"""Operators that no calibration knows: guessed, listed, and with an interval that says so; makers that cannot be called."""

from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from ridgepoint.choice import resolve
from ridgepoint.errors import BadInput
from ridgepoint.hardware import decode_target
from ridgepoint.hardware.law_contraction import ContractionLaw
from ridgepoint.measurement.trace.load import Built, build_module
from ridgepoint.measurement.trace.trace import trace_built
from ridgepoint.prediction import step_time
from ridgepoint.prediction.convolution import form_shares
from ridgepoint.prediction.optime import op_time
from ridgepoint.study.measure import set_side, step_named
from ridgepoint.workload import Conv, Matmul, Pointwise, Traced, forward

FILE = Path(__file__).parent / "data" / "test-target.calibrated.toml"
PLAIN = decode_target("t", FILE.read_bytes())
PRODUCT = ContractionLaw(
    kind="matmul", form="", dtype="fp32", threads=1, terms=(2e-6, 1e-6, 1e-10, 1e-11), far_element_s=0.0, sigma=0.05,
    source=next(iter(PLAIN.sources)),
)  # fmt: skip
TARGET = msgspec.structs.replace(PLAIN, contraction=(PRODUCT,))


class Last(nn.Module):
    """A recurrent layer and what follows its last step."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer, self.head = layer, nn.Linear(24, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layer(x)[0][:, -1])


def traced(module: nn.Module, *shape: int) -> Traced:
    return trace_built("t:t", Built(module.eval(), (torch.randn(*shape),), {}, shape[0]), ("fp32",))


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
def test_a_recurrent_layer_is_listed_and_its_interval_is_wide(kind: type[nn.Module]) -> None:
    found = traced(Last(kind(16, 24, batch_first=True)), 2, 12, 16)
    assert any("so the interval is wide" in note for note in found.not_modelled)
    ops = found.forward_ops(forward(4, 1), "fp32")
    guessed = [op for op in ops if op.kind == "pass" or (isinstance(op, Matmul) and op.guessed)]
    assert guessed
    assert sum(float(op.count * op.flops) for op in ops) >= 2 * 4 * 12 * 24 * 24, "a product for each step at least"


def test_a_linear_layer_on_a_turned_input_is_no_guess() -> None:
    class Turned(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(10, 6)

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(x.transpose(1, 2))

    found = traced(Turned(), 2, 10, 24)
    (op,) = (op for op in found.forward_ops(forward(8, 1), "fp32") if isinstance(op, Matmul))
    assert (op.shared, op.guessed, found.not_modelled) == (True, False, ())


def test_a_guess_is_priced_as_a_pass_and_widens_the_step() -> None:
    add = Pointwise("a", "other", "add", 100, 640, "fp32")
    guess = Pointwise("a", "other", "pass", 100, 640, "fp32", traffic=3 * 64000.0)
    known, unknown = (op_time(op, TARGET, 0.0, 0.0, 1) for op in (add, guess))
    assert float(known.seconds) == float(unknown.seconds)
    assert float(known.sigma) < 0.5 < 1.0 <= float(unknown.sigma)
    assert unknown.kernel == "a pass over its tensors"
    many = tuple(Pointwise(f"a{i}", "other", "pass", 100, 640, "fp32") for i in range(50))

    class Strange(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            for _ in range(50):
                x = torch.special.bessel_j0(x)
            return x

    plan = resolve("fp32", "fp32").plan(traced(Strange(), 2, 640), forward(1, 1))
    assert sum(op.count for op in plan.ops) == len(many)
    assert float(step_time(plan, TARGET).sigma) >= 0.9, "guesses of one kind err together"


def test_a_product_with_all_weights_has_its_arithmetic() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Bilinear(32, 48, 20)

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(x, x.repeat(1, 2)[:, :48])

    found = traced(Two(), 2, 32)
    (op,) = (op for op in found.forward_ops(forward(8, 1), "fp32") if isinstance(op, Matmul))
    assert op.guessed
    assert float(op.flops) == 2 * 8 * 32 * 48 * 20
    assert float(op_time(op, TARGET, 0.0, 0.0, 1).sigma) >= 1.0


@pytest.mark.parametrize(("channels", "n", "groups", "form"), [
    (64, 64, 8, "grouped"), (72, 144, 9, "grouped"), (40, 72, 8, "grouped odd"), (96, 96, 32, "grouped odd"),
])  # fmt: skip
def test_groups_of_odd_channels_are_a_family_of_their_own(channels: int, n: int, groups: int, form: str) -> None:
    op = Conv("c", 2, channels, n, 9, groups, 400, 400, "bf16")
    assert form_shares(op, 1) == {form: 1.0}


def test_a_single_layer_has_a_row_with_a_name() -> None:
    assert [op.name for op in traced(nn.Linear(7, 5), 2, 7).forward_ops(forward(1, 1), "fp32")] == ["linear"]


def test_a_file_of_a_package_may_import_its_neighbours(tmp_path: Path) -> None:
    sub = tmp_path / "outer_of_test" / "inner"
    sub.mkdir(parents=True)
    for folder in (sub, sub.parent):
        (folder / "__init__.py").touch()
    (sub.parent / "widths.py").write_text("WIDE = 7\n")
    text = "from torch import nn, randn\nfrom ..widths import WIDE\ndef build():\n    return nn.Linear(WIDE, 5), randn(2, WIDE)\n"
    (sub / "model.py").write_text(text)
    assert build_module(str(sub / "model.py"), "build").module.in_features == 7


@pytest.mark.parametrize(("name", "said"), [
    ("wants", r"needs arguments \(n, k\)"), ("ready", "is a module; name a function"), ("absent", "no function 'absent'"),
])  # fmt: skip
def test_what_cannot_be_called_is_refused_in_one_line(tmp_path: Path, name: str, said: str) -> None:
    file = tmp_path / "makers_of_test.py"
    file.write_text("from torch import nn\nready = nn.Linear(3, 3)\ndef wants(n, *, k, m=2): ...\n")
    with pytest.raises(BadInput, match=said) as caught:
        build_module(str(file), name)
    assert "\n" not in str(caught.value)


def test_encoders_read_their_inputs_whole() -> None:
    image = set_side("vit-base-patch16-224", "fp32", step_named("decode", 3, 128), str(FILE))
    assert str(image.plan.step) == "forward 3x(new 197, cached 0)"
    text = set_side("bert-base-uncased", "fp32", step_named("prefill", 2, 77), str(FILE))
    assert str(text.plan.step) == "forward 2x(new 77, cached 0)"
    with pytest.raises(BadInput, match="no phase train"):
        set_side("bert-base-uncased", "fp32", step_named("train", 2, 77), str(FILE))


def test_a_file_without_a_function_is_told_how_modules_are_named() -> None:
    with pytest.raises(BadInput, match=r"FILE\.py:NAME"):
        set_side("model.py", "fp32", step_named("decode", 1, 1), str(FILE))


def test_guesses_of_a_sweep_are_arrays() -> None:
    op = Pointwise("a", "other", "pass", np.array([1.0, 100.0]), 640, "fp32")
    assert np.diff(op_time(op, TARGET, 0.0, 0.0, 1).seconds) > 0
