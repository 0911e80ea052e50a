"""Words of pieces, and tokens of strings."""

import numpy as np
import pytest

from skxlmr.checkpoints.added_tokens import AddedToken
from skxlmr.model import XLMRobertaXLTokenizer
from skxlmr.text.vocabulary import Vocabulary
from skxlmr.text.words import INVISIBLE, _kind, split_words, word_starts


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


def tokens(text):
    return [text[start:stop] for start, stop in split_words(text)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("ผมชื่อ", "ผ ม ชื่ อ"), ("น้ำ ๒๕๖๐ปี", "น้ำ ๒๕๖๐ ปี"), ("เด็กๆ", "เ ด็ ก ๆ"),
        ("ຂ້ອຍ", "ຂ້ ອ ຍ"), ("ນ້ຳ", "ນ້ຳ"),
        ("ខ្ញុំរស់នៅ", "ខ្ញុំ រ ស់ នៅ"), ("ភ្នំពេញ", "ភ្នំ ពេ ញ"), ("ស្ត្រី", "ស្ត្រី"),
        ("ကျွန်တော်", "ကျွ န် တော်"), ("သတ္တဝါ", "သ တ္တ ဝါ"), ("၂၀၂၄ခု", "၂၀၂၄ ခု"),
        ("ꦲꦏ꧀ꦱꦫ", "ꦲ ꦏ꧀ꦱ ꦫ"), ("ᬅᬓ᭄ᬱᬭ", "ᬅ ᬓ᭄ᬱ ᬭ"),
        ("Thaiไทยabc", "Thai ไ ท ย abc"),
    ],
)  # fmt: skip
def test_split_words_of_scripts_without_spaces_splits_grapheme_clusters(text, expected):
    assert tokens(text) == expected.split()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("ｶﾀｶﾅ", ["ｶ", "ﾀ", "ｶ", "ﾅ"]), ("ｶﾞｰﾄﾞ", ["ｶﾞ", "ｰ", "ﾄﾞ"]), ("ガード", ["ガ", "ー", "ド"]),
        ("ab\u200bcd", ["ab", "cd"]), ("\u200b", []), ("រស់\u200bនៅ", ["រ", "ស់", "នៅ"]),
        ("\ufeffAda met\ufeff", ["Ada", "met"]), ("\u200fحيفا\u200e", ["حيفا"]),
        ("\u202aab\u202c, c", ["ab", ",", "c"]), ("\ufeff\u200e", []), ("你\u200e好", ["你", "好"]),
        ("a\u200eb", ["a\u200eb"]), ("\u2068ab\u2069\u200e", ["ab"]),
        ("می\u200cخواهم", ["می\u200cخواهم"]), ("co\u00adop", ["co\u00adop"]), ("!\u200f", ["!"]),
    ],
)  # fmt: skip
def test_split_words_of_invisible_characters_and_half_width_katakana(text, expected):
    assert tokens(text) == expected


def test_split_words_of_random_characters_covers_all_visible_ones_once():
    rng = np.random.RandomState(0)
    characters = [
        chr(c) for c in [*range(32, 1500), *range(0xE00, 0x1200), *range(0x1780, 0x1800), *range(0x2000, 0x2070)]
    ]
    for _ in range(300):
        text = "".join(rng.choice(characters, 20))
        at = split_words(text)
        assert (at[:, 0] < at[:, 1]).all()
        assert (at[1:, 0] >= at[:-1, 1]).all()
        outside = set(range(len(text))) - {i for start, stop in at for i in range(start, stop)}
        assert all(text[i] in INVISIBLE | {"\u200b"} or _kind(text[i]) == "space" for i in outside)


def test_word_starts_at_added_tokens(tokenizer):
    added = [AddedToken(len(tokenizer), "covid19")]
    vocabulary = Vocabulary(tokenizer.vocabulary.model, added)
    ids = np.array([5, len(tokenizer), len(tokenizer), 5])
    assert word_starts(vocabulary, ids).tolist() == [True] * 4
