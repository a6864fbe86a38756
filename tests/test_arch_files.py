"""The fitted classes that ship: every fit can be read by its time model, and predicts the tables that it was fitted on."""

import numpy as np
import pytest

from ridgepoint.hardware import STEPS, arch_names, load_arch, load_target, target_names
from ridgepoint.prediction.physics.parameters import read_parameters
from ridgepoint.prediction.physics.power import LimitParameters
from ridgepoint.prediction.physics.spread import SPREAD_TERMS
from ridgepoint.prediction.serving_parameters import ServingParameters
from ridgepoint.study.published.power import ReadingParameters
from ridgepoint.study.published.registry import KINDS
from ridgepoint.study.score_published import ALL
from ridgepoint.study.validate import validate

MODELS = {name: kind.model for name, kind in KINDS.items()}
CLASSES = arch_names()


def test_every_datasheet_gpu_has_a_class():
    missing = {t.name: t.arch for t in map(load_target, target_names()) if t.kind == "gpu" and t.arch not in CLASSES}
    assert not missing


@pytest.mark.parametrize("name", CLASSES)
def test_a_class_is_whole(name):
    """Parameters within the bounds of their model, widths for every operator, files named, steps with finite errors."""
    arch = load_arch(name)
    assert set(arch.pooled_from) <= set(CLASSES) - {name}
    for fit in arch.fits:
        if fit.operator in MODELS:
            read_parameters(MODELS[fit.operator], fit.values, name)
            assert len(fit.spread) == SPREAD_TERMS
        elif fit.operator == "power":
            read_parameters(ReadingParameters, fit.values, name)
        elif fit.operator == "serving":
            read_parameters(ServingParameters, fit.values, name)
        else:
            read_parameters(LimitParameters, fit.values, name)
        assert set(fit.files) <= set(arch.sources) and fit.rows > 0 and fit.gpus
        assert all(np.isfinite(x) for x in (*fit.values.values(), *fit.spread))
        for gpu in fit.gpus:
            assert load_target(gpu).arch == name
    for step in arch.transfers:
        assert step.step in STEPS and 0 <= step.sigma < 3, step


def test_classes_that_were_measured_have_their_operators():
    """Rows exist for Pascal, Volta, Turing and CDNA1 in fp32, Ampere, Ada, Hopper and Blackwell."""
    for name in ("pascal", "volta", "turing", "cdna1", "ampere"):
        assert {("gemm", "fp32"), ("pointwise", "fp32")} <= {(f.operator, f.dtype) for f in load_arch(name).fits}, name
    for name in ("ampere", "ada", "hopper", "blackwell"):
        have = {f.operator for f in load_arch(name).fits}
        assert {"gemm", "attention_prefill", "attention_decode", "moe"} <= have, name


@pytest.mark.parametrize(
    ("file", "gpu", "dtype", "bound"),
    [
        ("gemm.csv", "a100_sxm", "bf16", 0.07), ("gemm.csv", "h100_sxm", "bf16", 0.06), ("gemm.csv", "b200_sxm", "bf16", 0.08),
        ("gemm.csv", "l40s", "bf16", 0.10), ("gemm.csv", "h100_sxm", "fp8", 0.11), ("gemm.csv", "b200_sxm", "nvfp4", 0.09),
        ("gemm.csv", "a100_sxm", "int4_wo", 0.09), ("attention_prefill.csv", "h100_sxm", "bf16", 0.10),
        ("attention_decode.csv", "b200_sxm", "bf16", 0.10), ("moe.csv", "h100_sxm", "bf16", 0.15),
    ],
)  # fmt: skip
def test_the_tables_are_still_predicted(shared, file, gpu, dtype, bound, scored):
    """In sample: guards the wiring from file to fit to model; held-out errors are in benchmarks/records."""
    lines = [x for x in scored(shared / "measurements" / file) if (x.gpu, x.dtype, x.regime) == (gpu, dtype, ALL)]
    assert lines and all(x.metric == "power" or x.in_sample for x in lines)
    for x in lines:
        if x.metric == "latency" and x.n >= 200:
            assert x.median_ape < bound, (x.framework, x.version, x.median_ape)
            assert 0.74 < x.coverage80 < 0.90, (x.framework, x.version, x.coverage80)
            assert x.median_ape < x.roofline_median_ape


@pytest.fixture(scope="module")
def scored():
    """Lines of a file, scored once."""
    known = {}

    def lines(path):
        if path not in known:
            known[path] = validate([path]).lines
        return known[path]

    return lines
