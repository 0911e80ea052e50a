from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import sentencepiece
from texts import TEXTS

from skxlmr.text.piece_encoder import CHARACTERS_PER_THREAD


def test_encode_batch_known_text_has_known_ids(xlmr):
    (ids,) = xlmr.encode_batch(["Hello world!"])
    assert ids.tolist() == [35378, 8999, 38]
    assert xlmr.build_inputs(ids).tolist() == [0, 35378, 8999, 38, 2]
    assert xlmr.build_inputs(ids, ids[:1]).tolist() == [0, 35378, 8999, 38, 2, 2, 35378, 2]
    assert xlmr("Hello world!") == {"input_ids": [0, 35378, 8999, 38, 2], "attention_mask": [1] * 5}


def test_encode_batch_equals_renumbered_sentencepiece(tokenizer, tiny_spm):
    processor = sentencepiece.SentencePieceProcessor(model_file=str(tiny_spm / "sentencepiece.bpe.model"))
    for text, ids in zip(TEXTS, tokenizer.encode_batch(TEXTS), strict=True):
        assert ids.dtype == np.int32
        assert ids.tolist() == [index + 1 if index else 3 for index in processor.encode(text)]
    assert 3 in tokenizer.encode_batch(TEXTS)[6]
    assert tokenizer.encode_batch([]) == []


def test_encode_batch_with_several_threads_equals_one_thread(tokenizer):
    texts = [f"{text} {i}" for i in range(200) for text in TEXTS]
    assert sum(map(len, texts)) > 2 * CHARACTERS_PER_THREAD
    one = tokenizer.encode_batch(texts, num_threads=1)
    for num_threads in (None, 2, 5):
        several = tokenizer.encode_batch(texts, num_threads=num_threads)
        assert all(np.array_equal(a, b) for a, b in zip(one, several, strict=True))


def test_encode_batch_short_texts_uses_one_thread(tokenizer, monkeypatch):
    def encode(text, num_threads=1):
        assert num_threads == 1
        return [5]

    monkeypatch.setattr(tokenizer.vocabulary.processor, "encode", encode, raising=False)
    monkeypatch.setattr("torch.get_num_threads", lambda: 64)
    assert [ids.tolist() for ids in tokenizer.encode_batch(TEXTS)] == [[6]] * len(TEXTS)
    with pytest.raises(AssertionError):
        tokenizer.encode_batch(["a" * CHARACTERS_PER_THREAD] * 2)
    monkeypatch.setattr("torch.get_num_threads", lambda: 1)  # as in a joblib worker
    assert len(tokenizer.encode_batch(["a" * CHARACTERS_PER_THREAD] * 2)) == 2


def test_encode_in_concurrent_threads_equals_sequential(tokenizer):
    expected = [ids.tolist() for ids in tokenizer.encode_batch(TEXTS)]
    barrier = threading.Barrier(4)

    def encode(_):
        barrier.wait()
        return [
            ([ids.tolist() for ids in tokenizer.encode_batch(TEXTS, num_threads=2)])
            + [tokenizer.encode_with_offsets(text)[0].tolist() for text in TEXTS]
            for _ in range(20)
        ]

    with ThreadPoolExecutor(4) as pool:
        for results in pool.map(encode, range(4)):
            assert all(result == expected * 2 for result in results)


def test_encode_batch_name_of_special_token_stays_text(tokenizer):
    text = "<s> a </s><pad> <mask> <unk>"
    (ids,) = tokenizer.encode_batch([text])
    assert not {0, 1, 2, tokenizer.mask_token_id} & set(ids.tolist())
    assert tokenizer.encode_with_offsets(text)[0].tolist() == ids.tolist()
    assert {0, 1, 2, 3, tokenizer.mask_token_id} <= set(tokenizer(text).input_ids)


def test_encode_lone_surrogate_equals_replacement_character(tokenizer):
    broken, replaced = "Hello\ud800 wor\udfffld", "Hello\ufffd wor\ufffdld"
    for num_threads in (1, 2):
        ids, expected = tokenizer.encode_batch([broken, replaced], num_threads=num_threads)
        assert ids.tolist() == expected.tolist()
    assert tokenizer(broken) == tokenizer(replaced)
    assert tokenizer.tokenize(broken) == tokenizer.tokenize(replaced)
    ids, offsets = tokenizer.encode_with_offsets("\ud800a")
    assert offsets[-1].tolist() == [1, 2]


