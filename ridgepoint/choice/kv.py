"""In which format keys and values are cached: `kv:int8`, `kv:fp8`, `kv:int4`; unsaid, the dtype of the activations."""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

from ridgepoint.choice.base import Metal, Words, no_more_words
from ridgepoint.errors import NotSupported, UnknownName
from ridgepoint.workload import CACHE_FORMATS, DTYPE_BYTES, Attention, Decoder, Op, Plan, Pointwise

if TYPE_CHECKING:
    from torch import nn

__all__ = ["KvCacheFormat"]


@dataclass(frozen=True, slots=True)
class KvCacheFormat:
    """New tokens are quantised as they are written, and the whole cache is dequantised at every step before attention, as
    no kernel here reads such a cache itself; serving stacks of datasheet targets have one for fp8."""

    format: str

    NAMES: ClassVar[tuple[str, ...]] = ("kv",)
    AXIS: ClassVar[str] = "kv"

    @classmethod
    def parse(cls, name: str, words: Words) -> "KvCacheFormat":
        no_more_words(name, tuple(w for w in words[:1] if w.key) + words[1:])
        wanted = words[0].value if words else ""
        if wanted not in CACHE_FORMATS:
            raise UnknownName("KV cache format", wanted, CACHE_FORMATS, "as in kv:int8")
        return cls(wanted)

    @property
    def spelled(self) -> str:
        return f"kv:{self.format}"

    def acts(self, device: str) -> tuple[str, ...]:
        return ()

    def check(self, plan: Plan) -> None:
        if not isinstance(plan.workload, Decoder) or plan.step.phase == "train":
            what = f"a training step of {plan.workload.name}" if plan.step.phase == "train" else plan.workload.name
            raise NotSupported(f"{what} caches no keys and values, so {self.spelled} changes nothing; leave it out")
        if plan.launch == "compile":
            raise NotSupported(f"{self.spelled} is not run inside a compiled step yet; leave it or compile out")

    def on_paper(self, plan: Plan) -> Plan:
        """Writes cost more, and a row `kv_read` stands before each attention, which reads what that leaves."""

        def rewrite(op: Op) -> Op | tuple[Op, ...]:
            if isinstance(op, Pointwise) and op.kind == "kv_write":
                return replace(op, kind=f"kv_write_{self.format}", traffic=_traffic(op, self.format))
            if isinstance(op, Attention) and op.causal and op.sweep == "forward":
                return self._read(op), replace(op, cached="copy")
            return op

        return replace(plan, cache=self.format).rewritten(rewrite)

    def _read(self, op: Attention) -> Pointwise:
        rows = sum((g.count * g.keys(op.window) for g in op.groups), start=0.0)
        width = op.head_dim if op.shared else op.head_dim + (op.value_dim or op.head_dim)
        name = op.name.replace("attention", "kv_read", 1)
        read = Pointwise(name, "cache", f"kv_read_{self.format}", rows, op.kv_heads * width, op.dtype, op.count)
        return replace(read, traffic=_traffic(read, self.format))

    def on_metal(self, model: "nn.Module", plan: Plan, metal: Metal) -> "nn.Module":
        from ridgepoint.engine.cache import quantise_cache

        return quantise_cache(model, plan.dtype)


def _traffic(op: Pointwise, format: str) -> float:
    """Elements that pass: those of the activations' dtype, and the codes in the same unit."""
    width, _ = CACHE_FORMATS[format]
    return op.rows * op.cols * (1 + width / DTYPE_BYTES[op.dtype])  # type: ignore[return-value]
