import numpy as np

from skxlmr.model import XLMRobertaXLTokenizer
from skxlmr.text.words import word_starts


def words(text, *more):
    """Return the words of texts, without spaces."""
    tokenizer = XLMRobertaXLTokenizer.from_pretrained("nano")
    ids = np.concatenate(tokenizer.encode_batch([text, *more]))
    found = []
    for piece, begins in zip(tokenizer.convert_ids_to_tokens(ids), word_starts(tokenizer.vocabulary, ids), strict=True):
        found = [*found, piece] if begins else [*found[:-1], found[-1] + piece]
    return [word.replace("▁", "") for word in found]


def test_word_starts_after_spaces_and_punctuation():
    assert words("Unbelievable, isn't it?") == ["Unbelievable", ",", "isn", "'", "t", "it", "?"]
    assert words("Donaudampfschifffahrt") == ["Donaudampfschifffahrt"]
    assert words("a (b) c") == ["a", "(", "b", ")", "c"]
    assert words("непредсказуемость и हिन्दी") == ["непредсказуемость", "и", "हिन्दी"]


def test_word_starts_at_each_piece_of_unspaced_script():
    for text in ("我们都很喜欢这部电影", "とても面白い映画でした", "ภาพยนตร์เรื่องนี้สนุกมาก"):
        found = [word for word in words(text) if word]
        assert len(found) > 3
        assert "".join(found) == text
    assert words("abc我们def")[-1] == "def"


def test_word_starts_of_several_texts():
    assert words("un film", "étrange") == ["un", "film", "étrange"]
    tokenizer = XLMRobertaXLTokenizer.from_pretrained("nano")
    assert word_starts(tokenizer.vocabulary, np.empty(0, np.int32)).shape == (0,)
