"""Kernels against float references: every rung that runs here, its constraints, and copies with their own memory."""

import copy
import itertools
import subprocess
import sys

import pytest

torch = pytest.importorskip("torch")

import torch.nn.functional as F  # noqa: E402

from ridgepoint.errors import UnknownName  # noqa: E402
from ridgepoint.kernels.attention import ATTENTION_KERNELS, Attention  # noqa: E402
from ridgepoint.kernels.ladder import TORCH_DTYPES, multiple_reason, relative_error  # noqa: E402
from ridgepoint.kernels.linear import LADDERS, find  # noqa: E402
from ridgepoint.kernels.pointwise import Add, Embedding, KvWrite, RmsNorm, Rope, SiluMul  # noqa: E402

N, K, GROUP = 96, 512, 64
TOLERANCE = {"fp32": 1e-5, "fp16": 1e-3, "bf16": 6e-3}
"""Relative error of y allowed for the activation's dtype (bf16 rounds to 2^-9, twice on the naive rungs)."""
ACTIVATIONS_ROUNDED = {"int8:dyn": 0.03, "int8:dyn:token": 0.012, "fp8": 0.06}
"""Looser where activations are rounded too: 7 bits per tensor, 8 bits per token, e4m3's 3 bits."""

CASES = [
    pytest.param(
        kernel, act, id=f"{kernel.device}-{kernel.name}-{act}", marks=[pytest.mark.gpu] * (kernel.device == "cuda")
    )
    for ladder in LADDERS.values()
    for kernel in ladder
    for act in kernel.acts
]


def runnable(kernel):
    if reason := kernel.available():
        pytest.skip(f"{kernel.name}: {reason}")
    return kernel


def weight_of(kernel, n=N, k=K):
    generator = torch.Generator().manual_seed(1)
    scales = torch.rand(n, 1, generator=generator) + 0.1  # rows of unlike magnitude
    weight = torch.randn(n, k, generator=generator) * 0.02 * scales
    return weight.to(kernel.device), torch.randn(n, generator=generator).to(kernel.device)


def activations(kernel, act, *shape):
    generator = torch.Generator().manual_seed(2)
    return torch.randn(*shape, generator=generator).to(kernel.device, TORCH_DTYPES[act])


@pytest.mark.parametrize(("kernel", "act"), CASES)
@pytest.mark.parametrize("with_bias", [False, True])
def test_output_equals_linear_with_the_dequantised_weight(kernel, act, with_bias):
    weight, bias = weight_of(runnable(kernel))
    module = kernel.pack(weight, bias if with_bias else None, act, GROUP)
    for lead in ((1,), (5,), (40,), (2, 3)):
        x = activations(kernel, act, *lead, K)
        with torch.inference_mode():
            y = module(x)
        reference = F.linear(x.float(), module.dequantised(), bias if with_bias else None)
        assert y.shape == (*lead, N) and y.dtype == TORCH_DTYPES[act]
        assert relative_error(y, reference) < ACTIVATIONS_ROUNDED.get(kernel.format, TOLERANCE[act])
    assert module.kernel == kernel.name


@pytest.mark.parametrize(("kernel", "act"), CASES)
def test_quantisation_is_within_half_a_step(kernel, act):
    weight, _ = weight_of(runnable(kernel))
    error = (kernel.pack(weight, None, act, GROUP).dequantised() - weight).abs()
    assert (error <= half_step(kernel.format, weight) + 1e-12).all()
    if kernel.format not in ("fp32", "csr"):
        assert error.max() > 0


