"""A training step: forward without a cache, cross entropy in fp32, torch's autograd, AdamW in one fused pass."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ridgepoint.engine.adapters import adapter_parameters
from ridgepoint.engine.models.decoder import DecoderModel

__all__ = ["LEARNING_RATE", "Trainer", "loss_of", "make_trainer", "state_bytes", "train_step"]

LEARNING_RATE = 1e-4


@dataclass(frozen=True)
class Trainer:
    """A model in training mode with its optimizer; `recompute`: layers keep their input only."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    recompute: bool


def make_trainer(model: nn.Module, recompute: bool, learning_rate: float = LEARNING_RATE) -> Trainer:
    """Trains the adapters if the model has any, else every parameter.

    AdamW with torch's defaults (betas 0.9 and 0.999, weight decay 0.01) and `fused=True`, one pass over each tensor. It
    keeps both moments in the dtype of the parameter: of bf16 weights weights, gradients and moments are all bf16, and there
    is no fp32 master copy, as wherever a bf16 model is handed to torch's AdamW.
    """
    adapters = adapter_parameters(model)
    for name, parameter in model.named_parameters():
        if parameter.is_floating_point():
            parameter.requires_grad_(not adapters or name in adapters)
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=learning_rate, fused=True)
    return Trainer(model.train(), optimizer, recompute)


def loss_of(trainer: Trainer, tokens_BT: Tensor, targets_BT: Tensor) -> Tensor:
    """Mean cross entropy in nats per token, over all positions, in fp32."""
    model = trainer.model
    assert isinstance(model, DecoderModel), "the engine trains decoders"
    return F.cross_entropy(model.training_logits(tokens_BT, trainer.recompute).float(), targets_BT.reshape(-1))


def train_step(trainer: Trainer, tokens_BT: Tensor, targets_BT: Tensor) -> Tensor:
    """Forward, loss, gradients, update, and the gradients dropped; gives the loss before the update, detached."""
    with torch.enable_grad():
        loss = loss_of(trainer, tokens_BT, targets_BT)
        loss.backward()
    trainer.optimizer.step()
    trainer.optimizer.zero_grad()
    return loss.detach()


def state_bytes(trainer: Trainer) -> int:
    """Bytes of the optimizer's states, which are there after the first step."""
    states = (value for state in trainer.optimizer.state.values() for value in state.values())
    return sum(value.nbytes for value in states if isinstance(value, Tensor))
