"""Conversion of the original fairseq files of XLM-RoBERTa-XL and XXL to directories in the Hugging Face layout.

Such a file contains the weights under "model", and other state of the training run. It is read as data: apart from
tensors only the settings of the model are used, and no code that the file names is ever imported.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from skxlmr.checkpoints import layout
from skxlmr.checkpoints.convert.pickle_reader import Unbuilt
from skxlmr.checkpoints.convert.training_state import TrainingState, open_training_state
from skxlmr.checkpoints.errors import CheckpointError, CheckpointMismatchError
from skxlmr.checkpoints.formats import TensorFile, TensorInfo
from skxlmr.checkpoints.keymap import KeyMap, match
from skxlmr.checkpoints.writing import write_checkpoint

EMBEDDING = "embed_tokens.weight"
ENCODERS = ("encoder.sentence_encoder.", "decoder.sentence_encoder.", "encoder.", "decoder.")
HF_LAYER = "roberta.encoder.layer.{i}."
HF_WORDS = "roberta.embeddings.word_embeddings.weight"
HF_TOKEN_TYPES = "roberta.embeddings.token_type_embeddings.weight"
PUBLISHED_HEADS = {2560: 32, 4096: 32}  # attention heads by width: XL and XXL
HEAD_SETTINGS = ("encoder_attention_heads", "decoder_attention_heads")
# Two shards are in memory at a time. The word embedding of XXL alone has 2 GB.
SHARD_BYTES = 2_000_000_000


def convert_fairseq(
    path: str | os.PathLike,
    directory: str | os.PathLike,
    *,
    num_attention_heads: int | None = None,
    overwrite: bool = False,
) -> dict[str, object]:
    """Convert a fairseq file of XLM-RoBERTa-XL or XXL to a checkpoint directory, and return the content of config.json.

    Tensors keep their dtype and their rows; at most about 4 GB of them are in memory at a time. A
    sentencepiece.bpe.model in the folder of the file is copied. `num_attention_heads` None takes the number from the
    settings in the file, or else 32 for the widths of XL and XXL. With `overwrite` an existing checkpoint in the
    directory is replaced once the new one is complete.

    Raises FileExistsError if the directory is not empty and `overwrite` is False, or is a file; CheckpointError if the
    file is damaged, not from fairseq, of another architecture, or without the number of heads; CheckpointMismatchError
    if weights are missing, unexpected, or of inconsistent shapes; UnsafeCheckpointError if an object under "model" is
    not a tensor but a call of other code; OSError if the directory is not writable or the disk full.
    """
    path, directory = Path(path).expanduser(), Path(directory).expanduser()
    _check_free(directory, overwrite)
    state = open_training_state(path)
    try:
        prefix = _find_prefix(state.file.tensors, path)
        config = _config(state, prefix, num_attention_heads, path)
        key_map = _key_map(prefix)
        plan = match(state.file.tensors, _expected_shapes(config), key_map, prefix="")
        _check_tied(state, prefix, path)
        renamed = _Renamed(state.file, {new: old for old, new in plan.assignments})
        tokenizer = path.with_name(layout.TOKENIZER)
        extra_files = {layout.TOKENIZER: tokenizer.read_bytes()} if tokenizer.is_file() else {}
        write_checkpoint(directory, renamed, config, extra_files=extra_files, max_shard_bytes=SHARD_BYTES)
    finally:
        state.file.close()
    return config


def _check_free(directory: Path, overwrite: bool) -> None:
    if directory.exists() and not directory.is_dir():
        raise FileExistsError(f"{directory} is a file; choose a directory")
    if directory.exists() and any(directory.iterdir()) and not overwrite:
        raise FileExistsError(
            f"{directory} already exists and is not empty: choose another directory, or replace the checkpoint in it "
            f"with --force (overwrite=True)"
        )


def _settings(content: dict) -> dict:
    """Return the settings of the model: "args" in older files, "model" of "cfg" in newer ones."""
    return {**_fields(content.get("args")), **_fields(_fields(content.get("cfg")).get("model"))}


def _fields(value: object) -> dict:
    """Return the items of a dict, an argparse.Namespace or a container of omegaconf; none of any other object."""
    fields = value.state if isinstance(value, Unbuilt) else value
    if isinstance(fields, dict):
        fields = fields.get("_content", fields)  # omegaconf
    return {key: _scalar(field) for key, field in fields.items()} if isinstance(fields, dict) else {}


def _scalar(value: object) -> object:
    """Return the value of a setting, which omegaconf wraps in a node."""
    state = value.state if isinstance(value, Unbuilt) else None
    return state["_val"] if isinstance(state, dict) and "_val" in state else value


def _find_prefix(tensors: Mapping[str, TensorInfo], path: Path) -> str:
    """Return the prefix of the keys of the encoder, which depends on the version of fairseq."""
    found = [prefix for prefix in ENCODERS if prefix + EMBEDDING in tensors]
    if not found:
        raise CheckpointError(
            f'{path} is not a fairseq checkpoint of XLM-RoBERTa-XL: under "model" there is no '
            f"{ENCODERS[0] + EMBEDDING}, the first key is {next(iter(tensors))!r}"
        )
    if len(found) > 1:
        raise CheckpointError(f"{path} is not an XLM-RoBERTa-XL: it has two embeddings, in {' and '.join(found)}")
    for name in ("emb_layer_norm.weight", "layernorm_embedding.weight"):
        if found[0] + name in tensors:
            raise CheckpointError(
                f"{path} is not an XLM-RoBERTa-XL: it normalises its embeddings ({found[0] + name}), as XLM-RoBERTa "
                f"base and large do. Those are published in the Hugging Face format."
            )
    return found[0]


def _key_map(prefix: str) -> KeyMap:
    layer = prefix + "layers.{i}."
    head = prefix.removesuffix("sentence_encoder.")
    return KeyMap(
        [
            (prefix + EMBEDDING, HF_WORDS),
            (prefix + "embed_positions.weight", "roberta.embeddings.position_embeddings.weight"),
            (layer + "self_attn_layer_norm.{p}", HF_LAYER + "attention.self_attn_layer_norm.{p}"),
            (layer + "self_attn.q_proj.{p}", HF_LAYER + "attention.self.query.{p}"),
            (layer + "self_attn.k_proj.{p}", HF_LAYER + "attention.self.key.{p}"),
            (layer + "self_attn.v_proj.{p}", HF_LAYER + "attention.self.value.{p}"),
            (layer + "self_attn.out_proj.{p}", HF_LAYER + "attention.output.dense.{p}"),
            (layer + "final_layer_norm.{p}", HF_LAYER + "LayerNorm.{p}"),
            (layer + "fc1.{p}", HF_LAYER + "intermediate.dense.{p}"),
            (layer + "fc2.{p}", HF_LAYER + "output.dense.{p}"),
            (prefix + "layer_norm.{p}", "roberta.encoder.LayerNorm.{p}"),
            (head + "lm_head.dense.{p}", "lm_head.dense.{p}"),
            (head + "lm_head.layer_norm.{p}", "lm_head.layer_norm.{p}"),
            (head + "lm_head.bias", "lm_head.bias"),
        ],
        # Markers of the format, and the word embedding under a second name (see _check_tied).
        ignored=[prefix + "version", prefix + "embed_positions._float_tensor", head + "lm_head.weight"],
    )


def _config(state: TrainingState, prefix: str, num_attention_heads: int | None, path: Path) -> dict[str, Any]:
    """Build config.json from the shapes, and from the settings where the shapes do not tell."""
    settings = _settings(state.content)
    activation = settings.get("activation_fn", "gelu")
    if activation != "gelu":
        raise CheckpointError(f"{path} is not an XLM-RoBERTa-XL: its activation is {activation!r}, not 'gelu'")
    tensors = state.file.tensors
    numbers = [re.match(re.escape(prefix) + r"layers\.(\d{1,3})\.", key) for key in tensors]
    num_layers = max((int(number[1]) + 1 for number in numbers if number), default=0)
    vocab_size, hidden_size = _matrix(tensors, prefix + EMBEDDING, path)
    max_positions, _ = _matrix(tensors, prefix + "embed_positions.weight", path)
    intermediate_size, _ = _matrix(tensors, prefix + "layers.0.fc1.weight", path)
    return {
        "model_type": "xlm-roberta-xl",
        "architectures": ["XLMRobertaXLForMaskedLM"],
        "vocab_size": vocab_size,
        "hidden_size": hidden_size,
        "num_hidden_layers": num_layers,
        "num_attention_heads": _num_heads(settings, hidden_size, num_attention_heads, path),
        "intermediate_size": intermediate_size,
        "hidden_act": "gelu",
        "max_position_embeddings": max_positions,
        "type_vocab_size": 1,
        "layer_norm_eps": 1e-5,
        "pad_token_id": 1,
        "bos_token_id": 0,
        "eos_token_id": 2,
        "torch_dtype": str(tensors[prefix + EMBEDDING].dtype).removeprefix("torch."),
    }


def _matrix(tensors: Mapping[str, TensorInfo], key: str, path: Path) -> tuple[int, int]:
    shape = tensors[key].shape if key in tensors else None
    if shape is None or len(shape) != 2 or 0 in shape:
        found = "is missing" if shape is None else f"has shape {shape}"
        raise CheckpointError(f"{path} is not an XLM-RoBERTa-XL: {key} {found}; expected a matrix")
    return shape


def _num_heads(settings: dict, hidden_size: int, num_attention_heads: int | None, path: Path) -> int:
    read = [settings[name] for name in HEAD_SETTINGS if type(settings.get(name)) is int]
    heads = num_attention_heads
    if heads is None:
        heads = next(iter(read), PUBLISHED_HEADS.get(hidden_size))
    if heads is None:
        raise CheckpointError(
            f"{path} does not contain the number of attention heads, and no published model has its width of "
            f"{hidden_size}: pass it as --heads or num_attention_heads"
        )
    if heads < 1 or hidden_size % heads:
        raise CheckpointError(f"{path}: its width of {hidden_size} cannot be divided into {heads} attention heads")
    return heads


def _expected_shapes(config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Return the shape of every weight that the file must contain, by the keys of Hugging Face."""
    vocab, hidden, inner = config["vocab_size"], config["hidden_size"], config["intermediate_size"]
    linears = {"lm_head.dense": (hidden, hidden)}
    norms = ["roberta.encoder.LayerNorm", "lm_head.layer_norm"]
    for i in range(config["num_hidden_layers"]):
        layer = HF_LAYER.format(i=i)
        for name in ("self.query", "self.key", "self.value", "output.dense"):
            linears[f"{layer}attention.{name}"] = hidden, hidden
        linears[layer + "intermediate.dense"] = inner, hidden
        linears[layer + "output.dense"] = hidden, inner
        norms += [layer + "attention.self_attn_layer_norm", layer + "LayerNorm"]
    shapes: dict[str, tuple[int, ...]] = {
        HF_WORDS: (vocab, hidden),
        "roberta.embeddings.position_embeddings.weight": (config["max_position_embeddings"], hidden),
        "lm_head.bias": (vocab,),
    }
    for name, (outputs, inputs) in linears.items():
        shapes |= {name + ".weight": (outputs, inputs), name + ".bias": (outputs,)}
    for name in norms:
        shapes |= {name + ".weight": (hidden,), name + ".bias": (hidden,)}
    return shapes