def half_step(name, weight):
    """The largest rounding error that the format allows, per weight, written from the format's definition."""
    if name in TORCH_DTYPES:
        return weight.abs() * {"fp32": 0, "bf16": 2.0**-8, "fp16": 2.0**-11}[name] + 2.0**-25
    if name == "int8":  # the row's scale is rounded to bf16
        return weight.abs().amax(1, keepdim=True) / 127 / 2 * (1 + 2.0**-8)
    if name.startswith("int8"):
        return weight.abs().amax(1, keepdim=True) / 127 / 2 * (1 + 1e-5)
    if name == "int4":  # 15 steps; bf16 scale and zero point move the ends by a few hundredths of a step
        groups = weight.view(len(weight), -1, GROUP)
        step = (groups.amax(-1) - groups.amin(-1)) / 15
        return (step * 0.56).repeat_interleave(GROUP, 1)
    blocks = weight.abs().view(len(weight), -1, 64).amax(-1).repeat_interleave(64, 1)
    if name == "nf4":  # widest gap of the 16 quantiles is -1 to -0.6962; the CPU rung rounds the block's scale to bf16
        return blocks * (0.3038 / 2 + 2.0**-8)
    if name == "fp8":  # e4m3: 3 bits of mantissa, largest 448, smallest step 2^-9
        return torch.maximum(weight.abs() / 16, weight.abs().amax(1, keepdim=True) / 448 * 2.0**-10) * 1.001
    if name == "csr":  # what is not zero is stored as it is
        return torch.zeros_like(weight)
    raise AssertionError(f"no bound for {name}")


def test_nf4_codes_are_the_nearest_quantiles():
    pytest.importorskip("bitsandbytes")
    from statistics import NormalDist

    (kernel,) = find("nf4", "cpu")
    weight, _ = weight_of(kernel)
    # the code of QLoRA, appendix E: 8 positive and 7 negative quantiles of a normal distribution, and zero
    offset = 0.9677083
    up = [NormalDist().inv_cdf(0.5 + (offset - 0.5) * i / 8) for i in range(1, 9)]
    down = [-NormalDist().inv_cdf(0.5 + (offset - 0.5) * i / 7) for i in range(1, 8)]
    code = torch.tensor(sorted([*down, 0.0, *up])) / up[-1]
    blocks = weight.view(-1, 64)
    scale = blocks.abs().amax(1, keepdim=True)
    nearest = code[(blocks[..., None] / scale[..., None] - code).abs().argmin(-1)]
    expected = (nearest * scale).view_as(weight)
    assert relative_error(kernel.pack(weight, None, "bf16", 0).dequantised(), expected) < 3e-3


@pytest.mark.parametrize(("kernel", "act"), CASES)
def test_a_copy_has_its_own_memory_and_computes_the_same(kernel, act):
    weight, bias = weight_of(runnable(kernel))
    module = kernel.pack(weight, bias, act, GROUP)
    x = activations(kernel, act, 1, K)
    with torch.inference_mode():
        before = module(x)
        twin = copy.deepcopy(module)  # after the first call, when NF4 has repacked
        assert torch.equal(twin(x), before)
        assert not storages(module) & storages(twin)
        for buffer in twin.buffers():
            buffer.zero_()
        assert torch.equal(module(x), before)
    assert twin.kernel == module.kernel


def storages(module):
    tensors = [*module.buffers(), *vars(getattr(module, "state", None) or object).values()]
    return {t.data_ptr() for t in tensors if isinstance(t, torch.Tensor) and t.numel() > 16}


@pytest.mark.skipif(sys.platform != "linux", reason="reads resident memory from /proc")
def test_copies_of_fbgemm_weights_take_memory():
    """In a process of its own: elsewhere copies land on pages that earlier tests have freed."""
    done = subprocess.run([sys.executable, "-c", COPIES], capture_output=True, text=True, check=True)
    assert float(done.stdout) > 0.8


COPIES = """
import copy, torch
from pathlib import Path
from ridgepoint.kernels.linear import find

def resident_bytes():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

(kernel,) = find("int8:dyn", "cpu")
module = kernel.pack(torch.randn(1024, 4096), None, "fp32", 0)
before = resident_bytes()
copies = [copy.deepcopy(module) for _ in range(8)]
print((resident_bytes() - before) / (len(copies) * 1024 * 4096))
"""


def test_packing_leaves_the_given_weight_alone():
    for (kernel,) in (find("fp32", "cpu"), find("int8", "cpu", "naive"), find("int4", "cpu", "packed")):
        weight, bias = weight_of(kernel)
        module = kernel.pack(weight, bias, kernel.acts[0], GROUP)
        expected = module.dequantised().clone()
        weight.zero_()
        bias.zero_()
        assert torch.equal(module.dequantised(), expected) and module.bias.any()


