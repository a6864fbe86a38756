"""BERT and ViT from the fields of a `config.json`."""

from typing import Any

from ridgepoint.errors import BadInput, NotSupported
from ridgepoint.workload.config import Stored, dtype_of, read
from ridgepoint.workload.decoder import AttentionSpec, Block, MlpSpec
from ridgepoint.workload.encoder import Encoder, Patches

__all__ = ["BERT_TYPES", "VIT_TYPES", "build_bert", "build_vit"]

BERT_TYPES, VIT_TYPES = ("bert",), ("vit",)


class EncoderConfig(Stored, kw_only=True):
    """Fields that BERT and ViT share."""

    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    intermediate_size: int
    hidden_act: str = "gelu"


class BertConfig(EncoderConfig, kw_only=True):
    """BERT's own fields."""

    vocab_size: int
    max_position_embeddings: int = 512
    type_vocab_size: int = 2


class VitConfig(EncoderConfig, kw_only=True):
    """ViT's own fields."""

    image_size: int = 224
    patch_size: int = 16
    num_channels: int = 3
    qkv_bias: bool = True
    num_labels: int | None = None
    id2label: dict[str, str] | None = None


def build_bert(name: str, config: dict[str, Any]) -> Encoder:
    """The encoder with its pooler, as `BertModel` has it; without the heads of pre-training."""
    c = read(name, config, BertConfig)
    if not 0 <= c.type_vocab_size <= 2**16:
        raise BadInput(f"{name}: config.json: type_vocab_size is {c.type_vocab_size}; possible is 0 to {2**16}")
    return Encoder(
        name=name, hidden_size=c.hidden_size, blocks=(_block(name, c, bias=True),), positions=c.max_position_embeddings,
        dtype=dtype_of(name, c), vocab_size=c.vocab_size, types=c.type_vocab_size, pooler=True, family="bert",
    )  # fmt: skip


def build_vit(name: str, config: dict[str, Any]) -> Encoder:
    """The encoder and the classifier of `ViTForImageClassification`, where the config names classes."""
    c = read(name, config, VitConfig)
    for field, value, limit in (
        ("image_size", c.image_size, 2**16), ("patch_size", c.patch_size, 2**12), ("num_channels", c.num_channels, 2**12)
    ):  # fmt: skip
        if not 1 <= value <= limit:
            raise BadInput(f"{name}: config.json: {field} is {value}; possible is 1 to {limit}")
    if c.image_size < c.patch_size:
        raise BadInput(f"{name}: config.json: a patch of {c.patch_size} pixels in an image of {c.image_size}")
    count = (c.image_size // c.patch_size) ** 2
    return Encoder(
        name=name, hidden_size=c.hidden_size, blocks=(_block(name, c, bias=c.qkv_bias),), positions=count + 1,
        dtype=dtype_of(name, c), patches=Patches(c.patch_size, c.num_channels, count), norm_first=True, family="vit",
        classes=c.num_labels or len(c.id2label or ()),
    )  # fmt: skip


def _block(name: str, c: EncoderConfig, bias: bool) -> Block:
    if c.hidden_size % c.num_attention_heads:
        raise BadInput(
            f"{name}: config.json: hidden_size {c.hidden_size} does not split into {c.num_attention_heads} heads"
        )
    if not c.hidden_act.startswith("gelu") and c.hidden_act != "relu":
        raise NotSupported(f"{name}: hidden_act {c.hidden_act!r} is not modelled in encoders; gelu and relu are")
    heads, d = c.num_attention_heads, c.hidden_size // c.num_attention_heads
    attention = AttentionSpec(heads, heads, d, bias=bias, out_bias=True, rotary=False, causal=False)
    act = "gelu" if c.hidden_act.startswith("gelu") else "relu"
    mlp = MlpSpec(c.intermediate_size, bias=True, gated=False, act=act)
    return Block(attention, mlp, c.num_hidden_layers, norm="layer_norm")
