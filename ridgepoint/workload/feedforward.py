"""Feed-forward layers of language models: gated or plain, one or a mixture of experts, as operators."""

from dataclasses import dataclass

import numpy as np

from ridgepoint.quantity import Array
from ridgepoint.workload.op import Linear, Op, Pointwise, Role
from ridgepoint.workload.step import Step

__all__ = ["MlpSpec", "Routing"]


@dataclass(frozen=True)
class Routing:
    """A mixture of experts: each token takes `num_experts_per_tok` of `num_experts`, and the shared expert, if any.

    `shared_gate`: the shared expert's output is scaled by a learned gate. `router_bias`: one number per expert corrects
    the choice (DeepSeek-V3).
    """

    num_experts: int
    num_experts_per_tok: int
    shared_intermediate_size: int = 0
    shared_gate: bool = False
    router_bias: bool = False

    def active(self, tokens: Array) -> Array:
        """Distinct experts that `tokens` reach in the mean, if each chooses its own evenly and independently."""
        missed = 1.0 - self.num_experts_per_tok / self.num_experts
        return self.num_experts * (1.0 - np.power(missed, tokens))


@dataclass(frozen=True)
class MlpSpec:
    """down(act(gate(x)) * up(x)), or without a gate down(act(up(x))).

    `act`: silu, gelu (either form) or relu. `fused`: one projection gives gate and up.
    """

    intermediate_size: int
    bias: bool = False
    gated: bool = True
    act: str = "silu"
    fused: bool = False
    routing: Routing | None = None
    """With it, everything above is of one expert."""

    def parameters(self, hidden: int) -> int:
        """Weights and biases of all projections, of all experts and of the router."""
        if self.routing is None:
            return self._expert_parameters(hidden, self.intermediate_size)
        r = self.routing
        router = hidden * r.num_experts + (r.num_experts if r.router_bias else 0) + (hidden if r.shared_gate else 0)
        shared = self._expert_parameters(hidden, r.shared_intermediate_size) if r.shared_intermediate_size else 0
        return router + shared + r.num_experts * self._expert_parameters(hidden, self.intermediate_size)

    def _expert_parameters(self, hidden: int, wide: int) -> int:
        into = 2 if self.gated else 1
        return (into + 1) * hidden * wide + (into * wide + hidden if self.bias else 0)

    def ops(self, step: Step, hidden: int, dtype: str, count: int) -> tuple[Op, ...]:
        """Projections and activation; with routing the router first, then the experts, then the shared one."""
        m, wide = step.tokens, self.intermediate_size
        if self.routing is None:
            return self._layer("", m, wide, hidden, dtype, count)
        r = self.routing
        router = (
            Linear("router", "other", m, r.num_experts, hidden, dtype, dtype, bias=r.router_bias, count=count),
            Pointwise("route", "other", "route", m, r.num_experts, dtype, count),
        )
        routed = self._layer(
            "expert_", m * r.num_experts_per_tok, wide, hidden, dtype, count, r.num_experts, r.active(m),
            r.num_experts_per_tok,
        )  # fmt: skip
        combine = Pointwise("combine", "residual", "add", m * r.num_experts_per_tok, hidden, dtype, count)
        shared: tuple[Op, ...] = ()
        if r.shared_intermediate_size:
            gate = (Linear("shared_gate", "other", m, 1, hidden, dtype, dtype, count=count),) if r.shared_gate else ()
            shared = (*self._layer("shared_", m, r.shared_intermediate_size, hidden, dtype, count), *gate)
        return *router, *routed, combine, *shared

    def _layer(
        self, stem: str, m: Array, wide: int, hidden: int, dtype: str, count: int, experts: int = 1, active: Array = 1.0,
        chosen: int = 1,
    ) -> tuple[Op, ...]:  # fmt: skip
        def linear(name: str, role: Role, n: int, k: int) -> Linear:
            return Linear(
                stem + name, role, m, n, k, dtype, dtype, bias=self.bias, count=count, experts=experts, active=active,
                chosen=chosen,
            )  # fmt: skip

        into = [linear("up_proj", "mlp.in", wide, hidden)]
        if self.gated:
            gate_up = [linear("gate_proj", "mlp.in", wide, hidden), *into]
            into = [linear("gate_up_proj", "mlp.in", 2 * wide, hidden)] if self.fused else gate_up
        kind = f"{self.act}_mul" if self.gated else self.act
        act = Pointwise(stem + kind, "mlp.act", kind, m, wide, dtype, count)
        return *into, act, linear("down_proj", "mlp.out", hidden, wide)
