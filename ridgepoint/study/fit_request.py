"""What is asked of a device's memory: a model to serve or to train, settled, with the answer for one target."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from ridgepoint.choice import parse_choices, resolve
from ridgepoint.choice.kv import KvCacheFormat
from ridgepoint.errors import BadInput, NotSupported
from ridgepoint.hardware import Target
from ridgepoint.prediction.capacity import (
    MOST_USERS,
    Need,
    most_context,
    most_users,
    serving,
    stage_needs,
    usable_bytes,
)
from ridgepoint.prediction.capacity_runtime import ASSUMPTIONS, Runtime, runtime_for
from ridgepoint.prediction.capacity_split import Split
from ridgepoint.prediction.capacity_training import (
    MOST_MICRO_BATCH,
    Recipe,
    most_micro_batch,
    most_seq,
    training,
    training_needs,
)
from ridgepoint.workload import Decoder, Plan, decode, stored_of

__all__ = ["Assumed", "Outcome", "ServingRequest", "TrainingRequest", "check_with", "spelled", "without_cache"]


@dataclass(frozen=True)
class Assumed:
    """Figures that no formula gives, as the user set them or as `ASSUMPTIONS` has them; `None` is the latter."""

    reserve: float | None = None
    context_gib: float | None = None
    collectives_gib: float | None = None
    graphs_gib: float | None = None

    def value(self, name: str) -> float:
        """The figure of that name."""
        own = getattr(self, name)
        return ASSUMPTIONS[name].value if own is None else float(own)

    def runtime(self, target: Target, devices: int, training: bool) -> Runtime:
        """What they mean on this target."""
        return runtime_for(
            target.kind, devices, training, self.value("reserve"), self.value("context_gib"),
            self.value("collectives_gib"), self.value("graphs_gib"),
        )  # fmt: skip

    def check(self) -> None:
        """Refuse shares and sizes that cannot be."""
        if not 0 <= self.value("reserve") < 1:
            raise BadInput(f"--reserve is {self.value('reserve'):g}; possible is a share from 0 to below 1, as 0.08")
        for name in ("context_gib", "collectives_gib", "graphs_gib"):
            if not 0 <= self.value(name) <= 1024:
                raise BadInput(f"{ASSUMPTIONS[name].flag} is {self.value(name):g}; possible is 0 to 1024 GiB")


@dataclass(frozen=True)
class Outcome:
    """Whether it fits on one target: the fullest device's account, and how far each count can go.

    `limits`: the most of each count, all else as asked; `ends`: where the count ends for another reason than memory.
    """

    need: Need
    usable_bytes: float
    limits: dict[str, int]
    ends: dict[str, int]

    @property
    def spare_bytes(self) -> float:
        """Bytes left; negative where it does not fit."""
        return self.usable_bytes - float(self.need.total_bytes)

    @property
    def fits(self) -> bool:
        """Whether all of it fits."""
        return self.spare_bytes >= 0


@dataclass(frozen=True)
class ServingRequest:
    """`users` sequences of `context` tokens (prompt and answer together) at once, on `split` devices."""

    model: Decoder
    context: int
    users: int
    with_: str = ""
    kv_dtype: str = ""
    chunk: int = int(ASSUMPTIONS["chunk"].value)
    split: Split = field(default_factory=Split)
    assumed: Assumed = field(default_factory=Assumed)

    def plan(self, target: Target) -> Plan:
        """The weights' formats on this target; NotSupported where a choice does not take the model or the device."""
        return _plan(self.model, self.with_, target)

    def outcome(self, target: Target) -> Outcome:
        """The account on this target."""
        plan = self.plan(target)
        runtime = self.assumed.runtime(target, self.split.devices, training=False)
        laid = serving(self.model, plan, self.split, self.kv_dtype or plan.dtype, self.chunk, runtime)
        usable = usable_bytes(memory_of(target), runtime)
        needs = stage_needs(laid, self.context, self.users)
        limits = {
            "context": most_context(laid, self.users, usable),
            "users": most_users(laid, self.context, usable),
        }
        return Outcome(
            max(needs, key=lambda need: float(need.total_bytes)), usable, limits,
            {"context": self.model.max_position_embeddings, "users": MOST_USERS},
        )  # fmt: skip


@dataclass(frozen=True)
class TrainingRequest:
    """Micro-batches of `micro_batch` sequences of `seq` tokens, by `recipe`, on `split` devices."""

    model: Decoder
    seq: int
    micro_batch: int
    recipe: Recipe = field(default_factory=Recipe)
    with_: str = ""
    split: Split = field(default_factory=Split)
    assumed: Assumed = field(default_factory=Assumed)

    def plan(self, target: Target) -> Plan:
        """The computation's dtype, and NF4 for a quantised base."""
        quantised = "+".join(filter(None, (self.with_, "nf4"))) if self.recipe.quantised else self.with_
        return _plan(self.model, quantised, target)

    def outcome(self, target: Target) -> Outcome:
        """The account on this target."""
        plan = self.plan(target)
        runtime = self.assumed.runtime(target, self.split.devices, training=True)
        laid = training(self.model, plan, self.split, self.recipe, runtime)
        usable = usable_bytes(memory_of(target), runtime)
        needs = training_needs(laid, self.seq, self.micro_batch)
        limits = {
            "micro_batch": most_micro_batch(laid, self.seq, usable),
            "seq": most_seq(laid, self.micro_batch, usable),
        }
        return Outcome(
            max(needs, key=lambda need: float(need.total_bytes)), usable, limits,
            {"micro_batch": MOST_MICRO_BATCH, "seq": self.model.max_position_embeddings},
        )  # fmt: skip

    def with_recipe(self, changes: Mapping[str, object]) -> "TrainingRequest":
        """The same with some of the recipe's fields changed."""
        return replace(self, recipe=replace(self.recipe, **changes))  # type: ignore[arg-type]


def memory_of(target: Target) -> float:
    """Bytes of one device's memory, or NotSupported that says what is absent."""
    if target.memory_bytes is None:
        raise NotSupported(
            f"target {target.name} has no memory_bytes in its file, so nothing can be said to fit; add it with its source"
        )
    return target.memory_bytes


def check_with(with_: str, axes: tuple[str, ...], what: str) -> None:
    """Refuse choices that change nothing of what is stored."""
    for choice in parse_choices(with_):
        if choice.AXIS not in axes:
            known = " and the format of the weights" if "weights" in axes else ""
            raise BadInput(f"{choice.spelled} does not belong to {what}; --with takes the base dtype{known} here")


def without_cache(with_: str, kv_dtype: str) -> tuple[str, str]:
    """The side without its `kv:…`, and the format of the cache; BadInput where --kv-dtype says another."""
    choices = parse_choices(with_)
    named = next((c for c in choices if isinstance(c, KvCacheFormat)), None)
    if named is None:
        return with_, kv_dtype
    if kv_dtype and kv_dtype != named.format:
        raise BadInput(f"--with says {named.spelled} and --kv-dtype {kv_dtype}; say one")
    return "+".join(c.spelled for c in choices if c is not named), named.format


def spelled(with_: str, plan: Plan) -> str:
    """The side in full: base dtype first, then the format of the weights."""
    others = [c.spelled for c in parse_choices(with_) if c.AXIS != "dtype"]
    return "+".join((plan.dtype, *others))


def _plan(model: Decoder, with_: str, target: Target) -> Plan:
    device = "cpu" if target.kind == "cpu" else "cuda"
    return resolve(with_, model.dtype, device, checkpoint=stored_of(model)).plan(model, decode(1, 1))
