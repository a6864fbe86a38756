"""Calibration of a GPU, stage by stage: the samples of a CPU's calibration plus launch costs and the device's state."""

import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from typing import Any

from ridgepoint.errors import NotSupported
from ridgepoint.measurement.calibrate.attention import ATTENTION_KERNELS
from ridgepoint.measurement.calibrate.cuda_device import bandwidth, device, peaks
from ridgepoint.measurement.calibrate.cuda_grid import CudaGrid, grid_named
from ridgepoint.measurement.calibrate.cuda_linear import linear
from ridgepoint.measurement.calibrate.cuda_watch import Watch, watch_for
from ridgepoint.measurement.calibrate.linear import DTYPES

__all__ = ["samples"]

Sample = dict[str, Any]


def samples(stage: str, limit_s: float, rehearse: bool = False) -> Iterator[tuple[str, Sample]]:
    """(title, sample) pairs of one stage of `cuda_grid.stages`; it ends by itself soon after `limit_s` seconds.

    What fails gives an `absent` sample with the reason and the stage goes on, unless the device itself is lost.
    """
    watch, grid = watch_for(rehearse), grid_named(rehearse)
    until = time.monotonic() + limit_s
    word, _, rest = stage.partition(" ")
    sources: dict[str, Callable[[], Iterator[Sample]]] = {
        "device": lambda: device(watch, rehearse),
        "bandwidth": lambda: bandwidth(watch, grid.memory_bytes),
        "peak": lambda: peaks(watch, grid.peak),
        "linear": lambda: linear(watch, grid, grid.probes[int(rest)], until),
        "pointwise": lambda: _pointwise(watch, grid, rest, until),
        "attention": lambda: _attention(watch, grid, *rest.split(), until),
        "networks": lambda: _networks(watch, grid, until),
        "again": lambda: _again(watch, grid, until),
    }
    source = sources[word]()
    while True:
        try:
            sample = next(source)
        except StopIteration:
            return
        except NotSupported as reason:
            if word == "device":
                raise
            yield stage, {"probe": "absent", "of": stage, "absent": str(reason)}
            return
        except Exception as error:  # a kernel or an interface that this torch does not have ends its stage only
            watch.check()
            reason = str(error).splitlines()[0] if str(error) else ""
            yield stage, {"probe": "absent", "of": stage, "absent": f"{type(error).__name__}: {reason}"}
            return
        yield stage, {"round": 0, **sample}


def _pointwise(watch: Watch, grid: CudaGrid, act: str, until: float) -> Iterator[Sample]:
    """Each kind at each shape, inputs rotated; launch cost at the smallest shape."""
    import torch

    from ridgepoint.measurement.calibrate.pointwise import KINDS

    dtype = getattr(torch, DTYPES[act])
    for rows, cols in grid.pointwise:
        for kind, build in KINDS.items():
            if time.monotonic() > until:
                return
            with torch.device(watch.device):
                steps = [build(rows, cols, dtype)[0] for _ in range(_COPIES)]
            span = watch.span(steps, 0.004)
            yield {"probe": "pointwise", "kind": kind, "act": act, "rows": rows, "cols": cols, **span.fields()}
            if (rows, cols) == grid.pointwise[0]:
                yield launch(watch, kind, act, steps)


_COPIES = 4


def _attention(watch: Watch, grid: CudaGrid, kernel: str, act: str, until: float) -> Iterator[Sample]:
    """Decode and prefill shapes in turn, so that a truncated stage has some of both."""
    import torch

    from ridgepoint.kernels.attention import Attention

    module = Attention(ATTENTION_KERNELS[kernel])
    dtype = getattr(torch, DTYPES[act])
    shapes = [(("decode", s), ("prefill", p)) for s, p in zip(grid.decode, grid.prefill, strict=False)]
    flat = [item for pair in shapes for item in pair]
    flat += [("decode", s) for s in grid.decode[len(grid.prefill) :]]
    for i, (phase, shape) in enumerate(flat):
        if time.monotonic() > until:
            return
        steps = _attention_steps(module, watch, phase, shape, dtype)
        b, heads, kv_heads, d, length = shape
        yield {
            "probe": "attention", "kernel": kernel, "act": act, "phase": phase, "batch": b, "heads": heads,
            "kv_heads": kv_heads, "head_dim": d, "length": length, **watch.span(steps, 0.008).fields(),
        }  # fmt: skip
        if i == 0:
            yield launch(watch, f"attention {kernel}", act, steps)


