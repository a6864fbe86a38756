"""Targets and laws: exact fits, monotone times, files that come back unchanged or are refused in one line."""

import tomllib
from itertools import pairwise
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from packaging.requirements import Requirement

from ridgepoint.errors import BadInput, NotSupported, RidgeError, UnknownName
from ridgepoint.hardware import (
    AttentionLaw,
    Correction,
    Level,
    LinearLaw,
    Peak,
    PointwiseLaw,
    ResidencyLaw,
    ScalingLaw,
    Target,
    catalogue,
    data_folder,
    decode_target,
    encode_target,
    load_target,
    save_target,
    target_names,
)
from ridgepoint.hardware.law import WIDE_N, decode_terms, linear_terms, prefill_terms
from ridgepoint.hardware.nonnegative import fit_nonnegative
from ridgepoint.hardware.target import SCHEMA

DATA = Path(__file__).parent / "data" / "test-target.calibrated.toml"
TEXT = DATA.read_bytes()
TARGET = decode_target(DATA.name, TEXT)
SHAPES = [(n, k) for n in (256, 576, 1536, 5120, 8192) for k in (256, 576, 960, 1500, 2048)]

# Fits

costs = st.floats(1e-13, 1e-4)


@given(st.lists(costs, min_size=7, max_size=7), st.sets(st.integers(0, 6), min_size=1))
def test_fit_recovers_the_coefficients_of_exact_times(magnitudes, active):
    """Each coefficient is scaled so that its term is a fair share of the time; the absent ones stay exactly 0."""
    terms = np.stack(linear_terms(*(np.array(column, float) for column in zip(*SHAPES, strict=True))), axis=1)
    spread = np.clip(np.array(magnitudes), 1e-5, 1e-4) / terms.mean(axis=0)
    truth = np.where([i in active for i in range(7)], spread, 0.0)
    seconds = terms @ truth
    usable = seconds > 0
    if usable.sum() < len(active):
        return  # only the wide-output term, and too few shapes have it
    fitted = fit_nonnegative(terms[usable], seconds[usable])
    np.testing.assert_allclose(terms[usable] @ fitted, seconds[usable], rtol=2e-4)
    if usable.all():
        np.testing.assert_allclose(fitted, truth, rtol=1e-2, atol=1e-3 * spread.min())


@given(st.integers(0, 2**32 - 1), st.integers(1, 12), st.integers(1, 5))
def test_fit_is_the_constrained_optimum_of_its_active_set(seed, points, terms):
    """Never negative, and the gradient of the squared relative error vanishes on what it uses (KKT)."""
    generator = np.random.default_rng(seed)
    features = generator.uniform(0, 1, (points, terms)) * 10.0 ** generator.integers(-3, 4, terms)
    seconds = generator.uniform(0.5, 2, points)
    fitted = fit_nonnegative(features, seconds)
    scaled = features / seconds[:, None]
    residual = scaled @ fitted - 1
    norms = np.linalg.norm(scaled, axis=0)
    assert (fitted >= 0).all()
    assert residual @ residual < points, "worse than predicting nothing"
    gradient = scaled.T @ residual / norms
    np.testing.assert_allclose(gradient[fitted > 0], 0, atol=1e-7 * np.sqrt(points))
    best = descend(scaled / norms)
    bound = (best + 1e-9) * 1.1 ** min(terms, points)
    assert (residual @ residual + 1e-9) * 1.1 ** np.count_nonzero(fitted) <= bound * (1 + 1e-6)


def descend(matrix, rounds=100):
    """Squared error of non-negative least squares against ones, by coordinate descent: an oracle from above."""
    solution, residual = np.zeros(matrix.shape[1]), -np.ones(len(matrix))
    for _ in range(rounds):
        for i, column in enumerate(matrix.T):
            step = max(-solution[i], -float(column @ residual))
            solution[i] += step
            residual += step * column
    return float(residual @ residual)


def test_a_term_that_explains_nothing_is_left_out():
    x = np.arange(1.0, 9.0)
    noise, idle = 1e-3 * np.array([1, -1] * 4), 2 + np.array([1, 1, -1, -1] * 2)
    fitted = fit_nonnegative(np.stack([np.ones(8), x, idle], axis=1), (2 + 3 * x) * (1 + noise))
    assert fitted[2] == 0 and fitted[:2] == pytest.approx([2, 3], rel=1e-2)


