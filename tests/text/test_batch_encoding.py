from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
import torch

from skxlmr.text.batch_encoding import BatchEncoding


def test_batch_encoding_moves_and_unpacks(tokenizer):
    encoding = tokenizer("Hello", return_tensors="pt", return_attention_mask=False)
    assert encoding.to("meta") is encoding
    assert encoding.input_ids.device.type == "meta"
    assert dict(**encoding).keys() == {"input_ids"}
    assert tokenizer("Hello").to("cpu", non_blocking=True) == tokenizer("Hello")
    with pytest.raises(AttributeError, match="no 'attention_mask' in this encoding; it has input_ids"):
        _ = encoding.attention_mask


def test_words_and_characters_of_the_first_row_need_no_row(tokenizer):
    text = "Hello world"
    encoding = tokenizer([text, "a"])
    (start, end), token = encoding.token_to_chars(1), encoding.char_to_token(6)
    assert text[start:end] == encoding.tokens()[1].removeprefix("▁")
    assert encoding.char_to_token(5) is None  # a space
    assert encoding.token_to_word(token) == encoding.char_to_word(6) == 1
    assert encoding.word_to_chars(1) == (6, 11)
    assert encoding.word_to_tokens(1).start == token
    assert encoding.word_to_tokens(0, 1) == encoding.word_to_tokens(1)  # with an index of the row
    assert encoding.token_to_sequence(0) is None
    assert encoding.token_to_chars(-1) is None
    assert len(encoding[1]) == len(encoding.input_ids[1])
    assert encoding[-1].ids == encoding.input_ids[1]
    with pytest.raises(IndexError, match="row 2 does not exist: there are 2 rows"):
        encoding.word_ids(2)


def test_encoding_can_be_pickled_and_copied(tokenizer):
    encoding = tokenizer(["Hello world", "a"], padding=True, return_tensors="pt")
    for again in (pickle.loads(pickle.dumps(encoding)), copy.deepcopy(encoding), copy.copy(encoding)):
        assert again.word_ids(1) == encoding.word_ids(1)
        assert torch.equal(again.input_ids, encoding.input_ids)
    assert len(pickle.dumps(encoding)) < 10_000  # without the vocabulary


def test_padded_encoding_does_not_know_words(tokenizer):
    padded = tokenizer.pad([tokenizer("a")])
    assert padded.encodings is None
    assert not padded.is_fast
    with pytest.raises(ValueError, match="does not know the words and characters of its tokens"):
        padded.word_ids()


def test_convert_to_tensors(tokenizer):
    encoding = tokenizer("Hello").convert_to_tensors("pt", prepend_batch_axis=True)
    assert torch.equal(encoding.input_ids, tokenizer("Hello", return_tensors="pt").input_ids)
    values = BatchEncoding({"a": [1, 2], "b": [0.5], "c": [True], "d": np.ones(2, np.float32)}, tensor_type="pt")
    assert [values[name].dtype for name in "abc"] == [torch.int64, torch.float32, torch.bool]
    with pytest.raises(ValueError, match="b cannot become a tensor"):
        BatchEncoding({"b": [[1], 2]}, tensor_type="np")
    with pytest.raises(ValueError, match="return_tensors='tf' must be one of"):
        tokenizer("a").convert_to_tensors("tf")
