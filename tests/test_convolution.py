"""Convolutions: torch's choice of kernel against our rule, FLOPs and bytes by hand, laws from made-up machines."""

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given, settings

from ridgepoint.measurement.calibrate.grid import CONV_SHAPES, MATMUL_SHAPES, SHARED_SHAPES
from ridgepoint.prediction.convolution import FORMS, form_shares
from ridgepoint.study.fit_modules import _conv
from ridgepoint.workload import Conv


@settings(max_examples=300, deadline=None)
@given(
    batch=st.integers(1, 40), groups=st.sampled_from([1, 1, 2, 0]), wide=st.integers(1, 9), wider=st.integers(1, 9),
    side=st.integers(7, 60), window=st.sampled_from([1, 3, 4, 5]), stride=st.sampled_from([1, 1, 2]),
    dtype=st.sampled_from(["fp32", "bf16"]),
)  # fmt: skip
def test_the_rule_is_torch_s_own(batch, groups, wide, wider, side, window, stride, dtype):
    if not torch.backends.mkldnn.is_available() or (
        dtype == "bf16" and not torch.ops.mkldnn._is_mkldnn_bf16_supported()
    ):
        pytest.skip("this torch has no oneDNN for it")
    channels = 8 * wide
    groups = groups or channels
    n = groups * wider if groups <= 2 else channels
    to = {"fp32": torch.float32, "bf16": torch.bfloat16}[dtype]
    x = torch.empty(batch, channels, side, side, dtype=to)
    w = torch.empty(n, channels // groups, window, window, dtype=to)
    picked = torch._C._select_conv_backend(x, w, None, [stride] * 2, [0, 0], [1, 1], False, [0, 0], groups, None)
    out = (side - window) // stride + 1
    op = Conv("c", batch, channels, n, window**2, groups, side**2, out**2, dtype, spread=stride > 1)
    (form,) = form_shares(op, 1)
    if groups > 1 and not str(picked).endswith("Mkldnn"):
        return  # torch has other kernels for groups; the law of the form was measured on whatever it takes
    assert form.startswith("native") == (not str(picked).endswith("Mkldnn")), picked


def test_a_sweep_of_batches_changes_its_kernel_where_torch_does():
    op = Conv("c", np.array([1.0, 8.0, 16.0, 64.0]), 64, 64, 1, 1, 900, 900, "fp32")
    shares = form_shares(op, 1)
    assert list(shares["native 1x1"]) == [1, 1, 0, 0]
    assert list(shares["1x1"]) == [0, 0, 1, 1]
    assert list(form_shares(op, 2)) == ["1x1"]


def test_flops_and_bytes_by_hand():
    plain = Conv("c", 2, 3, 8, 9, 1, 100, 64, "fp32", bias=True)
    assert plain.flops == 2 * 2 * 64 * 8 * 27
    assert plain.weight_bytes == 4 * (8 * 27 + 8)
    assert plain.activation_bytes == 4 * (2 * 3 * 100 + 2 * 8 * 64)
    depthwise = Conv("c", 1, 16, 16, 9, 16, 100, 100, "bf16")
    assert (depthwise.form, depthwise.flops) == ("depthwise", 2 * 100 * 16 * 9)
    turned = Conv("c", 1, 16, 4, 4, 1, 25, 100, "fp32", transposed=True)
    assert turned.flops == 2 * 25 * 16 * 16  # each input times a window of 4 for 4 outputs


@pytest.mark.parametrize("transposed", [False, True])
def test_flops_equal_those_that_torch_counts(transposed):
    from torch.utils.flop_counter import FlopCounterMode

    made = torch.nn.ConvTranspose2d if transposed else torch.nn.Conv2d
    layer = made(12, 20, 3, stride=2, padding=1, groups=4, device="meta")
    x = torch.empty(5, 12, 17, 17, device="meta")
    with FlopCounterMode(display=False) as counter:
        y = layer(x)
    op = Conv("c", 5, 12, 20, 9, 4, 17 * 17, y.shape[-1] ** 2, "fp32", spread=True, transposed=transposed)
    assert op.flops == counter.get_total_flops()


def test_every_form_is_calibrated_in_fp32():
    forms = set()
    for shape in CONV_SHAPES:
        sample = {"act": "fp32", "layout": "", **{name: getattr(shape, name) for name in shape.__slots__}}
        forms |= form_shares(_conv(sample), 1).keys()
    assert forms == set(FORMS)


def test_calibration_shapes_are_those_of_no_benchmark():
    """No look-up dressed as prediction: layers of the scored modules are not among the measured ones."""
    from pathlib import Path

    from ridgepoint.measurement.trace.trace import trace_file
    from ridgepoint.workload import Matmul, forward

    measured = {(s.channels_in, s.n, s.window**2, s.side**2) for s in CONV_SHAPES}
    products = {shape[1:] for shape in (*MATMUL_SHAPES, *SHARED_SHAPES)}
    folder = Path(__file__).parents[1] / "benchmarks" / "modules"
    names = [("cnn", n) for n in ("residual", "mobile", "unet", "plain")] + [
        ("sequence", n) for n in ("encoder", "mixer")
    ]
    for file, name in names:
        for op in trace_file(str(folder / f"{file}.py"), name, ("fp32",)).forward_ops(forward(1, 1), "fp32"):
            if isinstance(op, Conv):
                assert (op.channels_in, op.n, op.window, op.pixels_in) not in measured
            if isinstance(op, Matmul):
                assert (op.m, op.n, op.k) not in products
