"""The names of parameters in checkpoints: one key map for each kind of model."""

from __future__ import annotations

from skxlmr.checkpoints.checkpoint import KeyMap
from skxlmr.model.config import XLMRobertaXLConfig

BASE = "roberta."  # what our names of the base's parameters begin with in a model with a head

ATTENTION = ("self.query", "self.key", "self.value", "output.dense")
QUANTIZED = (
    *(f"{kind}.{name}" for kind in ("attention", "crossattention") for name in ATTENTION),
    "intermediate.dense",
    "output.dense",
)

# The norms of a layer, and what else lies beside it; {layer} stands for its beginning in checkpoints.
XL_NORMS = [
    ("{layer}attention.self_attn_layer_norm.{p}", "roberta.layers.{i}.attention_norm.{p}"),
    ("{layer}crossattention.self_attn_layer_norm.{p}", "roberta.layers.{i}.cross_norm.{p}"),
    ("{layer}LayerNorm.{p}", "roberta.layers.{i}.ffn_norm.{p}"),
    ("{base}encoder.LayerNorm.{p}", "roberta.norm.{p}"),
]
POST_NORMS = [
    ("{base}embeddings.LayerNorm.{p}", "roberta.embeddings.norm.{p}"),
    ("{layer}attention.output.LayerNorm.{p}", "roberta.layers.{i}.attention_norm.{p}"),
    ("{layer}crossattention.output.LayerNorm.{p}", "roberta.layers.{i}.cross_norm.{p}"),
    ("{layer}output.LayerNorm.{p}", "roberta.layers.{i}.ffn_norm.{p}"),
]
# Heads of one linear layer have the same names in all, and BERT's on texts is one on its pooler.
COMMON_HEADS = [
    ("classifier.{p}", "classifier.{p}"),
    ("qa_outputs.{p}", "qa_outputs.{p}"),
]
HEADS = [
    *COMMON_HEADS,
    ("classifier.dense.{p}", "classifier.dense.{p}"),
    ("classifier.out_proj.{p}", "classifier.out_proj.{p}"),
    ("lm_head.dense.{p}", "lm_head.dense.{p}"),
    ("lm_head.layer_norm.{p}", "lm_head.norm.{p}"),
    ("lm_head.bias", "lm_head.bias"),
]
BERT_HEADS = [
    *COMMON_HEADS,
    ("cls.predictions.transform.dense.{p}", "lm_head.dense.{p}"),
    ("cls.predictions.transform.LayerNorm.{p}", "lm_head.norm.{p}"),
    ("cls.predictions.bias", "lm_head.bias"),
]
LM_HEADS = ("lm_head.", "cls.predictions.")  # what the names of a head on words begin with in checkpoints


def _key_map(base: str, norms: list[tuple[str, str]], heads: list[tuple[str, str]]) -> KeyMap:
    """Hugging Face's keys on the left, ours on the right; {p} is weight or bias."""
    layer = base + "encoder.layer.{i}."
    rules = [
        (base + "embeddings.word_embeddings.weight", "roberta.embeddings.word.weight"),
        (base + "embeddings.position_embeddings.weight", "roberta.embeddings.position.weight"),
        (base + "embeddings.token_type_embeddings.weight", "roberta.embeddings.token_type.weight"),
        (layer + "attention.self.query.{p}", "roberta.layers.{i}.attention.query.{p}"),
        (layer + "attention.self.key.{p}", "roberta.layers.{i}.attention.key.{p}"),
        (layer + "attention.self.value.{p}", "roberta.layers.{i}.attention.value.{p}"),
        (layer + "attention.output.dense.{p}", "roberta.layers.{i}.attention.output.{p}"),
        (layer + "attention.self.distance_embedding.weight", "roberta.layers.{i}.attention.distance.weight"),
        (layer + "crossattention.self.query.{p}", "roberta.layers.{i}.cross_attention.query.{p}"),
        (layer + "crossattention.self.key.{p}", "roberta.layers.{i}.cross_attention.key.{p}"),
        (layer + "crossattention.self.value.{p}", "roberta.layers.{i}.cross_attention.value.{p}"),
        (layer + "crossattention.output.dense.{p}", "roberta.layers.{i}.cross_attention.output.{p}"),
        (layer + "intermediate.dense.{p}", "roberta.layers.{i}.ffn.up.{p}"),
        (layer + "output.dense.{p}", "roberta.layers.{i}.ffn.down.{p}"),
        (base + "pooler.dense.{p}", "roberta.pooler.dense.{p}"),
        *((theirs.replace("{layer}", layer).replace("{base}", base), ours) for theirs, ours in norms),
        *heads,
    ]
    return KeyMap(
        rules,
        # Counted afresh in the forward pass, or the same numbers as another key under a second name.
        ignored=[
            base + "embeddings.position_ids",
            *(f"{head}decoder.{{p}}" for head in LM_HEADS),
            # bitsandbytes notes in which order the rows of an 8-bit weight lie; there is only one left.
            *(f"{layer}{name}.weight_format" for name in QUANTIZED),
        ],
    )


# By `model_type`: what the checkpoint's names of the base begin with, and the map.
THEIR_BASE = {"xlm-roberta-xl": "roberta.", "xlm-roberta": "roberta.", "bert": "bert."}
KEY_MAPS = {
    "xlm-roberta-xl": _key_map("roberta.", XL_NORMS, HEADS),
    "xlm-roberta": _key_map("roberta.", POST_NORMS, HEADS),
    "bert": _key_map("bert.", POST_NORMS, BERT_HEADS),
}

# What a checkpoint may have that a model has no place for.
MAY_BE_UNUSED = ("roberta.pooler.", "bert.pooler.", "classifier.", "lm_head.", "qa_outputs.", "cls.")


def key_map(config: XLMRobertaXLConfig) -> KeyMap:
    """The key map of a kind of model."""
    return KEY_MAPS[config.model_type]


def their_base(config: XLMRobertaXLConfig) -> str:
    """What the names of the base's parameters begin with in the checkpoint of a model with a head."""
    return THEIR_BASE[config.model_type]
