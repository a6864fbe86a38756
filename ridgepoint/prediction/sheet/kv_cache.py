"""A quantised KV cache in serving stacks: their attention kernels read fp8 themselves, and no other format is modelled."""

from collections.abc import Sequence
from dataclasses import replace

from ridgepoint.errors import NotSupported
from ridgepoint.workload import Attention, Op, Pointwise

__all__ = ["with_fused_cache"]

_FUSED = ("fp8",)


def with_fused_cache(ops: Sequence[Op], framework: str) -> tuple[Op, ...]:
    """The same operators with attention that reads the cache in its format and writes that quantise on the way.

    NotSupported for a format that no modelled attention kernel reads. Ignored: the arithmetic of scaling.
    """
    out: list[Op] = []
    for op in ops:
        kind, _, format = op.kind.rpartition("_")
        if isinstance(op, Pointwise) and kind in ("kv_read", "kv_write"):
            if format not in _FUSED or framework == "pytorch":
                raise NotSupported(
                    f"a KV cache in {format}: no attention kernel of {framework} that reads it is modelled; kv:fp8 of vllm, "
                    "sglang and trtllm is"
                )
            if kind == "kv_write":
                out.append(replace(op, kind=kind, traffic=0.0))
        elif isinstance(op, Attention) and op.cached == "copy":
            out.append(replace(op, cached="fp8"))
        else:
            out.append(op)
    return tuple(out)
