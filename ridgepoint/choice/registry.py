"""All choices, one line each."""

from ridgepoint.choice.attention import AttentionKernel
from ridgepoint.choice.autograd import Autograd
from ridgepoint.choice.base import Choice
from ridgepoint.choice.batch import Batch
from ridgepoint.choice.channels import Channels
from ridgepoint.choice.checkpoint import Recompute
from ridgepoint.choice.dense import Dense
from ridgepoint.choice.fp8 import Fp8
from ridgepoint.choice.heads import Heads
from ridgepoint.choice.int3 import Int3
from ridgepoint.choice.int4 import Int4
from ridgepoint.choice.int8 import Int8
from ridgepoint.choice.kv import KvCacheFormat
from ridgepoint.choice.launch import Launch
from ridgepoint.choice.layers import Layers
from ridgepoint.choice.layout import Layout
from ridgepoint.choice.lora import Adapter
from ridgepoint.choice.nf4 import Nf4
from ridgepoint.choice.nvfp4 import Nvfp4
from ridgepoint.choice.precision import Precision
from ridgepoint.choice.sparse import Sparse
from ridgepoint.choice.stored import Checkpoint
from ridgepoint.choice.threads import Threads
from ridgepoint.choice.window import Window

__all__ = ["CHOICES"]

CHOICES: tuple[type[Choice], ...] = (
    Precision,
    Checkpoint,
    Layers,
    Channels,
    Heads,
    Dense,
    Sparse,
    Int8,
    Int4,
    Int3,
    Nf4,
    Fp8,
    Nvfp4,
    AttentionKernel,
    Window,
    KvCacheFormat,
    Layout,
    Batch,
    Adapter,
    Recompute,
    Autograd,
    Launch,
    Threads,
)
