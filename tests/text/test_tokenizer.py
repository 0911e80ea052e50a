from __future__ import annotations

import copy
import json

import numpy as np
import pytest
import torch
from texts import TEXTS

from skxlmr.checkpoints.errors import CheckpointError
from skxlmr.text.tokenizer import XLMRobertaXLTokenizer


def reference_rows(reference, *texts, **options):
    return reference(*texts, **options).data


@pytest.mark.parametrize(
    "text",
    [*TEXTS, "a  <mask> world", "b</s>c", " <s> ", "<mask><mask>", "<mask>", "x<pad>y <unk>\n", "<MASK> < mask>"],
)
def test_call_equals_reference(tokenizer, reference, text):
    assert tokenizer(text) == reference_rows(reference, text)
    assert tokenizer(text, add_special_tokens=False) == reference_rows(reference, text, add_special_tokens=False)
    assert tokenizer([text, "a"], ["b c", text]) == reference_rows(reference, [text, "a"], ["b c", text])


def test_call_with_real_vocabulary_equals_reference(xlmr, xlmr_reference):
    texts = [*TEXTS, "Paris is the <mask> of France."]
    options = {"padding": True, "truncation": True, "max_length": 12, "return_token_type_ids": True}
    assert xlmr(texts, texts[::-1], **options) == reference_rows(xlmr_reference, texts, texts[::-1], **options)


def test_call_with_offset_mapping_equals_reference(tokenizer, reference):
    texts = ["Hello  <mask> world</s>!", "a <mask>"]
    options = {"return_offsets_mapping": True, "padding": True}
    got, expected = tokenizer(texts, **options), reference(texts, **options)
    bare = tokenizer.convert_tokens_to_ids("▁")
    for ids, offsets, theirs in zip(got.input_ids, got.offset_mapping, expected.offset_mapping, strict=True):
        assert offsets == [(a, a if index == bare else b) for index, (a, b) in zip(ids, theirs, strict=True)]
    assert (7, 13) in got.offset_mapping[0]  # <mask>, without the space before it
    assert len(set(map(len, got.offset_mapping))) == 1


def test_call_with_overflowing_tokens_equals_windows(tokenizer):
    texts = ["a", TEXTS[2] * 3, TEXTS[0]]
    options = {"truncation": True, "max_length": 12, "stride": 4, "return_overflowing_tokens": True}
    encoding = tokenizer(texts, **options, padding=True, return_offsets_mapping=True, return_tensors="pt")
    owners = encoding.overflow_to_sample_mapping.tolist()
    assert owners == sorted(owners)
    assert set(owners) == {0, 1, 2}
    assert encoding.input_ids.shape == (len(owners), 12)
    assert encoding.offset_mapping.shape == (len(owners), 12, 2)
    windows = tokenizer.windows(tokenizer.encode_batch(texts)[1], max_length=12, stride=4)
    _, offsets = tokenizer.encode_with_offsets(texts[1])
    rows = [row for row, owner in enumerate(owners) if owner == 1]
    for row, window in zip(rows, windows, strict=True):
        n = len(window.input_ids)
        assert encoding.input_ids[row, :n].tolist() == window.input_ids.tolist()
        assert encoding.offset_mapping[row, 1 : n - 1].tolist() == offsets[window.start : window.stop].tolist()
        assert encoding.attention_mask[row].sum() == n


@pytest.mark.parametrize("kind", ["np", "pt"])
def test_call_with_return_tensors_has_type_and_shape(tokenizer, kind):
    encoding = tokenizer(TEXTS[:3], padding=True, return_tensors=kind, return_token_type_ids=True)
    assert list(encoding) == ["input_ids", "token_type_ids", "attention_mask"]
    for values in encoding.values():
        assert isinstance(values, torch.Tensor if kind == "pt" else np.ndarray)
        assert values.dtype == (torch.int64 if kind == "pt" else np.int64)
    assert not encoding.token_type_ids.any()
    assert ((encoding.input_ids == 1) == (encoding.attention_mask == 0)).all()
    assert tokenizer("a", return_tensors=kind).input_ids.shape[0] == 1
    assert tuple(tokenizer([], return_tensors=kind, return_offsets_mapping=True).offset_mapping.shape) == (0, 0, 2)
    with pytest.raises(ValueError, match=r"rows of 2 to .* pass padding=True"):
        tokenizer(TEXTS[:3], return_tensors=kind)