def test_a_term_that_would_be_negative_is_zero():
    x = np.arange(1.0, 9.0)
    assert fit_nonnegative(np.stack([np.ones(8), x], axis=1), 10 - x)[1] == 0
    with pytest.raises(ValueError, match="no points"):
        fit_nonnegative(np.empty((0, 3)), np.empty(0))


# Laws

kernels = pytest.mark.parametrize("law", TARGET.linear, ids=lambda law: f"{law.kernel}-{law.format}-{law.act}")


@kernels
def test_linear_law_is_linear_between_grid_points_and_exact_on_them(law):
    n, k, miss = 1536, 576, 1.0
    for i, m in enumerate(law.m):
        cold = float(np.dot(law.cold[i], [float(t) for t in linear_terms(n, k)]))
        hot = float(np.dot(law.hot[i], [float(t) for t in linear_terms(n, k)]))
        assert law.seconds(m, n, k, miss) == pytest.approx(law.composed * max(cold, hot), rel=1e-12)
        assert law.seconds(m, n, k, 0.0) == pytest.approx(law.composed * hot, rel=1e-12)
    for low, high in pairwise(law.m):
        for share in (0.25, 0.5, 0.9):
            ends = [float(law.seconds(m, n, k, 0.0)) for m in (low, high)]
            between = law.seconds(low + share * (high - low), n, k, 0.0)
            assert between == pytest.approx(ends[0] + share * (ends[1] - ends[0]), rel=1e-12)


@kernels
def test_linear_law_grows_with_every_argument_and_past_its_grid(law):
    assert all((np.diff(np.array(rows), axis=0) >= 0).all() for rows in (law.cold, law.hot)), "this target's rows grow"
    ms, sizes, misses = [1, 2, 3, 7, 16, 60, 64, 300, 512, 5000, 10**6], [64, 576, 4095, 4097, 40_000], [0, 0.3, 1]
    for grid, seconds in (
        (ms, lambda m: law.seconds(m, 1536, 576, 0.5)),
        (sizes, lambda n: law.seconds(5, n, 576, 0.5)),
        (sizes, lambda k: law.seconds(5, 1536, k, 0.5)),
        (misses, lambda miss: law.seconds(1, 5000, 5000, miss)),
    ):
        times = [float(seconds(x)) for x in grid]
        assert times == sorted(times) and times[0] > 0
    slope = law.seconds(2000, 1536, 576, 0.0) - law.seconds(1000, 1536, 576, 0.0)
    assert law.seconds(3000, 1536, 576, 0.0) - law.seconds(2000, 1536, 576, 0.0) == pytest.approx(slope)


@kernels
def test_linear_law_takes_arrays_as_it_takes_scalars(law):
    m, n, k, miss = np.array([1, 3, 16, 700])[:, None, None], np.array([96, 9000])[:, None], np.array([576, 64]), 0.37
    table = law.seconds(m, n, k, miss)
    assert table.shape == (4, 2, 2)
    for index in np.ndindex(table.shape):
        one = law.seconds(*(float(np.broadcast_to(x, table.shape)[index]) for x in (m, n, k)), miss)
        assert table[index] == float(one)


def test_code_that_left_the_cache_adds_its_time():
    for law, sizes in ((TARGET.linear[0], (3, 96, 64, 0.5)), (TARGET.pointwise[0], (3, 96))):
        slow = msgspec.structs.replace(law, cold_code_s=4e-5)
        assert slow.seconds(*sizes, 0.25) - slow.seconds(*sizes, 0.0) == pytest.approx(1e-5 * law.composed)
        assert slow.seconds(*sizes) == law.seconds(*sizes, 1.0)


def test_wide_outputs_cost_more_only_beyond_their_width():
    assert [float(linear_terms(n, 3)[6]) for n in (1, WIDE_N, WIDE_N + 2)] == [0, 0, 6]


@given(st.integers(1, 10**6), st.integers(1, 10**6))
def test_the_three_weight_terms_are_all_weights(n, k):
    parts = [float(t) for t in linear_terms(n, k)[1:4]]
    assert sum(parts) == n * k and parts[0] == n * min(k, 512) and parts[1] <= n * 512


