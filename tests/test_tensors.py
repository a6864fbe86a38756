"""Bytes of a model and of its activations are what one counts by hand."""

import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402

from ridgepoint.kernels.linear import LADDERS  # noqa: E402
from ridgepoint.measurement.tensors import activation_bytes, stored_bytes  # noqa: E402
from ridgepoint.workload.format import format_named  # noqa: E402

MIB = 2**20


def test_shared_storages_count_once():
    head, table = nn.Linear(64, 1000, bias=False), nn.Embedding(1000, 64)
    table.weight = head.weight
    assert stored_bytes(nn.ModuleList([head, table])) == 4 * 64 * 1000
    view = nn.Module()
    view.register_buffer("part", torch.zeros(100)[:10])
    assert stored_bytes(view) == 400, "a view holds its whole storage"


HERE = [k for ladder in LADDERS.values() for k in ladder if k.device == "cpu" and not k.available()]


@pytest.mark.parametrize("kernel", HERE, ids=lambda k: f"{k.format} {k.name}")
def test_packed_kernels_store_what_their_format_says(kernel):
    n, k, group = 256, 512, 32 if kernel.format == "int4" else 0
    layer = kernel.pack(torch.randn(n, k), None, kernel.acts[0], group)
    names = {"int4": f"int4:g{group}", "csr": "csr:0.0"}  # of random weights none is zero
    expected = format_named(names.get(kernel.format, kernel.format)).weight_bytes(n, k)
    assert stored_bytes(layer) == pytest.approx(expected, rel=0.08), "bitsandbytes keeps its scales in bf16 on a CPU"


def test_activations_are_the_most_that_is_alive_at_once():
    def both() -> object:
        one = torch.empty(MIB, dtype=torch.uint8)
        return one, torch.empty(2 * MIB, dtype=torch.uint8)

    def in_turn() -> object:
        for _ in range(3):
            torch.empty(MIB, dtype=torch.uint8)
        return None

    assert activation_bytes(both) == pytest.approx(3 * MIB, rel=0.01)
    assert activation_bytes(in_turn) == pytest.approx(MIB, rel=0.01)
