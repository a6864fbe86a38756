"""Every kind of published table, and which of them a table is, by its columns."""

from collections.abc import Mapping

from ridgepoint.errors import BadInput
from ridgepoint.study.published.attention_chunked import ATTENTION_CHUNKED
from ridgepoint.study.published.attention_decode import ATTENTION_DECODE
from ridgepoint.study.published.attention_encoder import ATTENTION_ENCODER
from ridgepoint.study.published.attention_prefill import ATTENTION_PREFILL
from ridgepoint.study.published.collectives import COLLECTIVES
from ridgepoint.study.published.elementwise import ELEMENTWISE
from ridgepoint.study.published.gemm import GEMM
from ridgepoint.study.published.kind import Kind
from ridgepoint.study.published.moe import MOE
from ridgepoint.study.published.table import Table

__all__ = ["KINDS", "kind_of"]

KINDS: Mapping[str, Kind] = {
    kind.name: kind
    for kind in (
        GEMM, ATTENTION_CHUNKED, ATTENTION_PREFILL, ATTENTION_DECODE, ATTENTION_ENCODER, MOE, COLLECTIVES, ELEMENTWISE,
    )
}  # fmt: skip


def kind_of(table: Table) -> Kind:
    """The kind whose columns the table has; BadInput says which columns would make it one.

    Prefill and decode attention have the same columns: a table in which no row has more than one new token is decode.
    """
    fitting = [kind for kind in KINDS.values() if table.has(*kind.columns)]
    if ATTENTION_DECODE in fitting and ATTENTION_PREFILL in fitting:
        new = table.number("q_len")
        return ATTENTION_DECODE if len(table) and (new <= 1).all() else ATTENTION_PREFILL
    if not fitting:
        wanted = "; ".join(f"{kind.name}: {', '.join(kind.columns)}" for kind in KINDS.values())
        raise BadInput(f"{table.path.name}: its columns make it no table of operators; possible are {wanted}")
    return fitting[0]
