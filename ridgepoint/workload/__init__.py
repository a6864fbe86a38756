"""Workloads: what has to be computed, as operators with their shapes, FLOPs and bytes."""

from ridgepoint.workload.collective import Collective
from ridgepoint.workload.contraction import Conv, Matmul
from ridgepoint.workload.decoder import AttentionSpec, Block, Decoder, Latent, MlpSpec, Routing
from ridgepoint.workload.encoder import Encoder
from ridgepoint.workload.format import (
    CACHE_FORMATS,
    DTYPE_BYTES,
    DTYPES,
    INT4_GROUPS,
    Format,
    arithmetic_dtype,
    format_named,
    ladder_named,
)
from ridgepoint.workload.fused import Fused
from ridgepoint.workload.layout import LAST_KINDS, laid_out
from ridgepoint.workload.op import POINTWISE, Attention, Linear, Op, Pointwise, Role, Sweep
from ridgepoint.workload.operator import LinearLayer
from ridgepoint.workload.parallel import ALONE, Parallel, sharded
from ridgepoint.workload.plan import Plan, Rewrite, Workload
from ridgepoint.workload.source import (
    calibration_text,
    catalogue_names,
    heldout_text,
    load_model,
    trained_names,
    weights_directory,
)
from ridgepoint.workload.step import Group, Step, decode, forward, mixed, prefill, train
from ridgepoint.workload.stored import StoredFormat, stored_format, stored_of
from ridgepoint.workload.traced import Call, Traced
from ridgepoint.workload.training import trained_parameters

__all__ = [
    "ALONE",
    "CACHE_FORMATS",
    "DTYPES",
    "DTYPE_BYTES",
    "INT4_GROUPS",
    "LAST_KINDS",
    "POINTWISE",
    "Attention",
    "AttentionSpec",
    "Block",
    "Call",
    "Collective",
    "Conv",
    "Decoder",
    "Encoder",
    "Format",
    "Fused",
    "Group",
    "Latent",
    "Linear",
    "LinearLayer",
    "Matmul",
    "MlpSpec",
    "Op",
    "Parallel",
    "Plan",
    "Pointwise",
    "Rewrite",
    "Role",
    "Routing",
    "Step",
    "StoredFormat",
    "Sweep",
    "Traced",
    "Workload",
    "arithmetic_dtype",
    "calibration_text",
    "catalogue_names",
    "decode",
    "format_named",
    "forward",
    "heldout_text",
    "ladder_named",
    "laid_out",
    "load_model",
    "mixed",
    "prefill",
    "sharded",
    "stored_format",
    "stored_of",
    "train",
    "trained_names",
    "trained_parameters",
    "weights_directory",
]  # fmt: skip