def test_zero_weights_stay_zero():
    for ladder in LADDERS.values():
        for kernel in ladder:
            if kernel.device == "cpu" and not kernel.available():
                module = kernel.pack(torch.zeros(N, K), None, kernel.acts[0], GROUP)
                y = module(torch.ones(2, K, dtype=TORCH_DTYPES[kernel.acts[0]]))
                assert y.abs().max() < 1e-4, kernel.name


@pytest.mark.parametrize("group", [32, 64, 128, 256])
@pytest.mark.parametrize("rung", ["naive", "packed"])
def test_int4_groups(group, rung):
    (kernel,) = find("int4", "cpu", rung)
    weight, _ = weight_of(kernel)
    module = kernel.pack(weight, None, "bf16", group)
    x = activations(kernel, "bf16", 3, K)
    assert relative_error(module(x), F.linear(x.float(), module.dequantised())) < TOLERANCE["bf16"]
    assert module.dequantised().unique(dim=1).shape[1] > 1


def test_both_int4_rungs_hold_the_same_weights():
    weight, _ = weight_of(find("int4", "cpu", "naive")[0])
    naive, packed = (
        find("int4", "cpu", rung)[0].pack(weight, None, "bf16", 32).dequantised() for rung in ("naive", "packed")
    )
    assert torch.allclose(naive, packed, atol=1e-7)


PROBE = """
import torch
from ridgepoint.kernels.linear import find
from ridgepoint.kernels.ladder import relative_error
torch.set_num_threads(1)
for format, n, k, group in (("int8", 1, 16, 0), ("int8", 33, 80, 0), ("int4", 16, 96, 32), ("int4", 48, 256, 256)):
    (kernel,) = find(format, "cpu", "packed")
    assert not kernel.check(n, k, group), kernel.check(n, k, group)
    module = kernel.pack(torch.randn(n, k), None, "bf16", group)
    for m in (1, 3, 5, 33):
        x = torch.randn(m, k).bfloat16()
        assert relative_error(module(x), torch.nn.functional.linear(x.float(), module.dequantised())) < 0.02
"""


def test_the_smallest_and_odd_shapes_that_check_allows_run():
    """In a child: a shape that the kernel does not take may crash the process rather than raise."""
    done = subprocess.run([sys.executable, "-c", PROBE], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("format", "rung", "n", "k", "group", "says"),
    [
        ("int8", "packed", 64, 100, 0, "96 or 112"),
        ("int4", "packed", 100, 128, 64, "96 or 112"),
        ("int4", "packed", 64, 576, 128, "groups of 32, 64 fit"),
        ("int4", "naive", 64, 64, 48, "groups of 32, 64, 128, 256 do"),
        ("nf4", "packed", 64, 100, 0, "64 or 128"),
        ("nf4", "packed", 30, 128, 0, "nearest: 32"),
    ],
)
def test_check_names_the_nearest_shape(format, rung, n, k, group, says):
    (kernel,) = find(format, "cpu", rung)
    assert says in kernel.check(n, k, group)


def test_check_accepts_common_shapes():
    for kernel in itertools.chain.from_iterable(LADDERS.values()):
        for n, k in ((576, 576), (1536, 576), (4096, 4096), (49152, 576), (11008, 4096)):
            assert kernel.check(n, k, 64) == ""


def test_multiple_reason():
    assert multiple_reason("k", 64, 32) == ""
    assert "nearest: 32)" in multiple_reason("k", 3, 32)
    assert "32 or 64" in multiple_reason("k", 33, 32)


def test_ladders_are_well_formed():
    seen = set()
    for name, ladder in LADDERS.items():
        for kernel in ladder:
            assert (
                kernel.format == name and kernel.acts and kernel.rung in ("dense", "naive", "packed", "ort", "emulated")
            )
            assert (kernel.name, kernel.device) not in seen
            seen.add((kernel.name, kernel.device))


def test_find():
    assert [k.rung for k in find("int8", "cpu")] == ["naive", "packed"]
    assert [k.name for k in find("int8", "cpu", name="torch._weight_int8pack_mm")] == ["torch._weight_int8pack_mm"]
    assert find("fp8", "cpu") == () and [k.rung for k in find("fp8", "cpu", rung="emulated")] == ["emulated"]
    with pytest.raises(UnknownName, match="int8"):
        find("int9", "cpu")
    with pytest.raises(UnknownName, match="torch._int_mm"):
        find("int8:dyn:token", "cpu", name="torch.int_mm")


