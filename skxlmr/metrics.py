"""Scores of taggers and of question answering, equal to those of the standard scorers."""

from __future__ import annotations

import re
import string
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence

from skxlmr.scripts import unspaced_languages
from skxlmr.tags import entity_spans, split_tag, strict_entity_spans
from skxlmr.tags.scores import entity_f1, entity_report

__all__ = [
    "entity_f1",
    "entity_report",
    "entity_spans",
    "exact_match",
    "normalize_answer",
    "split_tag",
    "squad_scores",
    "strict_entity_spans",
    "token_f1",
]

# What the scorer of MLQA (arXiv:1910.07475) removes from answers, by language.
ARTICLES = {
    "en": r"\b(a|an|the)\b",
    "es": r"\b(un|una|unos|unas|el|la|los|las)\b",
    "de": r"\b(ein|eine|einen|einem|eines|einer|der|die|das|den|dem|des)\b",
    "vi": r"\b(của|là|cái|chiếc|những)\b",
    "ar": r"\sال^|ال",
}
# It splits Chinese answers into characters. The same is done here for other languages without spaces between words.
CHINESE = re.compile(r"[\u4e00-\u9fa5]")
WITHOUT_SPACES = unspaced_languages()
ISO_639_3 = {  # and ISO 639-2, of the languages with rules
    "eng": "en", "spa": "es", "deu": "de", "ger": "de", "vie": "vi", "ara": "ar", "arb": "ar",  # codespell:ignore vie
    "zho": "zh", "chi": "zh", "cmn": "zh", "yue": "zh", "jpn": "ja", "tha": "th", "lao": "lo",  # codespell:ignore tha
    "bod": "bo", "tib": "bo", "dzo": "dz", "mya": "my", "bur": "my", "khm": "km",
}  # fmt: skip
VERSIONS = ("1.1", "2.0")


def _is_punctuation(character: str) -> bool:
    return character in string.punctuation or unicodedata.category(character).startswith("P")


def normalize_answer(text: str, language: str | None = None) -> str:
    """Normalise an answer for comparison: lower case, no punctuation, no articles, single spaces.

    Parameters
    ----------
    text : str
    language : str or None, default=None
        None follows SQuAD: removes ASCII punctuation and English articles. A language code such as "de" follows MLQA:
        removes Unicode punctuation and the articles of the language, and separates the characters of languages that
        are written without spaces. Regions are ignored: "zh-TW" is read as "zh".

    Returns
    -------
    str

    Raises
    ------
    ValueError
        If the language is not a code.

    Examples
    --------
    >>> normalize_answer("The  Eiffel Tower!")
    'eiffel tower'
    >>> normalize_answer("《红楼梦》", "zh")
    '红 楼 梦'
    """
    text = text.lower()
    if language is None:
        text = "".join(character for character in text if character not in string.punctuation)
        return " ".join(re.sub(ARTICLES["en"], " ", text).split())
    language = language_code(language)
    text = "".join(character for character in text if not _is_punctuation(character))
    if language in ARTICLES:
        text = re.sub(ARTICLES[language], " ", text)
    if language in WITHOUT_SPACES:
        is_word = CHINESE.match if language == "zh" else str.strip
        text = "".join(f" {character} " if is_word(character) else character for character in text)
    return " ".join(text.split())


def language_code(language: str) -> str:
    """Return the code of a language in two letters if it has one, in small letters and without its region.

    Raises
    ------
    ValueError
        If it is not a code.

    Examples
    --------
    >>> language_code("zh-TW"), language_code("deu")
    ('zh', 'de')
    """
    code = re.split("[-_]", language.lower())[0]
    if not re.fullmatch("[a-z]{2,3}", code):
        raise ValueError(f"language must be a code of ISO 639, such as 'de', or None, got {language!r}.")
    return ISO_639_3.get(code, code)


def exact_match(prediction: str, answer: str, language: str | None = None) -> float:
    """Return 1.0 if two answers are equal after normalisation, else 0.0."""
    return float(normalize_answer(prediction, language) == normalize_answer(answer, language))


def token_f1(prediction: str, answer: str, language: str | None = None, *, version: str | None = None) -> float:
    """Compute the F1 of the words that two answers share.

    Parameters
    ----------
    prediction, answer : str
    language, version : str or None, default=None
        See `squad_scores`. If one of the answers normalises to nothing, F1 is 0 in SQuAD 1.1, and in 2.0 whether both
        do.

    Returns
    -------
    float
    """
    predicted, true = (normalize_answer(text, language).split() for text in (prediction, answer))
    if not predicted or not true:
        return float(predicted == true and _version(version, language) == "2.0")
    n_same = sum((Counter(predicted) & Counter(true)).values())
    return 2 * n_same / (len(predicted) + len(true))


def squad_scores(
    predictions: Iterable[str],
    answers: Iterable[Sequence[str]],
    language: str | None = None,
    *,
    version: str | None = None,
) -> dict[str, float]:
    """Compute the mean F1 and exact match, each with the best matching answer of a question.

    Parameters
    ----------
    predictions : iterable of str
        "" means that there is no answer.
    answers : iterable of sequence of str
        All correct answers of each question; empty if the question has no answer.
    language : str or None, default=None
        See `normalize_answer`.
    version : {"1.1", "2.0"} or None, default=None
        How answers count that normalise to nothing, such as "the": in SQuAD 1.1, and in MLQA, their F1 is 0, and an
        exact match is possible; SQuAD 2.0 leaves them out, and a question that has no others has no answer. None is
        "1.1" for a language, and otherwise "2.0". Questions without answers count as in 2.0.

    Returns
    -------
    dict
        f1 and exact_match, from 0 to 1.

    Raises
    ------
    TypeError
        If the answers of a question are a str; the message names the question.
    ValueError
        If the language is not a code, or the version unknown.

    Examples
    --------
    >>> squad_scores(["the Eiffel Tower", ""], [["Eiffel Tower", "La Tour Eiffel"], []])
    {'f1': 1.0, 'exact_match': 1.0}
    """
    version = _version(version, language)
    totals, n = {"f1": 0.0, "exact_match": 0.0}, 0
    for i, (prediction, of_question) in enumerate(zip(predictions, answers, strict=True)):
        if isinstance(of_question, str):
            raise TypeError(f"the answers of question {i} are a str. Put them into a list: [{of_question!r:.40}].")
        right = [answer for answer in of_question if answer]
        rules = version if right else "2.0"
        if rules == "2.0":
            right = [answer for answer in right if normalize_answer(answer, language)] or [""]
        n += 1
        totals["f1"] += max(token_f1(prediction, answer, language, version=rules) for answer in right)
        totals["exact_match"] += max(exact_match(prediction, answer, language) for answer in right)
    return {name: total / n if n else 0.0 for name, total in totals.items()}


def _version(version: str | None, language: str | None) -> str:
    if version is None:
        return "2.0" if language is None else "1.1"
    if version not in VERSIONS:
        raise ValueError(f"version must be one of {VERSIONS} or None, got {version!r}.")
    return version
