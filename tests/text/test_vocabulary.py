from __future__ import annotations

import copy
import io
import pickle

import numpy as np
import pytest
import sentencepiece
import torch
from sentencepiece import SentencePieceTrainer

from skxlmr.checkpoints.errors import CheckpointError
from skxlmr.text.tokenizer import XLMRobertaXLTokenizer


def test_convert_ids_has_fairseq_layout(tokenizer, tiny_spm):
    processor = sentencepiece.SentencePieceProcessor(model_file=str(tiny_spm / "sentencepiece.bpe.model"))
    assert tokenizer.vocab_size == len(tokenizer) == len(processor) + 2
    assert tokenizer.mask_token_id == len(processor) + 1
    tokens = tokenizer.convert_ids_to_tokens(range(len(tokenizer)))
    assert tokens == ["<s>", "<pad>", "</s>", "<unk>", *map(processor.id_to_piece, range(3, len(processor))), "<mask>"]
    assert tokenizer.convert_tokens_to_ids(tokens) == list(range(len(tokenizer)))
    assert tokenizer.all_special_ids == tokenizer.convert_tokens_to_ids(tokenizer.all_special_tokens)


@pytest.mark.parametrize("name", ["bos", "cls", "pad", "eos", "sep", "unk", "mask"])
def test_special_tokens_equal_reference(tokenizer, reference, name):
    for attribute in (f"{name}_token", f"{name}_token_id"):
        assert getattr(tokenizer, attribute) == getattr(reference, attribute)


def test_vocab_size_of_real_vocabulary(xlmr):
    assert xlmr.vocab_size == 250002
    assert xlmr.mask_token_id == 250001
    assert xlmr.convert_tokens_to_ids("▁Hello") == 35378


def test_convert_tokens_to_ids_unknown_is_unk(tokenizer):
    assert tokenizer.convert_tokens_to_ids("no such piece") == tokenizer.unk_token_id
    assert tokenizer.convert_tokens_to_ids(["\ud800", "<mask>", ""]) == [3, tokenizer.mask_token_id, 3]
    assert tokenizer.convert_tokens_to_ids([]) == tokenizer.convert_ids_to_tokens([]) == []


@pytest.mark.parametrize("skip", [False, True])
@pytest.mark.parametrize("text", ["Hello world!", "人人 <mask> Würde", "<mask>", "", "a <unk> b</s>c", "𓀀 ok"])
def test_decode_equals_reference(tokenizer, reference, text, skip):
    ids = tokenizer(text).input_ids
    assert tokenizer.decode(ids, skip_special_tokens=skip) == reference.decode(ids, skip_special_tokens=skip)


def test_decode_accepts_arrays_tensors_and_numbers(tokenizer):
    ids = tokenizer("Hello world!").input_ids
    for given in (np.array(ids), torch.tensor(ids), iter(ids), [np.int32(index) for index in ids]):
        assert tokenizer.decode(given) == "<s> Hello world!</s>"
    assert tokenizer.decode(ids[1]) == tokenizer.convert_ids_to_tokens(torch.tensor(ids[1])).replace("▁", "")
    assert tokenizer.batch_decode(torch.tensor([ids, ids]), skip_special_tokens=True) == ["Hello world!"] * 2


def test_decode_invalid_ids_raises(tokenizer):
    for index in (-1, len(tokenizer)):
        with pytest.raises(ValueError, match=rf"ids\[1\] = {index} is not in the vocabulary"):
            tokenizer.decode([5, index])
    with pytest.raises(ValueError, match="batch_decode"):
        tokenizer.decode([[5]])
    with pytest.raises(ValueError, match=r"ids\[0\] must be an integer"):
        tokenizer.decode("Hello")


def test_get_special_tokens_mask_equals_reference(tokenizer, reference):
    ids = tokenizer("Hello <mask> 𓀀", padding="max_length", max_length=16).input_ids
    mask = tokenizer.get_special_tokens_mask(ids, already_has_special_tokens=True)
    assert mask == reference.get_special_tokens_mask(ids, already_has_special_tokens=True)
    assert mask[0] == mask[-1] == 1
    assert sum(mask) < len(mask)
    assert tokenizer.get_special_tokens_mask(torch.tensor([ids]), already_has_special_tokens=True) == [mask]


def test_tokenizer_pickled_or_copied_is_independent_and_equal(tokenizer):
    tokenizer = copy.copy(tokenizer)
    tokenizer.model_max_length = 77
    for other in (pickle.loads(pickle.dumps(tokenizer)), copy.copy(tokenizer), copy.deepcopy(tokenizer)):
        assert type(other) is XLMRobertaXLTokenizer
        assert other.model_max_length == 77
        assert other("Hello <mask>") == tokenizer("Hello <mask>")
        other.model_max_length = 5
    assert tokenizer.model_max_length == 77


