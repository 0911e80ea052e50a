"""Scores of answers equal those of the official scorers of SQuAD and MLQA."""

import pytest

from skxlmr.metrics import exact_match, normalize_answer, squad_scores, token_f1


def test_scores_of_answers_with_invalid_input_name_the_row():
    with pytest.raises(TypeError, match=r"answers of question 1 are a str.*\['fox'\]"):
        squad_scores(["a", "fox"], [["a"], "fox"])


@pytest.mark.parametrize(
    ("text", "language", "expected"),
    [
        ("The  Cat, a dog & the bird.", None, "cat dog bird"),
        ("“Old cat”", None, "“old cat”"),  # SQuAD removes ASCII punctuation only
        ("“The cat”", "en", "cat"),
        ("Der Hund, ein Tier", "de", "hund tier"),
        ("El perro y la casa", "es", "perro y casa"),
        ("《红楼梦》abc 12", "zh", "红 楼 梦 abc 12"),
        ("红楼梦", "zh-CN", "红 楼 梦"),
        ("Der Hund", "DE", "hund"),
        ("東京タワー", "ja", "東 京 タ ワ ー"),
        ("الكتاب", "ar", "كتاب"),
        ("the हिन्दी", "hi", "the हिन्दी"),
    ],
)
def test_normalize_answer_follows_the_language(text, language, expected):
    assert normalize_answer(text, language) == expected


def test_token_f1_and_exact_match_compare_words():
    assert token_f1("the red fox", "red fox jumps") == pytest.approx(2 * 2 / 5)
    assert token_f1("a x x y", "THE x y y") == pytest.approx(2 * 2 / 6)  # articles are removed, repetitions count
    assert token_f1("", "") == 1.0
    assert token_f1("something", "") == 0.0
    assert exact_match("The Fox!", "fox") == 1.0
    scores = squad_scores(["red fox", "", "x"], [["a red fox", "fox"], [], ["y", "x y"]])
    assert scores == {"f1": pytest.approx((1 + 1 + 2 / 3) / 3), "exact_match": pytest.approx(2 / 3)}
