"""Fingerprints of checkpoints: of what is computed with, whatever files hold it; fast to compute."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable
from contextlib import ExitStack, closing
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from skxlmr.checkpoints.decoders import DECODER, SAMPLE_BYTES, own_decoders, samples
from skxlmr.checkpoints.errors import CheckpointError
from skxlmr.checkpoints.files import read_json, read_limited
from skxlmr.checkpoints.formats import WeightFile, open_weights
from skxlmr.checkpoints.layout import SMALL_FILE, TOKENIZER, TOKENIZER_JSON, cached_sha256
from skxlmr.checkpoints.sentence_transformers import SETTINGS_NAMES, lowercases
from skxlmr.checkpoints.sentencepiece_file import Content, is_unigram, read_content, rules_of
from skxlmr.checkpoints.tokenizer_files import ADDED_TOKENS, CONFIG, SPECIAL_TOKENS, read_tokenizer_files
from skxlmr.checkpoints.tokenizer_json import MAX_JSON_BYTES, with_lowercase

EVEN_SAMPLES = 256
MAX_TENSOR_SAMPLES = 4096

# The keys of a config.json on which results depend, with the value of a missing one; other keys do not count.
COMPUTED = {
    "model_type": None,
    "vocab_size": None,
    "hidden_size": None,
    "num_hidden_layers": None,
    "num_attention_heads": None,
    "intermediate_size": None,
    "max_position_embeddings": None,
    "layer_norm_eps": None,
    "type_vocab_size": None,
    "hidden_act": "gelu",
    "hidden_dropout_prob": 0.1,
    "attention_probs_dropout_prob": 0.1,
    "classifier_dropout": None,
    "pad_token_id": 1,
    "position_embedding_type": "absolute",
    "is_decoder": False,
    "add_cross_attention": False,
    "quantization_config": None,
}
# Tensors that are computed: some file formats leave them out, as they do decoders that are second names of others.
DERIVED = re.compile(r"(.*\.)?(position_ids|token_type_ids|weight_format)")
BASE_PREFIX = re.compile(r"(roberta|bert)\.")
TOKENIZER_FILES = (TOKENIZER, TOKENIZER_JSON, CONFIG, ADDED_TOKENS, SPECIAL_TOKENS, *SETTINGS_NAMES)

Identity = tuple[Path, int, int, int]  # of a file: path, size, modification time, inode


def fingerprint_of(directory: Path, config: Path, weights: Iterable[Path]) -> str:
    """Compute a SHA-256 over what a checkpoint computes with, in hexadecimal.

    This is the settings of its config that matter for results, names, shapes, dtypes and content of its tensors, and
    the tokens of its tokenizer; not the format or number of files, nor their other content. Of the tensors of a
    checkpoint above 64 MiB only samples are read: those of up to 64 KiB whole, so that no bias or layer norm is
    missed, and of others 8 evenly spread places of 8 KiB. Raises CheckpointError if a file of weights has no readable
    header, or the config is damaged.
    """
    files = tuple(map(_identity, weights))
    settings, tensors = _settings(read_json(config), _facts(files).is_xl), _tensors_digest(files)
    parts = (json.dumps(settings, sort_keys=True), tensors, tokens_digest(directory))
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def tokenizer_identity(directory: Path) -> tuple[Identity, ...]:
    """Return what changes if the files of the tokenizer in a directory do: their sizes, times and inodes."""
    return tuple(_identity(directory / name) for name in TOKENIZER_FILES if (directory / name).is_file())


def weights_digest(weights: Iterable[Path]) -> str:
    """Compute a SHA-256 over names, shapes, dtypes and content of tensors, or samples of it, as `fingerprint_of`."""
    return _tensors_digest(tuple(map(_identity, weights)))


def tokens_digest(directory: Path) -> str:
    """Compute a SHA-256 over the tokens of the tokenizer in a directory, whatever files hold it."""
    return _tokens_digest(directory, tokenizer_identity(directory))


def file_fingerprint_of(small_files: Iterable[Path], weights: Iterable[Path]) -> str:
    """Compute the fingerprint of earlier versions: a SHA-256 over the names, sizes and content of files.

    Of weight files above 64 MiB only samples are read: the beginning of every tensor, and 256 places evenly spread over
    the file. Raises CheckpointError if such a file has no readable header.
    """
    digest = hashlib.sha256()
    parts = [(path, cached_sha256(path)) for path in small_files]
    parts += [(path, _weights_digest(path)) for path in weights]
    for path, content in parts:
        digest.update(f"{path.name}\0{path.stat().st_size}\0{content}\0".encode())
    return digest.hexdigest()


@dataclass(frozen=True)
class WeightFacts:
    """What the tensors of a checkpoint tell of its model, which its config.json may not."""

    is_xl: bool
    is_untied: bool  # whether the decoder of a language model is another matrix than the word embedding


def weight_facts(weights: Iterable[Path]) -> WeightFacts:
    """Read what tensors tell of a model; raises CheckpointError if a file of weights has no readable header."""
    return _facts(tuple(map(_identity, weights)))


@lru_cache(maxsize=256)
def _facts(files: tuple[Identity, ...]) -> WeightFacts:
    with ExitStack() as opened:
        where = _opened(files, opened)
        is_xl = any("self_attn_layer_norm" in name for name in where)
        return WeightFacts(is_xl, any(name.endswith(".weight") for name in own_decoders(where)))


def _opened(files: tuple[Identity, ...], opened: ExitStack) -> dict[str, WeightFile]:
    """Open files of weights; return them by the names of their tensors."""
    where: dict[str, WeightFile] = {}
    for path, *_ in files:
        weights = opened.enter_context(closing(open_weights(path)))
        where |= dict.fromkeys(weights.tensors, weights)
    return where


def _settings(config: dict, is_xl: bool) -> dict:
    """Return the settings of a config that results depend on; some files of XL models say "xlm-roberta"."""
    settings = {name: config[name] for name, missing in COMPUTED.items() if config.get(name, missing) != missing}
    return settings | {"model_type": "xlm-roberta-xl"} if is_xl else settings


@lru_cache(maxsize=256)
def _tensors_digest(files: tuple[Identity, ...]) -> str:
    digest = hashlib.sha256()
    with ExitStack() as opened:
        where = _opened(files, opened)
        own = own_decoders(where)
        second_names = [name for name in where if DECODER.fullmatch(name) and name not in own]
        where = {name: file for name, file in where.items() if name not in second_names and not DERIVED.fullmatch(name)}
        whole = sum(weights.tensors[name].nbytes for name, weights in where.items()) <= SMALL_FILE
        for short, name in sorted((BASE_PREFIX.sub("", name, count=1), name) for name in where):
            info = where[name].tensors[name]
            digest.update(f"{short}\0{info.dtype}\0{info.shape}\0".encode())
            for part in samples(where[name], name, info.nbytes, whole):
                digest.update(part)
    return digest.hexdigest()


@lru_cache(maxsize=256)
def _tokens_digest(directory: Path, files: tuple[Identity, ...]) -> str:
    """Compute a SHA-256 over the tokens of a tokenizer; over its first file if it cannot be read."""
    digest = hashlib.sha256()
    try:
        content = read_tokenizer_files(directory)
        model = content.vocabulary
        model = model if isinstance(model, bytes) else read_limited(model, MAX_JSON_BYTES)
        tokens = read_content(model) or _loaded_content(model)
        digest.update(tokens.pieces)
        digest.update(tokens.scores.tobytes())
        digest.update(rules_of(tokens.rest))
        steps = with_lowercase(content.steps) if lowercases(directory) else content.steps
        digest.update(json.dumps([is_unigram(tokens.rest), [vars(token) for token in content.added], steps]).encode())
        known = {token.content for token in content.added}
        digest.update("".join(f"\n{name}" for name in content.extra_special_tokens if name not in known).encode())
    except (OSError, ValueError, RuntimeError, CheckpointError):  # what is wrong is told where it is read to be used
        for path, *_ in files[:1]:
            digest.update(cached_sha256(path).encode())
    return digest.hexdigest()


def _loaded_content(model: bytes) -> Content:
    """Read a sentencepiece model that is written in an unusual way."""
    from sentencepiece import SentencePieceProcessor

    processor = SentencePieceProcessor()
    processor.LoadFromSerializedProto(model)
    every = list(range(3, len(processor)))
    pieces = "\n".join(processor.id_to_piece(every)).encode()
    return Content(pieces, np.array(processor.get_score(every), np.float32), model)


def _identity(path: Path) -> Identity:
    status = path.stat()
    return path, status.st_size, status.st_mtime_ns, status.st_ino


def _weights_digest(path: Path) -> str:
    status = path.stat()
    if status.st_size <= SMALL_FILE:
        return cached_sha256(path)
    return _sampled_sha256(path, status.st_size, status.st_mtime_ns, status.st_ino)


@lru_cache(maxsize=256)
def _sampled_sha256(path: Path, size: int, mtime_ns: int, inode: int) -> str:
    with closing(open_weights(path)) as weights:
        tensor_offsets = weights.offsets[:MAX_TENSOR_SAMPLES]
    last = size - SAMPLE_BYTES
    even_offsets = [last * number // (EVEN_SAMPLES - 1) for number in range(EVEN_SAMPLES)]
    digest = hashlib.sha256()
    with open(path, "rb", buffering=0) as file:
        for offset in sorted({*tensor_offsets, *even_offsets}):
            file.seek(offset)
            digest.update(file.read(SAMPLE_BYTES))
    return digest.hexdigest()
