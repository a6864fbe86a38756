"""Laws of convolutions and products from made-up machines, factors from made-up networks, and what a trace follows."""

from dataclasses import asdict
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ridgepoint.hardware import ResidencyLaw, Target, decode_target
from ridgepoint.measurement.calibrate.grid import CONV_SHAPES, MATMUL_SHAPES
from ridgepoint.measurement.trace.flow import Flow
from ridgepoint.measurement.trace.living import Living
from ridgepoint.measurement.trace.load import Built
from ridgepoint.measurement.trace.trace import trace_built
from ridgepoint.prediction.convolution import form_shares, passes_of, terms_of
from ridgepoint.prediction.optime import op_time
from ridgepoint.study.context_modules import with_module_context
from ridgepoint.study.fit_modules import _conv, with_modules
from ridgepoint.workload import Conv, Matmul, Traced, forward

FULL = decode_target("t", (Path(__file__).parent / "data" / "test-target.calibrated.toml").read_bytes())
SOURCE = next(iter(FULL.sources))
NEAR = msgspec.structs.replace(
    FULL, residency=ResidencyLaw(working_set_bytes=(1e6, 1e9), miss=(0.0, 0.0), source=SOURCE)
)
"""A machine whose cache holds everything."""
TRUE = (4e-5, 1e-6, 3e-10, 2e-10, 2e-11)
"""Call, item, element, weight, product."""


def conv_sample(shape, noise: float = 0.0) -> dict:
    sample = {"probe": "conv", "act": "bf16", "layout": "", **asdict(shape)}
    op = _conv(sample)
    (form,) = form_shares(op, 1)
    seconds = sum(c * float(t) for c, t in zip(TRUE, terms_of(op, form), strict=True))
    return {**sample, "seconds": seconds * (1 + noise)}


def test_a_convolution_s_law_is_found_again() -> None:
    rng = np.random.default_rng(0)
    samples = [conv_sample(s, rng.normal(0, 0.01)) for s in CONV_SHAPES]
    target = with_modules(NEAR, samples, SOURCE)
    unseen = Conv("c", 3, 100, 150, 9, 1, 24 * 24, 24 * 24, "bf16")
    (form,) = form_shares(unseen, 1)
    expected = sum(c * float(t) for c, t in zip(TRUE, terms_of(unseen, form), strict=True))
    assert float(op_time(unseen, target, 1.0, 0.0, 1).seconds) == pytest.approx(expected, rel=0.05)
    assert all(law.sigma < 0.1 for law in target.contraction)


def test_far_memory_is_taken_from_copies_and_counts_each_pass() -> None:
    target = msgspec.structs.replace(
        FULL, residency=ResidencyLaw(working_set_bytes=(1e6, 2e6), miss=(0.0, 1.0), source=SOURCE)
    )
    samples = [conv_sample(s) for s in CONV_SHAPES]
    copies = [
        {"probe": "pointwise", "kind": "copy", "act": "bf16", "rows": r, "cols": c, "seconds": 1e-6 + 1e-10 * r * c}
        for r, c in ((1, 640), (40, 640), (40, 1664))
    ]
    from ridgepoint.study.fit import fit_pointwise

    target = msgspec.structs.replace(target, pointwise=fit_pointwise(copies, SOURCE))
    far = {
        "probe": "far",
        "kind": "copy",
        "act": "bf16",
        "rows": 5200,
        "cols": 1664,
        "seconds": 1e-6 + 3e-10 * 5200 * 1664,
    }
    laws = with_modules(target, [*samples, far], SOURCE).contraction
    assert all(law.far_element_s == pytest.approx(1e-10, rel=0.01) for law in laws)  # 2e-10 for a read and a write
    assert passes_of(Conv("c", 1, 16, 16, 9, 1, 64, 64, "bf16"), "window") == 3
    assert passes_of(Conv("c", 1, 16, 16, 9, 1, 64, 64, "bf16", layout="last"), "window") == 1


def test_a_product_s_law_is_found_again() -> None:
    def seconds(b: int, m: int, n: int, k: int) -> float:
        return 2e-5 + 1e-7 * b + 5e-11 * b * (m * k + k * n + m * n) + 1e-11 * b * m * n * k

    samples = [
        {
            "probe": "matmul",
            "act": "fp32",
            "batch": b,
            "m": m,
            "n": n,
            "k": k,
            "shared": False,
            "seconds": seconds(b, m, n, k),
        }
        for b, m, n, k in MATMUL_SHAPES
    ]
    target = with_modules(NEAR, samples, SOURCE)
    found = op_time(Matmul("p", 16, 100, 90, 50, "fp32"), target, 1.0, 0.0, 1).seconds
    assert float(found) == pytest.approx(seconds(16, 100, 90, 50), rel=0.03)


