"""Which workloads the engine runs, told without torch: everything else is predicted only."""

from ridgepoint.errors import NotSupported
from ridgepoint.workload import Decoder, LinearLayer, Traced, Workload

__all__ = ["check_runs"]


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
