"""Words that explanations give a value to."""

import pytest

from skxlmr.inspection.words import whole_words


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("I don't know: it’s 3.14, or 1,000?", ["I", "don't", "know", ":", "it’s", "3.14", ",", "or", "1,000", "?"]),
        ("'quoted' text...", ["'", "quoted", "'", "text", ".", ".", "."]),
        ("rock 'n' roll", ["rock", "'", "n", "'", "roll"]),
        ("well-known snake_case U.S. e.g. x", ["well", "-", "known", "snake_case", "U.S", ".", "e.g", ".", "x"]),
        ("a.b.c,d", ["a.b.c", ",", "d"]),
        ("你好,世界!3.5米", ["你", "好", ",", "世", "界", "!", "3.5", "米"]),
        ("สวัสดี", ["ส", "วั", "ส", "ดี"]),
        ("हिन्दी में", ["हिन्दी", "में"]),
        ("تعيش آدا، في روما.", ["تعيش", "آدا", "،", "في", "روما", "."]),
        ("👩‍👩‍👧👍🏽 🇩🇪🇫🇷!", ["👩‍👩‍👧", "👍🏽", "🇩🇪", "🇫🇷", "!"]),
        ("  \n\t ", []),
        ("", []),
    ],
)
def test_words_are_parts_of_the_text(text, words):
    found = whole_words(text)
    assert found.shape == (len(words), 2)
    assert [text[start:end] for start, end in found] == words
