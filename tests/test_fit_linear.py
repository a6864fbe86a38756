"""Laws of linear kernels, fitted to the shapes that a calibration measures, hold for shapes that it does not."""

from itertools import pairwise

import numpy as np
import pytest

from ridgepoint.measurement.calibrate.cuda_grid import FULL
from ridgepoint.measurement.calibrate.grid import HOT_SHAPES, LINEAR_SHAPES, TALL_SHAPES
from ridgepoint.study.fit import fit_linear

UNSEEN = [(384, 384), (1024, 384), (1024, 1024), (1024, 2816), (2816, 1024), (576, 1536), (32000, 768)]
GPU_UNSEEN = [(4096, 4096), (14336, 4096), (4096, 14336), (2048, 512), (1024, 1024)]
HOT_FP32 = HOT_SHAPES
"""All of them fit into 8 MB as fp32."""


def kernel_s(n, k, m, rates=(1e-10, 2.5e-10, 1e-10)):
    """A kernel whose weights have three rates by row length."""
    parts = min(k, 512), np.clip(k - 512, 0, 512), max(k - 1024, 0)
    return 5e-6 + m * n * sum(r * p for r, p in zip(rates, parts, strict=True)) + 2e-9 * n


def samples(cold, hot, rates, m=(1, 16)):
    which = {"probe": "linear", "kernel": "a kernel", "rung": "packed", "format": "int8", "act": "bf16"}
    out = [
        {**which, "m": r, "n": n, "k": k, "hot": False, "seconds": kernel_s(n, k, r, rates)} for n, k in cold for r in m
    ]
    hot_s = [(n, k, r, 0.3 * kernel_s(n, k, r, rates)) for n, k in hot for r in m]
    return [*out, *({**which, "m": r, "n": n, "k": k, "hot": True, "seconds": s} for n, k, r, s in hot_s)]


@pytest.mark.parametrize("m", [1, 16])
def test_three_rates_are_found_from_the_shapes_of_a_calibration(m):
    rates = (1e-10, 2.5e-10, 1e-10)
    (law,) = fit_linear(samples(LINEAR_SHAPES, LINEAR_SHAPES, rates), "test")
    for n, k in UNSEEN:
        assert float(law.seconds(m, n, k, 1.0)) == pytest.approx(kernel_s(n, k, m, rates), rel=0.05), (n, k)


@pytest.mark.parametrize(("cold", "hot", "unseen"), [
    (LINEAR_SHAPES, HOT_FP32, UNSEEN), (TALL_SHAPES, (), UNSEEN), (FULL.linear, FULL.linear, GPU_UNSEEN),
], ids=["cpu", "many rows", "gpu"])  # fmt: skip
def test_a_plain_kernel_is_found_wherever_the_shapes_do_not_tell_the_rates_apart(cold, hot, unseen):
    rates = (1.5e-10,) * 3
    (law,) = fit_linear(samples(cold, hot, rates), "test")
    for n, k in unseen:
        assert float(law.seconds(1, n, k, 1.0)) == pytest.approx(kernel_s(n, k, 1, rates), rel=0.1), (n, k)
        if hot:
            assert float(law.seconds(1, n, k, 0.0)) == pytest.approx(0.3 * kernel_s(n, k, 1, rates), rel=0.1), (n, k)


def test_long_rows_cost_more_hot_and_cold():
    (law,) = fit_linear(samples(LINEAR_SHAPES, HOT_FP32, (1e-10, 2.5e-10, 1e-10)), "test")
    for miss in (0.0, 1.0):
        times = [float(law.seconds(1, 1024, k, miss)) for k in (384, 512, 1024, 1536, 2816, 8192)]
        assert all(later > 1.05 * sooner for sooner, later in pairwise(times))


def test_hot_shapes_are_within_a_calibrations_cache_and_of_several_lengths():
    assert sum(4 * n * k for n, k in HOT_FP32) <= 8e6
    assert min(k for _, k in HOT_FP32) <= 512 and max(k for _, k in HOT_FP32) > 1024