@given(st.integers(1, 64), st.integers(1, 4096), st.sampled_from([64, 128]))
def test_attention_terms_are_counts_of_what_happens(tasks, context, head_dim):
    decode = [float(t) for t in decode_terms(tasks, context, head_dim, 2 * tasks * context * head_dim)]
    products = tasks * context * head_dim
    assert decode == [1, tasks, tasks * context, products, 2 * products, 2 * products * head_dim]
    pairs = tasks * context * (context + 1) / 2
    prefill = [float(t) for t in prefill_terms(tasks, context, pairs, head_dim)]
    assert prefill == [1, tasks * context, tasks * context * head_dim, pairs, pairs * head_dim]


@given(st.lists(st.floats(1, 1e12), min_size=2, max_size=20))
def test_residency_grows_from_all_hits_to_all_misses(sets):
    law = TARGET.residency
    assert law is not None
    shares = [float(law.miss_share(x)) for x in sorted(sets)]
    assert shares == sorted(shares) and shares[0] >= 0 and shares[-1] <= 1
    assert list(law.miss_share(np.array(sorted(sets)))) == shares
    assert (law.miss_share(0.0), law.miss_share(1e15)) == (law.miss[0], law.miss[-1])


@given(st.floats(0, 1e6))
def test_scaling_stays_between_its_ends(m):
    law = ScalingLaw(subject="attention", threads=2, m=(1.0, 16.0), speedup=(1.3, 1.8), source="s")
    assert 1.3 <= float(law.at(m)) <= 1.8
    assert float(law.at(4)) == pytest.approx(1.55)


# Files

names = st.text(st.characters(codec="utf-8", exclude_categories=("Cs",)), max_size=12)
rates, factors, seconds_ = st.floats(1e-3, 1e20), st.floats(1e-3, 1e5), st.floats(0, 1e5)
rows = st.tuples(*[seconds_] * 7)
grids = st.lists(st.floats(1e-3, 1e12), min_size=2, max_size=5, unique=True).map(lambda xs: tuple(sorted(xs)))


@st.composite
def targets(draw):
    source = st.just("calibration")
    grid = draw(grids)
    many = st.lists(rows, min_size=len(grid), max_size=len(grid)).map(tuple)
    misses = st.lists(st.floats(0, 1), min_size=len(grid), max_size=len(grid)).map(tuple)
    ups = st.lists(factors, min_size=len(grid), max_size=len(grid)).map(tuple)

    def some(struct, **fields):
        fields = {**fields, "source": source, "sigma": st.floats(0, 10), "cold_code_s": st.floats(0, 1)}
        used = {key: value for key, value in fields.items() if key in struct.__struct_fields__}
        return st.lists(st.builds(struct, **used), max_size=2).map(tuple)

    return Target(
        schema=SCHEMA, name=draw(names), kind=draw(st.sampled_from(["cpu", "gpu"])), date=draw(names),
        aliases=draw(st.lists(names, max_size=2).map(tuple)), machine=draw(st.dictionaries(names, names, max_size=2)),
        cores=draw(st.none() | st.integers(1, 1024)), memory_bytes=draw(st.none() | rates),
        peaks=draw(some(Peak, dtype=names, flops_per_s=rates, scope=names)),
        levels=draw(some(Level, name=names, bytes=st.none() | rates, read_bytes_per_s=st.none() | rates)),
        linear=draw(some(LinearLaw, kernel=names, rung=names, format=names, act=names, threads=st.just(1),
                         m=st.just(grid), cold=many, hot=many, composed=factors)),
        attention=draw(some(AttentionLaw, kernel=names, dtype=names, threads=st.just(1), decode=st.tuples(*[seconds_] * 6),
                            prefill=st.tuples(*[seconds_] * 5), composed=factors)),
        pointwise=draw(some(PointwiseLaw, kind=names, dtype=names, threads=st.just(1),
                            terms=st.tuples(seconds_, seconds_, seconds_), composed=factors, cold_element_s=seconds_)),
        scaling=draw(some(ScalingLaw, subject=names, threads=st.integers(2, 64), m=st.just(grid), speedup=ups)),
        residency=draw(st.none() | st.builds(ResidencyLaw, working_set_bytes=st.just(grid), miss=misses,
                                             source=source)),
        correction=draw(st.none() | st.builds(Correction, per_call_s=seconds_, sigma=st.floats(0, 10), source=source)),
        checks=draw(st.dictionaries(names, names, max_size=2)), sources={"calibration": "a test"},
    )  # fmt: skip


@given(targets())
def test_a_target_comes_back_from_its_file_unchanged(target):
    assert decode_target("t", encode_target(target)) == target


