"""Tracing any module: FLOPs against torch's own counter, sizes affine in the batch, rows, memory, and refusals."""

import runpy
import textwrap
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from ridgepoint.errors import BadInput, NotSupported
from ridgepoint.measurement.trace.load import Built
from ridgepoint.measurement.trace.trace import trace_built, trace_file
from ridgepoint.workload import Attention, Conv, Linear, Matmul, Traced, forward

BENCHMARK_MODULES = Path(__file__).parents[1] / "benchmarks" / "modules"
NAMES = [
    *(f"cnn:{n}" for n in ("residual", "mobile", "unet", "plain")),
    *(f"sequence:{n}" for n in ("encoder", "decoder", "mixer", "perceptron", "torch_encoder")),
]


def traced(module: nn.Module, *example: Tensor, dtypes: tuple[str, ...] = ("",)) -> Traced:
    return trace_built("test:module", Built(module.eval(), example, {}, len(example[0])), dtypes)


def file_module(name: str, dtypes: tuple[str, ...] = ("",)) -> Traced:
    file, _, function = name.partition(":")
    return trace_file(str(BENCHMARK_MODULES / f"{file}.py"), function, dtypes)


def contraction_flops(workload: Traced, batch: int) -> float:
    """Of all products; torch's counter takes causal attention as full."""
    ops = workload.forward_ops(forward(batch, 1), workload.dtype)
    ops = tuple(replace(op, causal=False) if isinstance(op, Attention) else op for op in ops)
    return float(sum(op.count * op.flops for op in ops if isinstance(op, Linear | Conv | Matmul | Attention)))


def counted_flops(name: str, batch: int) -> int:
    """By torch's counter, on meta tensors: on those of a CPU it takes attention for nothing."""
    file, _, function = name.partition(":")
    with torch.device("meta"):
        module, example = runpy.run_path(str(BENCHMARK_MODULES / f"{file}.py"))[function]()
        x = torch.empty((batch, *example.shape[1:]), dtype=example.dtype)
    torch.backends.mha.set_fastpath_enabled(False)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        module.eval()(x)
    return counter.get_total_flops()


@pytest.mark.parametrize("name", NAMES)
def test_flops_equal_those_of_an_independent_count(name: str) -> None:
    workload = file_module(name)
    for batch in (1, 7):
        assert contraction_flops(workload, batch) == pytest.approx(counted_flops(name, batch), rel=0.01)


def test_causal_attention_counts_the_pairs_it_sees() -> None:
    class Causal(nn.Module):
        def forward(self, q: Tensor) -> Tensor:
            return F.scaled_dot_product_attention(q, q, q, is_causal=True)

    (op,) = (x for x in traced(Causal(), torch.randn(2, 3, 10, 8)).forward_ops(forward(4, 1), "fp32"))
    assert isinstance(op, Attention)
    assert float(op.flops) == 2 * 4 * 3 * 55 * 16  # 10 * 11 / 2 pairs, two products of 8


def test_like_layers_share_a_row_and_others_do_not() -> None:
    module = nn.Sequential(*(nn.Linear(8, 8) for _ in range(3)), nn.Linear(8, 4))
    rows = {c.row: c.count for c in traced(module, torch.randn(2, 8)).calls["fp32"]}
    assert rows == {"0 +2": 3, "3": 1}
    alike = nn.Sequential(*(nn.Linear(8, 8) for _ in range(3)))
    assert {c.row: c.count for c in traced(alike, torch.randn(2, 8)).calls["fp32"]} == {"*": 3}


