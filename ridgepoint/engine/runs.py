"""Which workloads the engine runs, told without torch: everything else is predicted only."""

from ridgepoint.errors import NotSupported
from ridgepoint.workload import Decoder, Linear, LinearLayer, Plan, Traced, Workload

__all__ = ["check_adapters", "check_runs", "check_trains"]


def check_runs(workload: Workload) -> None:
    """NotSupported, in one sentence, for a workload that is predicted but has no code here that runs it."""
    what = (
        ""
        if isinstance(workload, LinearLayer | Traced)
        else _decoder(workload)
        if isinstance(workload, Decoder)
        else "an encoder"
    )
    if what:
        raise NotSupported(f"{workload.name} is {what}: it is predicted (`ridge predict`), but does not run here yet")


def _decoder(decoder: Decoder) -> str:
    if decoder.embedding_size:
        return "a decoder with narrow embeddings"
    for block in decoder.blocks:
        if block.mlp.routing is not None:
            return "a mixture of experts"
        if block.attention.latent is not None:
            return "a decoder with latent attention (MLA)"
        if block.attention.softcap:
            return "a decoder with capped attention scores"
    return ""


def check_adapters(plan: Plan) -> None:
    """NotSupported for several adapters in one batch, and for adapters beside packed weights in a step that trains nothing."""
    linears = [op for op in plan.layer_inputs if isinstance(op, Linear) and op.rank]
    if several := [op.adapters for op in linears if op.adapters > 1]:
        raise NotSupported(
            f"{several[0]} adapters in one batch are predicted, not run here: --predict-only shows them, or leave adapters= out"
        )
    packed = sorted({op.weight for op in linears if op.weight != op.dtype})
    if packed and plan.step.phase != "train":
        raise NotSupported(f"adapters beside {', '.join(packed)} kernels are predicted, not run here; leave one out")


def check_trains(plan: Plan) -> None:
    """NotSupported for a training step that the engine has no code for: other models, fp16, packed weights, a GPU."""
    check_runs(plan.workload)
    if not isinstance(plan.workload, Decoder):
        raise NotSupported(f"{plan.workload.name} is no language model: its training step is not run here")
    if plan.device != "cpu":
        raise NotSupported("a training step is measured on the CPU only so far; --predict-only predicts it elsewhere")
    if plan.dtype == "fp16":
        raise NotSupported("fp16 needs its loss scaled, which is not built; bf16 and fp32 train")
    formats = {op.weight for op in plan.layer_inputs if isinstance(op, Linear) and (op.trained or not op.rank)}
    packed = formats - {plan.dtype}
    linears = [op for op in plan.layer_inputs if isinstance(op, Linear) and op.weight != plan.dtype]
    if packed or any(op.weight != "nf4" for op in linears):
        names = ", ".join(sorted(packed | {op.weight for op in linears}))
        raise NotSupported(
            f"weights in {names} have no gradient in their kernels; lora trains beside {plan.dtype}, qlora beside NF4"
        )