def test_encode_not_a_string_raises(tokenizer):
    with pytest.raises(TypeError, match="not a single str"):
        tokenizer.encode_batch("Hello")
    for bad in (None, 1.5, b"bytes", ["nested"]):
        with pytest.raises(TypeError, match=rf"texts\[1\] is {type(bad).__name__}, not a string"):
            tokenizer.encode_batch(["Hello", bad])
        with pytest.raises(TypeError, match=r"not a string"):
            tokenizer.encode_with_offsets(bad)
        with pytest.raises(TypeError, match=rf"text_pair\[0\] is {type(bad).__name__}"):
            tokenizer(["Hello"], [bad])
    with pytest.raises(ValueError, match="num_threads=0"):
        tokenizer.encode_batch(["Hello"], num_threads=0)


def test_windows_of_one_text_equal_reference(tokenizer, reference):
    text = " ".join(TEXTS)
    (ids,) = tokenizer.encode_batch([text])
    for max_length, stride in [(10, 0), (10, 3), (17, 14), (len(ids) + 1, 2), (len(ids) + 2, 2)]:
        windows = tokenizer.windows(ids, max_length=max_length, stride=stride)
        expected = reference(
            text, truncation=True, max_length=max_length, stride=stride, return_overflowing_tokens=True
        ).input_ids
        assert [window.input_ids.tolist() for window in windows] == expected
        for window in windows:
            assert window.input_ids[1:-1].tolist() == ids[window.start : window.stop].tolist()
            assert window.input_ids.dtype == np.int32


def test_windows_of_pair_equal_reference(tokenizer, reference):
    question, context = TEXTS[0], TEXTS[2] * 5
    ids = tokenizer.encode_batch([question, context])
    expected = reference(
        question, context, truncation="only_second", max_length=40, stride=5, return_overflowing_tokens=True
    ).input_ids
    assert len(expected) > 2
    for only in ("second", "longest"):
        windows = tokenizer.windows(*ids, max_length=40, stride=5, only=only)
        assert [window.input_ids.tolist() for window in windows] == expected
        assert {window.sequence for window in windows} == {1}
    called = tokenizer(
        question, context, truncation="only_second", max_length=40, stride=5, return_overflowing_tokens=True
    )
    assert called.input_ids == expected
    assert called.overflow_to_sample_mapping == [0] * len(expected)


def test_tokenizer_empty_text_has_only_special_tokens(tokenizer):
    (empty,) = tokenizer.encode_batch([""])
    (window,) = tokenizer.windows(empty, max_length=8, stride=2)
    assert window.input_ids.tolist() == [0, 2]
    assert (window.start, window.stop) == (0, 0)
    (window,) = tokenizer.windows(empty, empty, max_length=8, stride=1)
    assert window.input_ids.tolist() == [0, 2, 2, 2]
    assert tokenizer.truncate(empty, max_length=8)[0].tolist() == [0, 2]
    assert tokenizer("").input_ids == [0, 2]
    ids, offsets = tokenizer.encode_with_offsets("")
    assert ids.shape == (0,)
    assert offsets.shape == (0, 2)


def test_truncate_equals_reference_and_counts_dropped_pieces(tokenizer, reference):
    a, b = TEXTS[2], TEXTS[3]
    ids = tokenizer.encode_batch([a, b])
    total = sum(map(len, ids)) + 4
    for max_length in (6, 7, 12, 31, total - 1, total, total + 1):
        inputs, dropped = tokenizer.truncate(*ids, max_length=max_length)
        assert inputs.tolist() == reference(a, b, truncation=True, max_length=max_length).input_ids
        assert dropped == max(0, total - max_length)
    inputs, dropped = tokenizer.truncate(ids[0], max_length=9)
    assert inputs.tolist() == reference(a, truncation=True, max_length=9).input_ids
    assert dropped == len(ids[0]) - 7


def test_windows_without_room_raises(tokenizer):
    ids = tokenizer.encode_batch([TEXTS[0]])[0]
    with pytest.raises(ValueError, match=r"max_length=2 leaves no room for a text beside 2 special tokens.*at least 3"):
        tokenizer.windows(ids, max_length=2, stride=0)
    with pytest.raises(ValueError, match=r"max_length=5 .* a pair of texts beside 4 special tokens.*at least 6"):
        tokenizer.truncate(ids, ids, max_length=5)
    with pytest.raises(ValueError, match=r"stride=7 leaves no way to advance.*below 7"):
        tokenizer.windows(ids, max_length=9, stride=7)


def test_encode_of_a_text_that_is_too_long_raises(tokenizer):
    with pytest.raises(ValueError, match=r"texts\[1\]: the text has 100,000,000 characters.*Split it"):
        tokenizer.encode_batch(["a", "x" * 10**8])