def test_call_with_max_length_pads_and_truncates(tokenizer):
    encoding = tokenizer("Hello", padding="max_length", max_length=9)
    assert len(encoding.input_ids) == 9
    assert len(tokenizer("Hello", padding="max_length").input_ids) == 512
    assert len(tokenizer("Hello " * 600, truncation=True).input_ids) == 512
    with pytest.warns(UserWarning, match="row 0 has .* more than model_max_length=512"):
        assert len(tokenizer("Hello " * 600).input_ids) > 512  # truncation has to be requested
    tokenizer("Hello " * 600, verbose=False)
    assert len(tokenizer("Hello " * 600, max_length=20).input_ids) == 20  # or a length given


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"padding": "right"}, "padding='right' must be one of False, 'do_not_pad', True, 'longest', 'max_length'"),
        ({"truncation": "only_third"}, "truncation='only_third' must be one of"),
        ({"return_tensors": "tf"}, "return_tensors='tf' must be one of None, 'pt', 'np'"),
        ({"max_length": 5, "padding": True}, "max_length=5 has no effect"),
        ({"max_length": 5, "truncation": False}, "max_length=5 has no effect"),
        ({"max_length": 0}, "max_length=0 must be a positive integer"),
        ({"max_length": "5"}, "max_length='5' must be a positive integer"),
        ({"stride": 5}, "stride=5 has no effect"),
        ({"return_overflowing_tokens": True}, "return_overflowing_tokens=True has no effect"),
        ({"truncation": "only_second"}, "truncation='only_second' needs pairs: give text_pair"),
        ({"truncation": True, "max_length": 2}, "at least 3"),
    ],
)
def test_call_with_invalid_option_raises(tokenizer, options, message):
    with pytest.raises(ValueError, match=message):
        tokenizer("Hello", **options)


def test_call_with_unequal_pair_raises(tokenizer):
    with pytest.raises(ValueError, match="2 in text and 1 in text_pair"):
        tokenizer(["a", "b"], ["c"])
    with pytest.raises(TypeError, match="both be strings or both be lists"):
        tokenizer("a", ["c"])


def test_tokenize_equals_reference(tokenizer, reference):
    for text in [*TEXTS, "a <mask>b</s>"]:
        assert tokenizer.tokenize(text) == reference.tokenize(text)


def test_save_pretrained_round_trip(tokenizer, tiny_spm, tmp_path):
    directory = tmp_path / "a" / "b"
    small = XLMRobertaXLTokenizer(tiny_spm / "sentencepiece.bpe.model", model_max_length=64)
    for _ in range(2):  # the second time it replaces the first
        assert set(small.save_pretrained(directory)) == set(directory.iterdir())
    saved = (directory / "sentencepiece.bpe.model").read_bytes()
    assert saved == (tiny_spm / "sentencepiece.bpe.model").read_bytes()
    loaded = XLMRobertaXLTokenizer.from_directory(str(directory))
    assert loaded.model_max_length == 64
    assert loaded(TEXTS) == tokenizer(TEXTS)


def test_save_pretrained_loads_in_transformers(tokenizer, tmp_path):
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("google.protobuf", reason="transformers reads sentencepiece files by way of protobuf")
    tokenizer.save_pretrained(tmp_path)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert isinstance(theirs, transformers.XLMRobertaTokenizer)
    assert theirs.model_max_length == 512
    for text in [*TEXTS, "a <mask>"]:
        assert theirs(text).input_ids == tokenizer(text).input_ids


@pytest.mark.parametrize(
    ("config", "length"), [({}, 512), ({"model_max_length": 10**30}, 512), ({"model_max_length": 1024}, 1024)]
)
def test_from_directory_reads_model_max_length(tiny_spm, tmp_path, config, length):
    (tmp_path / "sentencepiece.bpe.model").write_bytes((tiny_spm / "sentencepiece.bpe.model").read_bytes())
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    assert XLMRobertaXLTokenizer.from_directory(tmp_path).model_max_length == length


def test_from_directory_damaged_raises(tiny_spm, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no sentencepiece\.bpe\.model and no tokenizer\.json"):
        XLMRobertaXLTokenizer.from_directory(tmp_path)
    (tmp_path / "sentencepiece.bpe.model").write_bytes((tiny_spm / "sentencepiece.bpe.model").read_bytes())
    (tmp_path / "tokenizer_config.json").write_text("[1, 2")
    with pytest.raises(CheckpointError, match=r"tokenizer_config.json"):
        XLMRobertaXLTokenizer.from_directory(tmp_path)


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("options", [{}, {"pad_to_multiple_of": 8}, {"padding": "max_length", "max_length": 13}])
def test_call_with_padding_side_equals_reference(tokenizer, reference, side, options):
    options = {"padding": True, "return_token_type_ids": True, **options}
    texts = ["Hello", "Hello world, a longer one"]
    expected = reference_rows(reference, texts, padding_side=side, **options)
    assert tokenizer(texts, padding_side=side, **options) == expected
    other = copy.copy(tokenizer)
    other.padding_side = side
    assert other(texts, **options) == expected
    assert tokenizer.padding_side == "right"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"padding": True, "padding_side": "both"}, "padding_side='both' must be one of"),
        ({"padding_side": "left"}, "padding_side='left' has no effect"),
        ({"pad_to_multiple_of": 8}, "pad_to_multiple_of=8 has no effect"),
        ({"padding": True, "pad_to_multiple_of": 0}, "pad_to_multiple_of=0 must be a positive integer"),
    ],
)
def test_call_with_invalid_padding_raises(tokenizer, options, message):
    with pytest.raises(ValueError, match=message):
        tokenizer("a", **options)
