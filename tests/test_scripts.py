import unicodedata

import pytest

from skxlmr.metrics import normalize_answer
from skxlmr.scripts import SCRIPTS, scripts_of, unspaced_script

UNICODE_NAMES = {  # beginnings of the names of characters
    "Han": ("CJK UNIFIED", "CJK COMPATIBILITY IDEOGRAPH", "IDEOGRAPHIC ITERATION MARK"),
    "Kana": ("HIRAGANA", "KATAKANA", "HENTAIGANA"),
    "Bopomofo": ("BOPOMOFO",),
    "Thai": ("THAI",),
    "Lao": ("LAO",),
    "Tibetan": ("TIBETAN",),
    "Myanmar": ("MYANMAR",),
    "Khmer": ("KHMER",),
    "Tai Le, New Tai Lue": ("TAI LE ", "NEW TAI LUE"),
    "Lanna": ("TAI THAM",),  # codespell:ignore tham
    "Tai Viet": ("TAI VIET",),
    "Balinese": ("BALINESE",),
    "Javanese": ("JAVANESE",),
}


@pytest.mark.parametrize("name", SCRIPTS)
def test_unspaced_script_covers_all_letters_of_the_script(name):
    letters = [chr(i) for i in range(0x11000) if unicodedata.category(chr(i))[0] in "LMN"]
    letters += [chr(i) for i in range(0x1AFF0, 0x32400) if unicodedata.category(chr(i))[0] in "LMN"]
    found = [c for c in letters if unicodedata.name(c, "").startswith(UNICODE_NAMES[name])]
    assert len(found) > 30
    assert {unspaced_script(c) for c in found} == {SCRIPTS[name]}


def test_unspaced_script_of_spaced_scripts_is_none():
    assert not any(map(unspaced_script, "aßЖαहعא한ጀ 1.、"))


@pytest.mark.parametrize("language", [code for script in SCRIPTS.values() for code in script.languages])
def test_normalize_answer_in_unspaced_language_separates_characters(language):
    assert normalize_answer("国国", language) == "国 国"


def test_scripts_of_texts_are_ordered_and_rare_ones_left_out():
    assert scripts_of([]) == []
    assert scripts_of(["123 !?", "😀"]) == []
    assert scripts_of(["語", "カナ", "かな", "ABC", "สวัสดี", "مرحبا", "안녕"]) == [
        "Kana", "Arabic", "Han", "Hangul", "Latin", "Thai",
    ]  # fmt: skip
    assert scripts_of(["hello"] * 199 + ["привет"]) == ["Latin"]
    assert scripts_of(["hello"] * 19 + ["привет"]) == ["Latin", "Cyrillic"]
    assert scripts_of([f"a{chr(0xD800)}", "ᵃªº𝐀ﬁ"]) == ["Latin"]