def test_bitsandbytes_is_imported_when_used_and_prints_nothing():
    pytest.importorskip("bitsandbytes")
    code = (
        "import sys, torch, logging; from ridgepoint.kernels.linear import find; (k,) = find('nf4', 'cpu');"
        "assert 'bitsandbytes' not in sys.modules; k.pack(torch.randn(64, 64), None, 'bf16', 0);"
        "logging.getLogger('bitsandbytes.backends.cpu.ops').warning('still heard')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.strip().endswith("still heard") and "kernels-community" not in done.stderr + done.stdout


def test_rms_norm():
    x, norm = torch.randn(3, 8), RmsNorm(8, 1e-3)
    norm.weight.copy_(torch.randn(8))
    expected = x / (x.pow(2).mean(-1, keepdim=True) + 1e-3).sqrt() * norm.weight
    assert torch.allclose(norm(x), expected, atol=1e-6)


def test_rope_rotates_half_against_half():
    q, k = torch.randn(2, 4, 3, 8), torch.randn(2, 2, 3, 8)
    rope = Rope(8, theta=100.0, max_positions=16)
    for x, y in zip((q, k), rope(q, k, 5), strict=True):
        for t, i in itertools.product(range(3), range(4)):
            angle = torch.tensor((5 + t) * 100.0 ** (-2 * i / 8))
            rotated = torch.complex(x[:, :, t, i], x[:, :, t, i + 4]) * torch.polar(torch.tensor(1.0), angle)
            assert torch.allclose(y[:, :, t, i], rotated.real, atol=1e-5)
            assert torch.allclose(y[:, :, t, i + 4], rotated.imag, atol=1e-5)


def test_copies_of_rope_share_the_table():
    rope = Rope(8, max_positions=16)
    twin = copy.deepcopy(torch.nn.ModuleList([rope]))[0]
    assert twin is not rope and twin.cos.data_ptr() == rope.cos.data_ptr() and not rope.state_dict()
    assert torch.equal(
        twin(torch.ones(1, 1, 2, 8), torch.ones(1, 1, 2, 8), 3)[0],
        rope(torch.ones(1, 1, 2, 8), torch.ones(1, 1, 2, 8), 3)[0],
    )


def test_kv_write():
    caches = torch.zeros(2, 2, 3, 10, 4)
    k, v = torch.randn(2, 2, 3, 2, 4)
    keys, values = KvWrite()(k, v, caches[0], caches[1], 5)
    assert keys.shape == (2, 3, 7, 4) and torch.equal(keys[:, :, 5:], k) and torch.equal(values[:, :, 5:], v)
    assert torch.equal(caches[0][:, :, 5:7], k) and not caches[:, :, :, 7:].any() and not keys[:, :, :5].any()


def test_add_silu_mul_embedding():
    x, y = torch.randn(2, 5), torch.randn(2, 5)
    assert torch.equal(Add()(x, y), x + y)
    assert torch.allclose(SiluMul()(x, y), x * x.sigmoid() * y, atol=1e-6)
    table = Embedding(7, 3)
    table.weight.copy_(torch.randn(7, 3))
    assert torch.equal(table(torch.tensor([[6, 0]])), table.weight[[6, 0]][None])


@pytest.mark.parametrize("kernel", ["", "flash", "math", "grouped"])
@pytest.mark.parametrize(("new", "cached"), [(1, 6), (5, 0), (3, 4)])
def test_attention_is_causal_and_groups_heads(kernel, new, cached):
    q, k, v = torch.randn(2, 6, new, 8), torch.randn(2, 2, cached + new, 8), torch.randn(2, 2, cached + new, 8)
    seen = torch.ones(new, cached + new).tril(cached).bool()
    scores = (q @ k.repeat_interleave(3, 1).mT / 8**0.5).masked_fill(~seen, -torch.inf)
    expected = scores.softmax(-1) @ v.repeat_interleave(3, 1)
    mask = seen if new > 1 and cached else None
    assert torch.allclose(Attention(kernel)(q, k, v, mask), expected, atol=1e-5)


def test_attention_names_its_kernels():
    with pytest.raises(UnknownName, match="flash"):
        Attention("flahs")
    assert "" in ATTENTION_KERNELS
