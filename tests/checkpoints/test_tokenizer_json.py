"""tokenizer.json files of transformers, compared with the sentencepiece models that they were made from."""

import json
import shutil
import unicodedata

import numpy as np
import pytest
import transformers

from skxlmr.checkpoints.errors import CheckpointError
from skxlmr.model import XLMRobertaXLTokenizer

TEXTS = [
    "All human beings are born free and equal in dignity and rights.",
    "人人生而自由，在尊严和权利上一律平等。 Ａｌｌ",
    "  two  spaces\tand\nlines ",
    "",
    "une idée, ﬁne 🎬 ½",
    unicodedata.normalize("NFD", "Würde und Brüderlichkeit"),
]


@pytest.fixture(scope="module")
def real(shared_data):
    """Our tokenizer with the vocabulary of XLM-RoBERTa."""
    return XLMRobertaXLTokenizer.from_directory(shared_data / "xlmr_vocabulary")


def rewritten(source, directory):
    """Save the tokenizer of a directory with transformers to another directory."""
    transformers.XLMRobertaTokenizer.from_pretrained(source).save_pretrained(directory)
    assert not (directory / "sentencepiece.bpe.model").exists()
    return directory


def assert_same(ours, theirs, texts):
    assert len(ours) == len(theirs)
    for a, b in zip(ours.encode_batch(texts), theirs.encode_batch(texts), strict=True):
        np.testing.assert_array_equal(a, b)


def test_tokenizer_from_tokenizer_json_equals_original(tiny_spm, tmp_path):
    original = XLMRobertaXLTokenizer.from_directory(tiny_spm)
    ours = XLMRobertaXLTokenizer.from_pretrained(rewritten(tiny_spm, tmp_path / "json"))
    assert_same(ours, original, TEXTS)
    ours.save_pretrained(tmp_path / "again")
    assert_same(XLMRobertaXLTokenizer.from_directory(tmp_path / "again"), original, TEXTS)
    small, kept = ours.trim(ours.encode_batch(TEXTS[:1])[0])
    np.testing.assert_array_equal(kept[small.encode_batch(TEXTS[:1])[0]], original.encode_batch(TEXTS[:1])[0])


def test_tokenizer_from_real_tokenizer_json_equals_original(real, shared_data, tmp_path):
    ours = XLMRobertaXLTokenizer.from_directory(rewritten(shared_data / "xlmr_vocabulary", tmp_path))
    texts = list(TEXTS)
    for language in ("eng_Latn", "jpn_Jpan", "zho_Hans", "arb_Arab", "hin_Deva"):
        texts += (shared_data / "sib200" / language / "test.tsv").read_text(encoding="utf-8").splitlines()
    assert_same(ours, real, texts)


@pytest.mark.parametrize("whole", [True, False], ids=["whole", "trimmed"])
def test_save_pretrained_writes_tokenizer_json_of_transformers(whole, tiny_spm, tmp_path):
    original = XLMRobertaXLTokenizer.from_directory(tiny_spm)
    if not whole:
        original, _ = original.trim(original.encode_batch(TEXTS[:1])[0])
    original.save_pretrained(tmp_path / "ours")
    written = json.loads((tmp_path / "ours" / "tokenizer.json").read_text(encoding="utf-8"))
    (tmp_path / "bare").mkdir()
    shutil.copy(tmp_path / "ours" / "sentencepiece.bpe.model", tmp_path / "bare")
    expected = json.loads((rewritten(tmp_path / "bare", tmp_path / "theirs") / "tokenizer.json").read_text("utf-8"))
    for special in (*expected["added_tokens"], *written["added_tokens"]):
        special.pop("lstrip")  # new versions of transformers omit it for <mask>; published checkpoints have it
    metaspaces = (written["decoder"], written["pre_tokenizer"]["pretokenizers"][1])
    assert [spaces.pop("add_prefix_space") for spaces in metaspaces] == [True, True]  # for old versions
    assert written == expected


def test_transformers_with_written_tokenizer_json_gives_same_ids(real, shared_data, tmp_path):
    real.save_pretrained(tmp_path)
    (tmp_path / "sentencepiece.bpe.model").unlink()
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    for language in ("eng_Latn", "jpn_Jpan", "arb_Arab"):
        for text in (shared_data / "sib200" / language / "test.tsv").read_text(encoding="utf-8").splitlines():
            assert theirs(text).input_ids == real(text).input_ids
    assert theirs("a b", "c <mask>").input_ids == real("a b", "c <mask>").input_ids


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda c: c["model"].update(type="WordPiece"), "a tokenizer of type 'WordPiece', not 'Unigram'"),
        (lambda c: c["model"]["vocab"].insert(0, ["<pad>", 0.0]), "other ids of special tokens"),
        (lambda c: c["model"]["vocab"].pop(), "other ids of special tokens"),
        (lambda c: c["model"].pop("vocab"), "cannot be read as a tokenizer"),
        (lambda c: c["model"].update(vocab=[]), "cannot be read as a tokenizer"),
        (lambda c: c["model"]["vocab"].insert(5, ["a", "b"]), "cannot be read as a tokenizer"),
        (lambda c: c["pre_tokenizer"].update(pretokenizers=[{"type": "Digits"}]), "a pre-tokenizer that is not"),
        (lambda c: c.update(normalizer={"kind": "NFKC"}), "cannot be read as a tokenizer"),
        (lambda c: c["normalizer"].update(precompiled_charsmap="a*"), "cannot be read as a tokenizer"),
    ],
    ids=range(9),
)
def test_read_tokenizer_json_with_unsupported_tokenizer_raises(edit, message, tiny_spm, tmp_path):
    path = rewritten(tiny_spm, tmp_path) / "tokenizer.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    several = {"type": "Sequence", "normalizers": [{"type": "Strip"}, content["normalizer"]]}
    path.write_text(json.dumps({**content, "normalizer": several}), encoding="utf-8")
    XLMRobertaXLTokenizer.from_directory(tmp_path)
    edit(content)
    path.write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(CheckpointError, match=message):
        XLMRobertaXLTokenizer.from_directory(tmp_path)
