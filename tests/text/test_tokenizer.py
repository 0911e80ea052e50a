from __future__ import annotations

import json
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import sentencepiece
import torch

from skxlmr.checkpoints.errors import CheckpointError
from skxlmr.text.piece_encoder import CHARACTERS_PER_THREAD
from skxlmr.text.tokenizer import XLMRobertaXLTokenizer

TEXTS = [
    "Hello world!",
    "",
    "  All human beings \n are born free ",
    "人人生而自由，在尊严和权利上一律平等。",
    "يولد جميع الناس أحرارًا",
    "सभी मनुष्यों को गौरव",
    "𓀀𓀁 unknown 😀",
    "ﬁne Ｆｕｌｌ ㌔",
]


def reference_rows(reference, *texts, **options):
    return reference(*texts, **options).data


# -- the interface of the estimators -------------------------------------------------------------------------------


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


# -- the interface of the reference --------------------------------------------------------------------------------


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


def test_batch_encoding_moves_and_unpacks(tokenizer):
    encoding = tokenizer("Hello", return_tensors="pt", return_attention_mask=False)
    assert encoding.to("meta") is encoding
    assert encoding.input_ids.device.type == "meta"
    assert dict(**encoding).keys() == {"input_ids"}
    assert tokenizer("Hello").to("cpu") == tokenizer("Hello")
    with pytest.raises(AttributeError, match="no 'attention_mask' in this encoding; it has input_ids"):
        _ = encoding.attention_mask


def test_call_with_max_length_pads_and_truncates(tokenizer):
    encoding = tokenizer("Hello", padding="max_length", max_length=9)
    assert len(encoding.input_ids) == 9
    assert len(tokenizer("Hello", padding="max_length").input_ids) == 512
    assert len(tokenizer("Hello " * 600, truncation=True).input_ids) == 512
    assert len(tokenizer("Hello " * 600).input_ids) > 512  # truncation has to be requested


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"padding": "right"}, "padding='right' must be one of False, True, 'longest', 'max_length'"),
        ({"truncation": "only_third"}, "truncation='only_third' must be one of"),
        ({"return_tensors": "tf"}, "return_tensors='tf' must be one of None, 'pt', 'np'"),
        ({"max_length": 5}, "max_length=5 has no effect"),
        ({"stride": 5}, "stride=5 has no effect"),
        ({"return_overflowing_tokens": True}, "return_overflowing_tokens=True has no effect"),
        ({"truncation": "only_second"}, "only='second' for a single text"),
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


# -- directories ---------------------------------------------------------------------------------------------------


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
