import unicodedata

import numpy as np
import pytest

from skxlmr.datasets.places import Place, find_text

ARABIC = "مركز المدينة هو مركز تعليميّ،  ثقافيّ، اجتماعيّ عام"
NFD_KOREAN = unicodedata.normalize("NFD", "그는 한국 사람이다.")


@pytest.mark.parametrize(
    ("text", "context", "start", "found"),
    [
        ("Ada", "by Ada", 3, "Ada"),
        ("Ada", "by Ada", None, "Ada"),
        ("هو مركز تعليميّ، ثقافيّ، اجتماعيّ", ARABIC, 13, "هو مركز تعليميّ،  ثقافيّ، اجتماعيّ"),
        ("New York", "to New\nYork.", None, "New\nYork"),
        ("New  York ", "to New York.", None, "New York"),
        (" Ada", "by\tAda", 2, "Ada"),
        ("Ada ", "by Ada, who", 3, "Ada"),
        ("鲁 迅", "作家鲁迅。", None, "鲁迅"),
        ("U.S. - led", "the U.S.-led war", None, "U.S.-led"),
        ("New York", "to New\u200bYork.", None, "New\u200bYork"),
        ("حيفا", "في حي\u200fفا", None, "حي\u200fفا"),
        ("café", "a cafe\u0301.", None, "cafe\u0301"),
        ("cafe\u0301", "a café.", 2, "café"),
        ("Hà Nội", unicodedata.normalize("NFD", "ở Hà Nội"), None, unicodedata.normalize("NFD", "Hà Nội")),
        ("한국", NFD_KOREAN, None, unicodedata.normalize("NFD", "한국")),
        ("한국", NFD_KOREAN, 3, unicodedata.normalize("NFD", "한국")),  # a start that counts characters in NFC
        ("a\u0323\u0301", "x a\u0301\u0323 y", None, "a\u0301\u0323"),  # marks in another order
        ("１２", "in 12 days", None, "12"),
    ],
)
def test_find_text_finds_what_differs_in_white_space_or_composition(text, context, start, found):
    place = find_text(text, context, start)
    assert context[place.start : place.stop] == found
    assert place.is_unique


@pytest.mark.parametrize(
    ("text", "context"),
    [
        ("Eve", "Ada"),
        ("e", "\u00e9"),
        ("e ", "cafe\u0301"),  # a part of a character
        ("x ", "x\u0323"),
        ("하 ", NFD_KOREAN.replace(" ", "")),
        ("12", "page 1 2"),
        ("fi x", "ﬁ"),
        ("f", "ﬁ"),
        (" ", "a b"),
        ("", "a b"),
    ],
)
def test_find_text_of_what_is_not_there_raises(text, context):
    with pytest.raises(ValueError, match="does not stand in its context"):
        find_text(text, context)


@pytest.mark.parametrize(
    ("start", "expected"), [(4, 4), (10, 10), (14, 18), (None, 4)], ids=["first", "second", "single-spaces", "no-start"]
)
def test_find_text_takes_the_place_of_the_start(start, expected):
    context = "the Ada   Ada     Ada"
    if start is None:
        assert find_text("Ada", context) == Place(4, 7, is_unique=False)
    else:
        context = "the Ada 12Ada     Ada" if start == 14 else context
        assert find_text("Ada", context, start).start == expected


@pytest.mark.parametrize("start", [-1, 1, 5, 99])
def test_find_text_with_wrong_start_raises_and_says_where_it_is(start):
    with pytest.raises(ValueError, match=rf"at character {start}, where .* is, but at 3. Starts count"):
        find_text("Ada", "by Ada met Bob", start)


def test_find_text_finds_changed_slices_of_random_texts():
    """Slices of contexts in another composition and with other white space are found where they were cut."""
    rng = np.random.RandomState(0)
    alphabet = [*"aeéệ ñ한글é ا،ب 北1 \n\t.", "e\u0301", "ᄒ\u1161\u11ab"]
    for _ in range(1500):
        words = ["".join(rng.choice(alphabet, 6)).strip() or "x" for _ in range(5)]
        context = "  ".join(words)
        text = " ".join(words[1:4])
        start = len(words[0]) + 2
        for form in ("NFC", "NFD"):
            place = find_text(unicodedata.normalize(form, text), context, start)
            got = context[place.start : place.stop]
            assert got.split() == text.split()
            assert place.start == start
