"""The names of parameters in checkpoints, as one key map per architecture."""

from __future__ import annotations

import functools

from skxlmr.checkpoints import decoders
from skxlmr.checkpoints.keymap import KeyMap

BASE = "roberta."  # our prefix of the encoder's parameters in a model with a head

# The linear layers of a layer in checkpoints, which may be quantised, and here.
ATTENTION = {"self.query": "query", "self.key": "key", "self.value": "value", "output.dense": "output"}
LINEAR = {
    **{f"attention.{theirs}": f"attention.{ours}" for theirs, ours in ATTENTION.items()},
    **{f"crossattention.{theirs}": f"cross_attention.{ours}" for theirs, ours in ATTENTION.items()},
    "intermediate.dense": "ffn.up",
    "output.dense": "ffn.down",
}

# LayerNorms; {layer} and {base} are the prefixes of a layer and of the encoder in checkpoints.
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
# Heads of a single linear layer, among them BERT's sequence classification head, have the same names everywhere.
COMMON_HEADS = [("classifier.{p}", "classifier.{p}"), ("qa_outputs.{p}", "qa_outputs.{p}")]
HEADS = [
    *COMMON_HEADS,
    ("classifier.dense.{p}", "classifier.dense.{p}"),
    ("classifier.out_proj.{p}", "classifier.out_proj.{p}"),
    ("lm_head.dense.{p}", "lm_head.dense.{p}"),
    ("lm_head.layer_norm.{p}", "lm_head.norm.{p}"),
    ("lm_head.bias", "lm_head.bias"),
    ("lm_head.decoder.weight", "lm_head.decoder"),  # only of untied models
]
BERT_HEADS = [
    *COMMON_HEADS,
    ("cls.predictions.transform.dense.{p}", "lm_head.dense.{p}"),
    ("cls.predictions.transform.LayerNorm.{p}", "lm_head.norm.{p}"),
    ("cls.predictions.bias", "lm_head.bias"),
    ("cls.predictions.decoder.weight", "lm_head.decoder"),
]


# By `model_type`: the prefix of the encoder's parameters in the checkpoint of a model with a head, and what differs.
THEIR_BASE = {"xlm-roberta-xl": "roberta.", "xlm-roberta": "roberta.", "bert": "bert."}
NORMS = {"xlm-roberta-xl": XL_NORMS, "xlm-roberta": POST_NORMS, "bert": POST_NORMS}
ALL_HEADS = {"xlm-roberta-xl": HEADS, "xlm-roberta": HEADS, "bert": BERT_HEADS}

# Prefixes of parameters that a checkpoint may have and a model may lack.
MAY_BE_UNUSED = ("roberta.pooler.", "bert.pooler.", "classifier.", "lm_head.", "qa_outputs.", "cls.")


@functools.cache  # compiling the patterns of all architectures takes a tenth of the package's import
def key_map(model_type: str) -> KeyMap:
    """Return the key map of an architecture: Hugging Face's keys, on the left, to ours; {p} is weight or bias."""
    base, norms, heads = THEIR_BASE[model_type], NORMS[model_type], ALL_HEADS[model_type]
    layer = base + "encoder.layer.{i}."
    rules = [
        (base + "embeddings.word_embeddings.weight", "roberta.embeddings.word.weight"),
        (base + "embeddings.position_embeddings.weight", "roberta.embeddings.position.weight"),
        (base + "embeddings.token_type_embeddings.weight", "roberta.embeddings.token_type.weight"),
        *((f"{layer}{theirs}.{{p}}", f"roberta.layers.{{i}}.{ours}.{{p}}") for theirs, ours in LINEAR.items()),
        (layer + "attention.self.distance_embedding.weight", "roberta.layers.{i}.attention.distance.weight"),
        (base + "pooler.dense.{p}", "roberta.pooler.dense.{p}"),
        *((theirs.replace("{layer}", layer).replace("{base}", base), ours) for theirs, ours in norms),
        *heads,
    ]
    return KeyMap(
        rules,
        # Computed in the forward pass, or a second name of another key in most models.
        ignored=[
            base + "embeddings.position_ids",
            *(f"{head}decoder.{{p}}" for head in decoders.HEADS),
            # The memory layout of an 8-bit weight; bitsandbytes supports only one today.
            *(f"{layer}{name}.weight_format" for name in LINEAR),
        ],
    )