def _check_tied(state: TrainingState, prefix: str, path: Path) -> None:
    """Check that the matrix of the LM head, if it is stored, equals the word embedding: only that is written."""
    tied, embedding = prefix.removesuffix("sentence_encoder.") + "lm_head.weight", prefix + EMBEDDING
    if tied not in state.ranges or state.ranges[tied] == state.ranges[embedding]:
        return
    if not torch.equal(state.file.read(tied), state.file.read(embedding)):
        raise CheckpointMismatchError(f"{path} is not an XLM-RoBERTa-XL: {tied} is not the same matrix as {embedding}")


class _Renamed(Mapping[str, torch.Tensor]):
    """The tensors by their new keys, each read from the file whenever it is accessed.

    The token type embedding, which fairseq does not have, is a row of zeros.
    """

    def __init__(self, file: TensorFile, old_keys: Mapping[str, str]) -> None:
        self._file, self._old_keys = file, old_keys
        words = file.tensors[old_keys[HF_WORDS]]
        self._token_types = torch.zeros(1, words.shape[1], dtype=words.dtype)

    def __getitem__(self, key: str) -> torch.Tensor:
        return self._token_types if key == HF_TOKEN_TYPES else self._file.read(self._old_keys[key])

    def __iter__(self) -> Iterator[str]:
        yield from self._old_keys
        yield HF_TOKEN_TYPES

    def __len__(self) -> int:
        return len(self._old_keys) + 1
