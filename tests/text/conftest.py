"""Tokenizers, and those of transformers with the same vocabularies as the reference."""

from __future__ import annotations

from pathlib import Path

import pytest
from sentencepiece import SentencePieceNormalizer, SentencePieceProcessor

from skxlmr.text.tokenizer import XLMRobertaXLTokenizer


@pytest.fixture(scope="session")
def tokenizer(tiny_spm: Path) -> XLMRobertaXLTokenizer:
    return XLMRobertaXLTokenizer.from_directory(tiny_spm)


@pytest.fixture(scope="session")
def xlmr_directory(shared_data: Path) -> Path:
    directory = shared_data / "xlmr_vocabulary"
    if not directory.is_dir():
        pytest.skip(f"XLM-R's vocabulary is not at {directory}")
    return directory


@pytest.fixture(scope="session")
def xlmr(xlmr_directory: Path) -> XLMRobertaXLTokenizer:
    return XLMRobertaXLTokenizer.from_directory(xlmr_directory)


@pytest.fixture(scope="session")
def reference(tiny_spm: Path):
    return reference_tokenizer(tiny_spm)


@pytest.fixture(scope="session")
def xlmr_reference(xlmr_directory: Path):
    return reference_tokenizer(xlmr_directory)


def reference_tokenizer(directory: Path):
    """Build the tokenizer of transformers from its parts, because its own loader needs protobuf."""
    transformers = pytest.importorskip("transformers")
    model = (directory / "sentencepiece.bpe.model").read_bytes()
    processor = SentencePieceProcessor(model_proto=model)
    pieces = [(processor.id_to_piece(i), processor.get_score(i)) for i in range(3, len(processor))]
    special = [("<s>", 0.0), ("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
    spec = SentencePieceNormalizer(model_proto=model).serialized_normalizer_spec()
    return transformers.XLMRobertaTokenizer(
        vocab=[*special, *pieces, ("<mask>", 0.0)],
        _spm_precompiled_charsmap=protobuf_bytes(spec, 2),
        model_max_length=512,
    )


def protobuf_bytes(message: bytes, wanted: int) -> bytes:
    """Return a length-delimited field of a serialised protobuf message."""

    def varint(position: int) -> tuple[int, int]:
        value = shift = 0
        while True:
            byte = message[position]
            value |= (byte & 0x7F) << shift
            position, shift = position + 1, shift + 7
            if byte < 0x80:
                return value, position

    position = 0
    while position < len(message):
        key, position = varint(position)
        size, after = varint(position)
        if key & 7 == 2:
            if key >> 3 == wanted:
                return message[after : after + size]
            after += size
        position = after
    raise LookupError(f"no field {wanted}")


@pytest.fixture(scope="session")
def with_added_tokens(tiny_spm: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the directory of a tokenizer with added tokens of several kinds."""
    tokenizers = pytest.importorskip("tokenizers")
    tokenizer = XLMRobertaXLTokenizer.from_directory(tiny_spm)
    one_word = tokenizers.AddedToken("W", single_word=True)
    takes_spaces = tokenizers.AddedToken("LS", lstrip=True, rstrip=True)
    assert tokenizer.add_tokens(["covid19", one_word, takes_spaces, "[E1]", "the"]) == 5
    assert tokenizer.add_special_tokens({"extra_special_tokens": ["<ent>"]}) == 1
    directory = tmp_path_factory.mktemp("with_added_tokens")
    tokenizer.save_pretrained(directory)
    return directory


@pytest.fixture
def our_tokenizer(with_added_tokens: Path) -> XLMRobertaXLTokenizer:
    """Return a tokenizer whose settings a test may change."""
    return XLMRobertaXLTokenizer.from_pretrained(with_added_tokens)


@pytest.fixture
def their_tokenizer(with_added_tokens: Path):
    """Return the tokenizer of transformers with the files of `our_tokenizer`."""
    return pytest.importorskip("transformers").XLMRobertaTokenizer.from_pretrained(with_added_tokens)