def test_what_writes_targets_is_a_dependency():
    """msgspec writes TOML through tomli_w and does not require it: without it a calibration could not be saved."""
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    needed = [Requirement(line) for line in project["dependencies"]]
    assert any(r.name == "tomli-w" or (r.name == "msgspec" and "toml" in r.extras) for r in needed)


def changed(path, value):
    """The test target's TOML with the field at `path` replaced (or removed, for None)."""
    plain = tomllib.loads(TEXT.decode())
    inner = plain
    for key in path[:-1]:
        inner = inner[key]
    if value is None:
        del inner[path[-1]]
    else:
        inner[path[-1]] = value
    return msgspec.toml.encode(plain)


NAN, INF = float("nan"), float("inf")
HOSTILE = [
    (("schema",), 3, "schema"), (("name",), None, "name"), (("name",), 3, "name"), (("memory_bytes",), 0, "memory"),
    (("memory_bytes",), -1.0, "memory"), (("memory_bytes",), NAN, "memory"), (("cores",), 0, "cores"),
    (("peaks", 0, "flops_per_s"), INF, "peak"), (("peaks", 0, "flops_per_s"), -1.0, "peak"),
    (("peaks", 0, "source"), None, "source"), (("peaks", 0, "source"), "elsewhere", "source"),
    (("levels", 3, "read_bytes_per_s"), 0.0, "DRAM"), (("levels", 3, "copy_bytes_per_s"), -5.0, "DRAM"),
    (("levels", 0, "bytes"), NAN, "L1d"), (("linear", 0, "m"), [1.0, 1.0, 2.0, 3.0, 4.0], "grow"),
    (("linear", 0, "m"), [4.0], "terms"), (("linear", 0, "m"), [-1.0, 4.0, 16.0, 64.0, 512.0], "grow"),
    (("linear", 0, "m"), [1.0, 4.0, 16.0, 64.0, INF], "grow"),
    (("linear", 0, "m"), [NAN, 4.0, 16.0, 64.0, 512.0], "grow"),
    (("linear", 0, "cold", 0), [1.0, 2.0], "terms"), (("linear", 0, "hot", 1, 2), -1e-9, "negative"),
    (("linear", 0, "cold", 1, 2), NAN, "finite"), (("linear", 0, "cold_code_s"), NAN, "cold_code_s"),
    (("pointwise", 0, "cold_code_s"), -1e-6, "cold_code_s"), (("attention", 0, "cold_code_s"), INF, "cold_code_s"),
    (("linear", 0, "sigma"), NAN, "sigma"), (("linear", 0, "sigma"), 1000.0, "relative error"),
    (("linear", 0, "composed"), 0.0, "composed"), (("attention", 0, "composed"), 0.0, "composed"),
    (("pointwise", 0, "composed"), -1.0, "composed"), (("pointwise", 0, "cold_element_s"), NAN, "cold_element_s"),
    (("linear", 0, "sigma_composed"), -1.0, "sigma"),
    (("attention", 0, "decode"), [1e-6, 1e-9], "6 terms"), (("attention", 0, "prefill", 1), -1.0, "flash"),
    (("attention", 0, "sigma"), INF, "sigma"), (("attention", 0, "source"), "elsewhere", "source"),
    (("pointwise", 0, "terms"), [1.0], "terms"), (("pointwise", 0, "terms", 0), NAN, "pointwise"),
    (("pointwise", 0, "source"), "elsewhere", "source"), (("scaling", 0, "speedup"), [1.0], "scaling"),
    (("scaling", 0, "speedup", 0), 0.0, "scaling"), (("scaling", 0, "m"), [16.0, 1.0], "scaling"),
    (("scaling", 0, "source"), "elsewhere", "source"), (("residency", "miss"), [0.0, 1.0], "residency"),
    (("residency", "miss", 0), 1.5, "residency"), (("residency", "miss", 0), NAN, "residency"),
    (("residency", "working_set_bytes", 0), -4.0, "residency"),
    (("residency", "working_set_bytes", 1), 1e15, "residency"), (("residency", "source"), "elsewhere", "source"),
    (("correction", "per_call_s"), -1e-6, "correction"), (("correction", "sigma"), NAN, "correction"),
    (("correction", "source"), "else\nwhere", "source"),
]  # fmt: skip


@pytest.mark.parametrize(("path", "value", "says"), HOSTILE, ids=[f"{p}={v}" for p, v, _ in HOSTILE])
def test_hostile_figures_are_refused_in_one_line(path, value, says):
    with pytest.raises(BadInput, match=says) as caught:
        decode_target("mine.toml", changed(path, value))
    assert str(caught.value).isprintable() and "mine.toml" in str(caught.value)