class Small(nn.Module):
    """Two kinds of operators that decoders do not have."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(16, 32, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x).softmax(-1)


def module_cells(target: Target, traced: Traced, factor: float, gap_s: float) -> list[dict]:
    """Samples of a machine on which convolutions take `factor` of their law in a network, and each call `gap_s` more."""
    cells = []
    for batch in (1, 3, 17):
        ops = traced.forward_ops(forward(batch, 1), "bf16")
        alone = {op.name: float(op_time(op, target, 1.0, 0.0, 1).seconds) for op in ops}
        rows = {name: s * (factor if "conv" in name else 1.0) for name, s in alone.items()}
        cells.append({
            "probe": "module net", "traced": msgspec.to_builtins(traced), "batch": batch, "act": "bf16", "ops": rows,
            "seconds": sum(rows.values()) + gap_s * len(ops),
        })  # fmt: skip
    return cells


def test_what_a_network_adds_is_found_again() -> None:
    from ridgepoint.study.fit import fit_pointwise

    softmax = [
        {"probe": "pointwise", "kind": "softmax", "act": "bf16", "rows": r, "cols": c, "seconds": 2e-6 + 5e-10 * r * c}
        for r, c in ((1, 640), (40, 640), (40, 1664))
    ]
    target = with_modules(NEAR, [conv_sample(s) for s in CONV_SHAPES], SOURCE)
    target = msgspec.structs.replace(
        target, pointwise=fit_pointwise(softmax, SOURCE), correction=None, code_residency=None
    )
    traced = trace_built("t:t", Built(Small().eval(), (torch.randn(2, 16, 20, 20),), {}, 2), ("bf16",))
    fitted = with_module_context(target, module_cells(target, traced, 1.5, 4e-6))
    (window,) = (law for law in fitted.contraction if law.form == "window")
    assert window.composed == pytest.approx(1.5 ** (3 / 4), rel=0.01)  # three cells: drawn towards 1 by a quarter
    assert fitted.module_call_s == pytest.approx(4e-6, rel=0.05)
    (law,) = fitted.pointwise
    assert law.composed == pytest.approx(1.0, rel=0.02)


def test_a_maximum_over_windows_takes_no_factor_from_small_networks() -> None:
    from ridgepoint.study.fit import fit_pointwise

    pools = [
        {"probe": "pointwise", "kind": "pool", "act": "bf16", "rows": r, "cols": c, "seconds": 2e-6 + 2e-9 * r * c}
        for r, c in ((600, 9), (6000, 9), (6000, 4))
    ]
    target = msgspec.structs.replace(NEAR, pointwise=fit_pointwise(pools, SOURCE), correction=None, code_residency=None)
    traced = trace_built("t:t", Built(nn.MaxPool2d(2), (torch.randn(2, 16, 20, 20),), {}, 2), ("bf16",))
    cells = module_cells(target, traced, 1.0, 0.0)
    learnt = [
        {**c, "ops": {name: 0.5 * s for name, s in c["ops"].items()}, "seconds": 0.5 * c["seconds"]} for c in cells
    ]
    (law,) = with_module_context(target, learnt).pointwise
    assert law.composed == 1.0


def test_without_a_modules_stage_nothing_changes() -> None:
    assert with_module_context(with_modules(FULL, [], SOURCE), []) == FULL


def test_temporaries_are_what_one_module_makes_and_reads() -> None:
    flow = Flow()
    x, a, b, c = (torch.zeros(4) for _ in range(4))
    flow.called(0, frame=1, passing=True, given=[x], made=[a])  # a = f(x)
    flow.called(1, frame=1, passing=True, given=[a], made=[b])  # b = g(a): a stays inside
    flow.called(2, frame=2, passing=True, given=[b], made=[c])  # another module reads b
    assert flow.held() == {0: 16, 1: 16}


def test_a_product_that_reads_it_makes_it_compulsory() -> None:
    flow = Flow()
    x, a, b, y = (torch.zeros(4) for _ in range(4))
    flow.called(0, frame=1, passing=True, given=[x], made=[a])
    flow.called(1, frame=1, passing=True, given=[a], made=[b])
    flow.called(2, frame=1, passing=False, given=[a], made=[y])
    assert flow.held() == {}


def test_a_norm_written_out_moves_what_one_pass_does() -> None:
    class Written(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(64))

        def forward(self, x: Tensor) -> Tensor:
            return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6) * self.weight

    class One(Written):
        def forward(self, x: Tensor) -> Tensor:
            return F.rms_norm(x, (64,), self.weight)

    def moved(module: nn.Module) -> float:
        traced = trace_built("t:t", Built(module.eval(), (torch.randn(2, 10, 64),), {}, 2), ("fp32",))
        return sum(float(op.count * op.bytes) for op in traced.forward_ops(forward(8, 1), "fp32"))

    assert moved(Written()) == pytest.approx(moved(One()), rel=0.6)  # it reads x twice, and a row's scale
    assert moved(Written()) < 0.5 * 8 * 10 * 64 * 4 * 9  # nine passes of reading or writing


def test_living_results_are_counted_until_their_last_tensor_goes() -> None:
    given = torch.zeros(1000)
    living = Living([given])
    a = torch.zeros(100)
    living.made([a, given.view(10, 100)])
    half = a[:50]
    living.made([half])
    del a
    b = torch.zeros(30)
    living.made([b])
    assert living.peak_bytes == 4 * 130  # the view keeps a's memory
    del half
    living.made([torch.zeros(10)])
    assert living.peak_bytes == 4 * 130
