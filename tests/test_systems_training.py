"""Training steps on paper: their parts add up as the papers say, and measured runs are near them."""

import numpy as np
import pytest

from ridgepoint.hardware import arch_names, load_arch, load_target
from ridgepoint.prediction.training import TrainingStep, training_time
from ridgepoint.study.published.table import read_table
from ridgepoint.study.scoring import Scored
from ridgepoint.study.scoring_systems import score_systems
from ridgepoint.workload import Parallel, Plan, decode, load_model


def has_fits() -> bool:
    """A server's fit is made last, so that it stands for those of all operators."""
    return "hopper" in arch_names() and any(fit.operator == "serving" for fit in load_arch("hopper").fits)


needs_fit = pytest.mark.skipif(not has_fits(), reason="needs the classes' fitted parameters (scripts/fit_classes.py)")


def of(step: TrainingStep, **parallel):
    plan = Plan(load_model("llama-3.1-8b"), decode(1, 1), "bf16", device="cuda", parallel=Parallel(**parallel))
    return training_time(plan, load_target("a100-sxm"), step)


@needs_fit
def test_gradients_take_about_twice_the_forward_pass_and_recomputation_once():
    time = of(TrainingStep(2048, 1, 4, recompute="full"))
    assert 1.9 < time.gradients_s / time.forward_s < 2.4
    assert 0.85 < time.recomputed_s / time.forward_s <= 1.0
    assert of(TrainingStep(2048, 1, 4)).recomputed_s == 0.0
    assert time.bubble_s == 0.0


@needs_fit
def test_a_pipeline_idles_as_its_paper_says():
    plain, parts = (of(TrainingStep(2048, 1, 8, interleave=v), pp=4) for v in (1, 2))
    work = plain.forward_s + plain.gradients_s
    assert plain.bubble_s == pytest.approx(work * 3 / 8)
    assert parts.bubble_s == pytest.approx(plain.bubble_s / 2)


@needs_fit
def test_attention_without_tiles_moves_its_scores():
    tiled, whole = (of(TrainingStep(4096, 1, 1, flash=flash)) for flash in (True, False))
    scores = 32 * 32 * 4096**2 * 2 / load_target("a100-sxm").memory_bytes_per_s()
    assert whole.forward_s - tiled.forward_s == pytest.approx(6 * scores, rel=1e-6)


def medians(path, metric):
    found = [x for x in score_systems(read_table(path)) if isinstance(x, Scored) and x.metric == metric]
    return np.median(np.concatenate([np.abs(x.predicted / x.measured - 1) for x in found]))


@needs_fit
@pytest.mark.parametrize(
    ("name", "metric", "bound"),
    [("e2e_training_megatron", "latency", 0.25), ("e2e_training_megatron", "memory", 0.03), ("e2e_training", "memory", 0.02),
     ("e2e_training", "tokens_per_s", 0.4)],
)  # fmt: skip
def test_measured_training_is_near(shared, name, metric, bound):
    assert medians(shared / "measurements" / f"{name}.csv", metric) < bound