def test_tokenizer_missing_or_damaged_model_raises(tiny_spm, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no sentencepiece model at .*nowhere"):
        XLMRobertaXLTokenizer(tmp_path / "nowhere.model")
    with pytest.raises(ValueError, match=r"is a directory.*from_directory"):
        XLMRobertaXLTokenizer(tiny_spm)
    model = (tiny_spm / "sentencepiece.bpe.model").read_bytes()
    for broken in (b"", b"not a model at all", bytes(100), model[: len(model) // 2]):
        (tmp_path / "broken.model").write_bytes(broken)
        with pytest.raises(CheckpointError, match=r"broken.model \(\d+ bytes\) is not a sentencepiece model"):
            XLMRobertaXLTokenizer(tmp_path / "broken.model")
        with pytest.raises(ValueError, match="the bytes given"):
            XLMRobertaXLTokenizer(broken)


def test_tokenizer_unsupported_layout_raises(train_spm):
    with pytest.raises(ValueError, match=r"have the ids \(2, 0, 1\), and must have \(0, 1, 2\)"):
        XLMRobertaXLTokenizer(train_spm(unk_id=2, bos_id=0, eos_id=1))


def test_trim_encodes_kept_pieces_as_before(xlmr, shared_data):
    """With the vocabulary of XLM-R: for the texts that it was trimmed to, and others with the same pieces."""
    lines = [
        line.split("\t")[2]
        for language in ("eng_Latn", "zho_Hans", "arb_Arab", "hin_Deva")
        for line in (shared_data / "sib200" / language / "train.tsv").read_text(encoding="utf-8").splitlines()[1:]
    ]
    half = xlmr.encode_batch(lines[::2])
    small, kept = xlmr.trim(np.concatenate(half))
    assert len(small) == len(kept) < len(xlmr) / 5
    for line, ids in zip(lines[::2], small.encode_batch(lines[::2]), strict=True):
        np.testing.assert_array_equal(kept[ids], *xlmr.encode_batch([line]))
    known, n_same, n_other = set(kept.tolist()), 0, 0
    for whole, ids in zip(xlmr.encode_batch(lines[1::2]), small.encode_batch(lines[1::2]), strict=True):
        if known.issuperset(whole.tolist()):
            np.testing.assert_array_equal(kept[ids], whole)
            n_same += 1
        else:
            assert small.decode(ids) == xlmr.decode(whole)
            n_other += 1
    assert n_same > 50
    assert n_other > 50


def test_trim_keeps_characters_and_special_tokens(tokenizer):
    small, kept = tokenizer.trim([])
    assert small.all_special_tokens == tokenizer.all_special_tokens
    assert small.convert_tokens_to_ids(small.all_special_tokens) == [0, 2, 3, 1, len(small) - 1]
    assert kept[small.mask_token_id] == tokenizer.mask_token_id
    np.testing.assert_array_equal(kept, np.unique(kept))
    assert small.convert_ids_to_tokens(range(len(small))) == tokenizer.convert_ids_to_tokens(kept)
    text = "All human beings 人人 \U0001f3ac"
    assert small.decode(small.encode_batch([text])[0]) == tokenizer.decode(tokenizer.encode_batch([text])[0])
    assert all(len(token) == 1 for token in small.tokenize("dignity"))
    again = pickle.loads(pickle.dumps(small))
    assert again.tokenize(text) == small.tokenize(text)
    _, same = small.trim(range(len(small)))
    np.testing.assert_array_equal(same, np.arange(len(small)))


@pytest.mark.parametrize("ids", [[-1], [10**6]])
def test_trim_invalid_ids_raises(tokenizer, ids):
    with pytest.raises(ValueError, match="but the vocabulary has"):
        tokenizer.trim(ids)


def test_trim_bpe_model_raises(tmp_path):
    model = io.BytesIO()
    SentencePieceTrainer.train(
        sentence_iterator=iter(["low lower lowest"] * 9), model_writer=model, vocab_size=16, model_type="bpe",
        hard_vocab_limit=False, minloglevel=2,
    )  # fmt: skip
    tokenizer = XLMRobertaXLTokenizer(model.getvalue())
    with pytest.raises(ValueError, match="not a unigram model"):
        tokenizer.trim([5])
    written = tokenizer.save_pretrained(tmp_path)
    assert sorted(path.name for path in written) == ["sentencepiece.bpe.model", "tokenizer_config.json"]
