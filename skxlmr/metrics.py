"""Scores of taggers and of question answering, equal to those of the standard scorers."""

from __future__ import annotations

import re
import string
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np

from skxlmr.scripts import unspaced_languages

__all__ = [
    "entity_f1",
    "entity_spans",
    "exact_match",
    "normalize_answer",
    "split_tag",
    "squad_scores",
    "strict_entity_spans",
    "token_f1",
]

Span = tuple[int, int, str]  # first token, the token after the last, type


def split_tag(tag: str) -> tuple[str, str]:
    """Split a tag into prefix and type: "B-PER" into "B" and "PER", "O" into "O" and ""."""
    prefix, _, kind = tag.partition("-")
    return prefix, kind


def entity_spans(tags: Sequence[str]) -> list[Span]:
    """Return the entities of one sentence, also of ill-formed tags, as CoNLL's own scorer does.

    An entity starts at B and S, after O, E and S, and where the type changes. It ends before a start or an O, and after
    E and S.

    Parameters
    ----------
    tags : sequence of str
        In BIO, IOB1, BIOES or IO.

    Returns
    -------
    list of tuple
        (first token, one past the last token, type), in order.

    Examples
    --------
    >>> entity_spans(["B-PER", "I-PER", "O", "I-LOC"])
    [(0, 2, 'PER'), (3, 4, 'LOC')]
    """
    spans, begun = [], None
    before, kind_before = "O", ""
    for i, tag in enumerate([*tags, "O"]):
        prefix, kind = split_tag(tag)
        changes = kind != kind_before
        if begun is not None and (before in "ES" or prefix in "BSO" or changes):
            spans.append((begun, i, kind_before))
            begun = None
        if prefix != "O" and (prefix in "BS" or before in "ESO" or changes):
            begun = i
        before, kind_before = prefix, kind
    return spans


def strict_entity_spans(tags: Sequence[str], scheme: str) -> list[Span]:
    """Return the well-formed entities of one sentence.

    Parameters
    ----------
    tags : sequence of str
    scheme : {"BIO", "BIOES", "IO"}
        In BIO an entity is a B followed by any number of I of the same type. In BIOES it is an S, or a B, any number of
        I, and an E, all of the same type. In IO every entity is well-formed.

    Returns
    -------
    list of tuple
        As `entity_spans`.

    Examples
    --------
    >>> strict_entity_spans(["B-PER", "I-PER", "O", "I-LOC"], "BIO")
    [(0, 2, 'PER')]
    """
    if scheme == "IO":
        return entity_spans(tags)
    spans, i = [], 0
    inside = "I" if scheme == "BIO" else "IE"
    while i < len(tags):
        prefix, kind = split_tag(tags[i])
        end = i + 1
        if prefix == "B" or (prefix == "S" and scheme == "BIOES"):
            while (
                end < len(tags)
                and split_tag(tags[end - 1])[0] in "BI"
                and split_tag(tags[end]) in [(p, kind) for p in inside]
            ):
                end += 1
            if scheme == "BIO" or split_tag(tags[end - 1])[0] in "SE":
                spans.append((i, end, kind))
        i = end
    return spans


def entity_f1(
    y_true: Iterable[Sequence[str]],
    y_pred: Iterable[Sequence[str]],
    *,
    strict: bool = False,
    scheme: str = "BIO",
    sample_weight: Sequence[float] | np.ndarray | None = None,
) -> float:
    """Compute the micro-averaged F1 of entities; an entity is correct if its type, start and end are.

    Parameters
    ----------
    y_true, y_pred : iterable of sequence of str
        Tags of each sentence.
    strict : bool, default=False
        Count only well-formed entities; see `strict_entity_spans`.
    scheme : {"BIO", "BIOES", "IO"}, default="BIO"
        Used if `strict`.
    sample_weight : sequence of float, default=None
        Weight of the entities of each sentence.

    Returns
    -------
    float
        0.0 if no entity is correct.

    Raises
    ------
    TypeError, ValueError
        If a sentence is a str, or its numbers of tags differ; the message names the sentence.

    Examples
    --------
    >>> entity_f1([["B-PER", "I-PER", "O", "B-LOC"]], [["B-PER", "I-PER", "O", "O"]])
    0.6666666666666666
    """
    y_true = list(y_true)
    weights = [1.0] * len(y_true) if sample_weight is None else sample_weight
    n_true = n_pred = n_right = 0.0
    for i, (true, predicted, weight) in enumerate(zip(y_true, y_pred, weights, strict=True)):
        if isinstance(true, str) or isinstance(predicted, str):
            raise TypeError(f"sentence {i} is a str, not a list of tags. Put the tags of each sentence into a list.")
        if len(true) != len(predicted):
            raise ValueError(f"sentence {i} has {len(true)} tags in y_true, but {len(predicted)} in y_pred.")
        have, got = (
            set(strict_entity_spans(tags, scheme) if strict else entity_spans(tags)) for tags in (true, predicted)
        )
        n_true += weight * len(have)
        n_pred += weight * len(got)
        n_right += weight * len(have & got)
    return float(2 * n_right / (n_true + n_pred)) if n_right else 0.0


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