def test_sizes_are_affine_in_the_batch() -> None:
    class Added(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.token, self.head = nn.Parameter(torch.zeros(1, 6)), nn.Linear(6, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(torch.cat((self.token, x)))  # one row more than the batch

    (op,) = (x for x in traced(Added(), torch.randn(2, 6)).forward_ops(forward(10, 1), "fp32") if isinstance(x, Linear))
    assert op.m == 11


def test_a_size_that_is_not_affine_is_refused_with_its_place() -> None:
    class Pairs(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.relu(x[:, None] * x[None, :])

    with pytest.raises(NotSupported, match="not a multiple"):
        traced(Pairs(), torch.randn(2, 3))


def test_a_batch_that_decides_what_runs_is_refused() -> None:
    class Chunked(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.cat([torch.relu(part) for part in x.split(2)])

    with pytest.raises(NotSupported, match="depend on the batch"):
        traced(Chunked(), torch.randn(2, 3))


def test_each_dtype_is_traced_by_itself() -> None:
    class Upcast(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Linear(8, 8)

        def forward(self, x: Tensor) -> Tensor:
            return self.inner(x).float().softmax(-1)

    workload = traced(Upcast(), torch.randn(2, 8), dtypes=("fp32", "bf16"))
    kinds = {dtype: [(c.kind, c.dtype) for c in calls if c.kind != "view"] for dtype, calls in workload.calls.items()}
    assert kinds["fp32"] == [("linear", "fp32"), ("softmax", "fp32")]
    assert [k for k, _ in kinds["bf16"]] == ["linear", "copy", "softmax"]
    assert dict(kinds["bf16"])["softmax"] == "fp32"


def test_only_the_weight_of_a_linear_layer_may_be_replaced() -> None:
    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.matrix = nn.Linear(8, 8), nn.Parameter(torch.zeros(8, 8))

        def forward(self, x: Tensor) -> Tensor:
            return F.linear(self.layer(x), self.matrix)

    linears = [
        op for op in traced(Both(), torch.randn(2, 8)).forward_ops(forward(1, 1), "fp32") if isinstance(op, Linear)
    ]
    assert [op.fixed for op in linears] == [False, True]


def test_what_is_not_known_is_listed() -> None:
    class Odd(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.special.bessel_j0(x)

    workload = traced(Odd(), torch.randn(2, 5))
    assert workload.not_modelled == (
        "aten.special_bessel_j0: 1 call, guessed as a pass over its tensors, so the interval is wide",
    )


@pytest.mark.parametrize("name", ["cnn:residual", "sequence:decoder", "sequence:torch_encoder"])
def test_memory_of_results_is_what_torch_counts(name: str) -> None:
    """Peak of live results on meta against the profiler's count on real tensors, which adds what kernels hold inside."""
    from ridgepoint.measurement.tensors import activation_bytes
    from ridgepoint.measurement.trace.load import build_module, inputs_for

    workload = file_module(name)
    file, _, function = name.partition(":")
    built = build_module(str(BENCHMARK_MODULES / f"{file}.py"), function)
    args, kwargs = inputs_for(built, 3, None, "cpu")
    torch.backends.mha.set_fastpath_enabled(False)

    @torch.inference_mode()
    def call() -> object:
        return built.module(*args, **kwargs)

    call()
    predicted, counted = float(workload.activation_bytes(forward(3, 1), "fp32")), activation_bytes(call)
    assert 0.6 * counted < predicted < 1.02 * counted
    assert name.startswith("cnn") or predicted > 0.95 * counted  # convolutions hold reordered copies


def written(tmp_path: Path, text: str) -> str:
    path = tmp_path / "mine.py"
    path.write_text("import torch\nfrom torch import nn\n" + textwrap.dedent(text))
    return str(path)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("def build(): return 3", r"returned int; it must return \(module, example\)"),
        ("def build(): return nn.Linear(2, 2)", "without an example"),
        ("def build(): return nn.Linear(2, 2), torch.zeros(())", "first size is the batch"),
        ("def other(): pass", "no function 'build'; it has other"),
        ("def build(): raise ValueError('no such data')", "line 3: ValueError: no such data"),
        ("def build(): return nn.Linear(2, 2), torch.zeros(4, 3)", "RuntimeError"),
        ("x = 1 +", "SyntaxError"),
        ("import sys; sys.exit(3)", "SystemExit: 3"),
    ],
)
def test_a_wrong_file_gets_one_line(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(BadInput, match=said) as error:
        trace_file(written(tmp_path, text), "build", ("",))
    assert "\n" not in str(error.value)


def test_a_module_that_reads_values_is_run_to_be_traced(tmp_path: Path) -> None:
    path = written(
        tmp_path,
        """
        class Gate(nn.Module):
            def forward(self, x):
                return torch.relu(x) if x.sum().item() > 0 else x

        def build(): return Gate(), torch.ones(2, 3)
        """,
    )
    workload = trace_file(path, "build", ("",))
    assert [c.kind for c in workload.calls["fp32"]] == ["reduce", "view", "relu"]
    assert any("traced by running it" in note for note in workload.not_modelled)


def test_a_module_without_a_file_says_so() -> None:
    with pytest.raises(BadInput, match="no such file"):
        trace_file("./nowhere.py", "build", ("",))


@pytest.mark.parametrize("last", [False, True])
def test_the_layout_of_the_example_is_followed(last: bool) -> None:
    order = torch.channels_last if last else torch.contiguous_format
    module = nn.Sequential(nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 8, 3)).to(
        memory_format=order
    )
    convs = [op for op in traced(module, torch.randn(2, 3, 9, 9).to(memory_format=order)).forward_ops(forward(4, 1), "fp32")
             if isinstance(op, Conv)]  # fmt: skip
    assert [op.layout for op in convs] == (["last", "last"] if last else ["", ""])


def test_a_turned_input_is_a_product_for_each_of_the_batch_but_for_one_item() -> None:
    class Turned(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(8, 16)

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(x.transpose(0, 1))

    workload = traced(Turned(), torch.randn(2, 5, 8))
    (several,) = (op for op in workload.forward_ops(forward(4, 1), "fp32") if isinstance(op, Matmul))
    assert (several.batch, several.m, several.shared) == (5, 4, True)
    (one,) = (op for op in workload.forward_ops(forward(1, 1), "fp32") if isinstance(op, Linear))
    assert one.m == 5 and one.flops * 4 == several.flops
