"""A training step to be timed, and what it holds: states of the optimizer, what autograd keeps, gradients."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from ridgepoint.measurement.tensors import activation_bytes, stored_bytes
from ridgepoint.workload import Plan

if TYPE_CHECKING:
    from torch import Tensor, nn

    from ridgepoint.engine.training import Trainer

__all__ = ["Held", "TrainingRun", "held_bytes", "training_run"]


@dataclass(frozen=True)
class TrainingRun:
    """`step(model)` is one whole step: forward, loss, gradients, update, gradients dropped."""

    trainer: "Trainer"
    step: Callable[["nn.Module"], object]
    tokens: "Tensor"
    targets: "Tensor"

    def held(self) -> dict[str, int]:
        """`held_bytes` as plain figures."""
        return asdict(held_bytes(self))


def training_run(plan: Plan, model: "nn.Module") -> TrainingRun:
    """The step of the plan on random tokens, every position predicting another random token.

    Autograd runs the backward pass of a graph without a GPU in the calling thread, so that the thread's CPU time sees all
    of the step. The first step, which makes the optimizer's states, is run here.
    """
    import torch

    from ridgepoint.engine.training import make_trainer, train_step

    (group,) = plan.step.groups
    shape = (int(group.count), int(group.new))
    vocabulary = plan.workload.vocab_size  # type: ignore[attr-defined]  # a decoder's
    tokens, targets = (torch.randint(0, vocabulary, shape) for _ in range(2))
    trainer = make_trainer(model, plan.recompute)

    def step(_: "nn.Module") -> object:
        return train_step(trainer, tokens, targets)

    step(model)
    return TrainingRun(trainer, step, tokens, targets)


@dataclass(frozen=True, slots=True)
class Held:
    """Counted bytes of one step. `kept`: what autograd keeps when the forward pass is over, each storage once, without the
    parameters; `gradients`: when all are there; `peak`: the most that model, states and step hold at a time."""

    weights: int
    states: int
    gradients: int
    kept: int
    peak: int


def held_bytes(run: TrainingRun) -> Held:
    """Counts of one step of the run; the model is trained by one step meanwhile."""
    from ridgepoint.engine.training import state_bytes, train_step

    trainer = run.trainer
    kept = _kept_bytes(trainer, run.tokens, run.targets)
    gradients = sum(p.numel() * p.element_size() for p in trainer.model.parameters() if p.requires_grad)
    weights, states = stored_bytes(trainer.model), state_bytes(trainer)
    most = activation_bytes(lambda: train_step(trainer, run.tokens, run.targets))
    return Held(weights, states, gradients, kept, weights + states + most)


def _kept_bytes(trainer: "Trainer", tokens_BT: "Tensor", targets_BT: "Tensor") -> int:
    """Storages that autograd has packed and holds at the end of the forward pass, parameters and buffers left out."""
    import torch

    from ridgepoint.engine.training import loss_of

    ours = {t.untyped_storage().data_ptr() for t in (*trainer.model.parameters(), *trainer.model.buffers())}
    found: dict[int, int] = {}

    def pack(tensor: Any) -> Any:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in ours:
            found[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = loss_of(trainer, tokens_BT, targets_BT)
    del loss
    return sum(found.values())