@pytest.mark.parametrize(
    "text", [b"", b"\xff\xfe", b"= 1", b"name = ", b"[" * 5000, b"a = " + b"[" * 5000, b"\x00", b"schema = 1e999"]
)
def test_malformed_toml_is_refused_in_one_line(text):
    with pytest.raises(BadInput, match="mine") as caught:
        decode_target("mine.toml", text)
    assert str(caught.value).isprintable()


def test_missing_figures_refuse_and_say_what_there_is():
    bare = msgspec.structs.replace(TARGET, levels=(), peaks=TARGET.peaks[:2])
    with pytest.raises(NotSupported, match="fp32, bf16"):
        bare.flops_per_s("fp8")
    with pytest.raises(NotSupported, match="ridge calibrate"):
        bare.memory_bytes_per_s()
    assert bare.cache_bytes == 0 and TARGET.cache_bytes == 33554432


# Catalogue


def renamed(name, **changes):
    return msgspec.structs.replace(TARGET, name=name, **changes)


@pytest.fixture
def packaged(tmp_path, monkeypatch):
    """A package folder with one target, in the place of the real one."""
    folder = tmp_path / "package"
    (folder / "data" / "cpu").mkdir(parents=True)
    (folder / "data" / "cpu" / "box.toml").write_bytes(encode_target(renamed("box", date="packaged", aliases=("b1",))))
    monkeypatch.setattr(catalogue, "files", lambda _: folder)
    return folder


def test_the_users_file_wins_over_the_packaged_one(packaged):
    assert load_target("box").date == load_target("b1").date == "packaged"
    (data_folder() / "targets").mkdir(parents=True)
    (data_folder() / "targets" / "box.toml").write_bytes(encode_target(renamed("box", date="mine", aliases=("b1",))))
    assert load_target("box").date == load_target("b1").date == "mine"
    assert target_names() == ["box"]


def test_a_target_is_found_by_name_alias_path_and_host(packaged):
    path = save_target(TARGET, "test-target")
    assert path.name == "test-target.calibrated.toml" and path.read_bytes() == encode_target(TARGET)
    for name in ("test-target.calibrated", "test-target", "test-cpu", str(path), "host"):
        assert load_target(name) == TARGET
    assert target_names() == ["box", "test-target"]


def test_host_is_the_newest_calibration(packaged):
    with pytest.raises(UnknownName, match="ridge calibrate"):
        load_target("host")
    import os

    for age, name in ((300, "old"), (100, "new"), (200, "middle")):
        path = save_target(renamed(name), name)
        os.utime(path, (10**9 - age, 10**9 - age))
    assert load_target("host").name == "new"


@pytest.mark.parametrize(
    "name",
    [
        "bix",
        "",
        "x" * 5000,
        "x" * 5000 + ".toml",
        "nul\0.toml",
        "~nobody-of-that-name/x.toml",
        "two\nlines.toml",
        "no/such.toml",
    ],
)
def test_an_unknown_target_is_one_line(packaged, name):
    with pytest.raises(UnknownName, match="box") as caught:
        load_target(name)
    assert str(caught.value).isprintable() and len(str(caught.value)) < 1000


def test_a_damaged_file_is_named(packaged, tmp_path):
    path = tmp_path / "broken.toml"
    path.write_bytes(b"schema = ")
    with pytest.raises(BadInput, match=r"broken\.toml"):
        load_target(str(path))
    (data_folder() / "targets").mkdir(parents=True)
    (data_folder() / "targets" / "folder.toml").mkdir()
    (data_folder() / "targets" / "gone.toml").symlink_to(tmp_path / "nowhere")
    for name in ("folder", "gone"):
        with pytest.raises(RidgeError, match=name):
            load_target(name)
    assert load_target("box").name == "box"


def test_saving_is_whole_or_not_at_all(monkeypatch):
    """A crash while writing leaves the old file, and what it leaves behind is never taken for a target."""
    before = save_target(TARGET, "vm")

    def crash(self, target):
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "replace", crash)
    with pytest.raises(KeyboardInterrupt):
        save_target(renamed("other"), "vm")
    assert before.read_bytes() == encode_target(TARGET)
    assert load_target("host") == TARGET and "vm" in target_names()
    assert not any("partial" in name for name in target_names())
