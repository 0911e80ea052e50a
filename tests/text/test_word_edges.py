import pytest

from skxlmr.text.word_edges import word_edges


def marked(text, side):
    """A text with a bar at each position where something may begin (side 0) or end (1)."""
    return "".join(
        "|" * bool(edge) + character for edge, character in zip(word_edges(text)[side], [*text, ""], strict=True)
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("protected bureau", "|protected| |bureau|"),
        ("l'eau, 5km (2019)", "|l|'|eau|,| |5km| |(|2019|)|"),
        ("Straße", "|Straße|"),
        ("cafe\u0301 x", "|cafe\u0301| |x|"),
        ("हिन्दी में", "|हिन्दी| |में|"),
        ("می\u200cخواهم", "|می\u200cخواهم|"),
        ("北京abc东", "|北|京|abc|东|"),
        ("กินข้าว", "|กิ|น|ข้|า|ว|"),
        ("が\u3099", "|が\u3099|"),
        ("", "|"),
        ("a\u200bb", "|a|\u200b|b|"),
    ],
)
def test_word_edges_are_where_words_begin_and_end(text, expected):
    assert marked(text, 0) == marked(text, 1) == expected


def test_word_edges_of_korean_words_end_before_particles():
    assert marked("서울에서 a", 0) == "|서울에서| |a|"
    assert marked("서울에서 ab", 1) == "|서|울|에|서| |ab|"
