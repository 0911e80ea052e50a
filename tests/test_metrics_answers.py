"""Scores of answers equal those of the scorers of SQuAD 1.1, 2.0 and MLQA."""

import numpy as np
import pytest
from answer_scorers import ARTICLES, f1_and_exact_match, words_of

from skxlmr.metrics import language_code, normalize_answer, squad_scores, token_f1

N_QUESTIONS = 5000
WORDS = {
    None: "fox red The AN a's theatre an-other “quoted” naïve the, A. thé … $5 5% x_y _a".split(),
    "en": "fox red The AN a's theatre an-other “quoted” naïve the, A. the… $5 the-fox x_y _a_".split(),
    "es": "perro El LA unos, ¿qué? una-vez año el. las… señor lástima los/las niño".split(),
    "de": "Hund Der EINE, das-Haus dessen „Über“ straße STRASSE des… eines. Einerlei den".split(),
    "vi": ["của", "là", "cái,", "Những", "chiếc…", "hoa", "Hà", "Nội", "nhà", "cu\u0309a", "ca\u0301i", "LÀ.", "lành"],
    "ar": ["الكتاب", "ال", "كتاب", "مال", "والقلم", "،", "قلم؟", "البَيت", "بيت", " ال", "الال"],
    "hi": ["घर", "राम,", "है।", "नहीं", "a", "The", "कि", "“घर”", "१२", "हि\u200dन्दी", "॥"],
    "zh": [
        "红",
        "楼梦",
        "《红楼梦》",
        "，",
        "abc",
        "ABC红",
        "12",
        "3.5",
        "〇",
        "㐀",
        "龥",
        "\u9fa6",
        "……",
        "カナ",
        "the",
    ],
}
NOTHING = {
    None: ["the", "A, an", "...", " "],
    "en": ["the", "A, an", "…"],
    "es": ["los", "¡El!"],
    "de": ["die", "„Das“"],
    "vi": ["là", "của…"],
    "ar": ["ال", "،ال"],
    "hi": ["।", "-"],
    "zh": ["《》", "，。"],
}


def questions(language, rng):
    """Predictions and right answers that often share words, or normalise to nothing."""
    words, nothing = WORDS[language], NOTHING[language]

    def answer():
        if rng.rand() < 0.12:
            return nothing[rng.randint(len(nothing))]
        spaces = [" ", "  ", "\t", "" if language in ("zh", "ar") else " "]
        return "".join(words[rng.randint(len(words))] + spaces[rng.randint(4)] for _ in range(rng.randint(1, 5)))

    for _ in range(N_QUESTIONS):
        answers = [answer() for _ in range(rng.randint(1, 4))]
        right = answers[rng.randint(len(answers))]
        yield [answer(), right, right.upper() + "!", "", right + answer()][rng.randint(5)], answers


def assert_scores_equal(expected, prediction, answers, *arguments, **parameters):
    scores = squad_scores([prediction], [answers], *arguments, **parameters)
    assert (scores["f1"], scores["exact_match"]) == pytest.approx(expected, abs=1e-12), (prediction, answers)


@pytest.mark.parametrize("language", [language for language in WORDS if language])
def test_squad_scores_in_language_equal_mlqa(language):
    seen = np.zeros(4, int)
    for prediction, answers in questions(language, np.random.RandomState(0)):
        expected = f1_and_exact_match(prediction, answers, language)
        assert_scores_equal(expected, prediction, answers, language)
        seen += [
            0 < expected[0] < 1,
            expected == (1, 1),
            expected == (0, 1),
            not all(words_of(a, language) for a in answers),
        ]
    assert (seen > 30).all(), "each kind of question must occur"


@pytest.mark.parametrize("version", ["1.1", "2.0"])
def test_squad_scores_equal_squad(version):
    seen = np.zeros(4, int)
    for prediction, answers in questions(None, np.random.RandomState(1)):
        answers = [] if version == "2.0" and seen.sum() % 5 == 0 else answers
        expected = f1_and_exact_match(prediction, answers, version=version)
        assert_scores_equal(expected, prediction, answers, version=version)
        if version == "2.0":
            assert_scores_equal(expected, prediction, answers)
        seen += [0 < expected[0] < 1, expected == (1, 1), expected == (0, 0), expected == (0, 1) or version == "2.0"]
    assert (seen > 30).all(), "each kind of question must occur"


def test_squad_scores_are_means_over_questions():
    asked = list(questions(None, np.random.RandomState(2)))
    each = [f1_and_exact_match(*question, version="2.0") for question in asked]
    got = squad_scores(*zip(*asked, strict=True))
    assert [got["f1"], got["exact_match"]] == pytest.approx(np.mean(each, axis=0))


def test_scores_of_answers_that_normalise_to_nothing_follow_the_version():
    assert squad_scores(["the"], [["a", "cat"]]) == {"f1": 0.0, "exact_match": 0.0}
    assert squad_scores(["the"], [["a", "cat"]], version="1.1") == {"f1": 0.0, "exact_match": 1.0}
    assert squad_scores(["the"], [["a"]]) == squad_scores(["x", ""], [["x"], []]) == {"f1": 1.0, "exact_match": 1.0}
    assert squad_scores(["《》"], [["，"]], "zh") == {"f1": 0.0, "exact_match": 1.0}
    assert squad_scores(["", "红"], [[], [""]], "zh") == {"f1": 0.5, "exact_match": 0.5}, "questions without answers"
    assert token_f1("", "the") == 1.0
    assert token_f1("", "the", version="1.1") == token_f1("", "the", "en") == 0.0


@pytest.mark.parametrize(("language", "code"), [("DE", "de"), ("zh-TW", "zh"), ("zho", "zh"), ("en_US", "en"), ("ceb", "ceb")])  # fmt: skip # noqa: E501
def test_language_code_is_that_of_iso_639(language, code):
    assert language_code(language) == code


def test_scores_with_unknown_language_or_version_raise():
    for language in ("german", "Chinese", "", "d"):
        with pytest.raises(
            ValueError, match=f"language must be a code of ISO 639, such as 'de', or None, got {language!r}"
        ):
            normalize_answer("x", language)
    with pytest.raises(ValueError, match=r"version must be one of \('1.1', '2.0'\) or None, got '2'"):
        squad_scores(["a"], [["a"]], version="2")


def test_articles_are_those_of_the_oracle():
    for language, articles in ARTICLES.items():
        for article in articles.split():
            assert normalize_answer(f"{article} x{article}", language) == f"x{article}"