def _attention_steps(
    module: Any, watch: Watch, phase: str, shape: tuple[int, ...], dtype: Any
) -> list[Callable[[], object]]:
    """Keys and values are views of longer caches; enough of them that together they exceed the L2."""
    import torch

    b, heads, kv_heads, d, length = shape
    new = 1 if phase == "decode" else length
    size = 2 * b * kv_heads * (length + _SPARE) * d * 2
    copies = max(2, min(24, int(3 * watch.l2_bytes / size)))
    steps: list[Callable[[], object]] = []
    for _ in range(copies):
        q = torch.randn(b, new, heads, d, device=watch.device).to(dtype).transpose(1, 2)
        k, v = (
            torch.randn(b, kv_heads, length + _SPARE, d, device=watch.device).to(dtype)[:, :, :length] for _ in range(2)
        )
        steps.append(lambda q=q, k=k, v=v: module(q, k, v))  # type: ignore[misc]
    return steps


_SPARE = 64


def launch(watch: Watch, subject: str, act: str, steps: list[Callable[[], object]], m: int = 1) -> Sample:
    """The sample of an eager launch."""
    return {"probe": "launch", "subject": subject, "act": act, "m": m, "host_s": watch.host_s(steps)}


def _networks(watch: Watch, grid: CudaGrid, until: float) -> Iterator[Sample]:
    """Small decoders run whole: as CUDA graphs (what a network adds on the device) and eagerly (what it adds here)."""
    for spec in grid.sides:
        for net in grid.composed:
            if time.monotonic() > until:
                return
            try:
                yield from _network(watch, spec, net)
            except Exception as error:  # one format that cannot run must not take the others along
                watch.check()
                yield {"probe": "absent", "of": f"network {spec}", "absent": f"{type(error).__name__}: {error}"[:300]}


def _network(watch: Watch, spec: str, net: Any) -> Iterator[Sample]:
    from ridgepoint.choice import resolve
    from ridgepoint.measurement.calibrate.composed import composed_decoder
    from ridgepoint.measurement.runnable import build_weights, runnable
    from ridgepoint.workload import decode

    full = spec if watch.device == "cpu" else f"{spec}+graph"
    side, decoder = resolve(full, "bf16", watch.device), composed_decoder(net)
    weights = build_weights(decoder, side, decode(1, net.context), {})
    for batch in net.batches:
        run = runnable(decoder, side, decode(batch, net.context), weights)
        head = {"net": asdict(net), "batch": batch, "side": full, "device": watch.device}
        if run.flags:
            yield {"probe": "absent", "of": f"network {spec}", "absent": run.flags[0]}
        else:
            yield {"probe": "composed", **head, **watch.whole(run.call).fields()}
        yield {"probe": "composed_host", **head, "host_s": _host_s(watch, run.plain)}


def _host_s(watch: Watch, step: Callable[[], object]) -> float:
    """Wall time until an eager step is launched, the device idle before: the median of a few."""
    times = []
    for _ in range(9):
        watch.check()
        start = time.perf_counter()
        step()
        times.append(time.perf_counter() - start)
    watch.check()
    return sorted(times[2:])[3]


def _again(watch: Watch, grid: CudaGrid, until: float) -> Iterator[Sample]:
    """Some linear points a second time, minutes later: do two runs agree?"""
    for probe in grid.probes[:2]:
        for sample in linear(watch, grid, probe, until, shapes=3, rows=(1, 16, 256)):
            if sample["probe"] == "linear":
                yield {**sample, "round": 1}
