"""The right answers of questions, as users give them."""

from __future__ import annotations

from collections.abc import Mapping
from numbers import Real
from typing import Any

import numpy as np
import pandas as pd
from sklearn.utils.validation import check_consistent_length

from skxlmr.columns import TextColumn, name_row, one_column
from skxlmr.datasets.places import PlaceError, find_text
from skxlmr.datasets.squad import is_impossible
from skxlmr.system.warn import warn

N_SHOWN = 10

Answer = tuple[str, int | None]  # the text, and its first character in the context if it stands there


def check_answers(y: Any, column: TextColumn, name: str = "y", *, to_learn: bool = True) -> list[list[Answer]]:
    """Read the right answers of each question as (text, start), as they stand in the context.

    A row of y is a text, which is looked for in the context; (text, start); a dict with "text" and "answer_start", of
    one answer or, as SQuAD has them, of lists; a question of SQuAD with "answers" or "answer"; a list of any of these;
    or nothing (None, NaN, "", an empty list, or "is_impossible") if there is no answer. Answers may differ from the
    context in white space and in the composition of characters.

    Answers `to_learn` must stand in their contexts; if they have no start and occur more than once, the first place is
    taken with a warning. For scores, those that do not are returned as they are, without a start. An error lists the
    first wrong rows.
    """
    values, _, index = one_column(y, name)
    check_consistent_length(column.texts, values)
    rows: list[list[Answer]] = []
    ambiguous: list[int] = []
    wrong: list[tuple[int, Exception]] = []
    for i, (answers, context) in enumerate(zip(values, column.pairs or [], strict=True)):
        found: list[Answer] = []
        try:
            for text, start in _answers(answers):
                answer, is_unique = _placed(text, start, context, to_learn)
                found.append(answer)
                ambiguous += [] if is_unique else [i]
        except (TypeError, ValueError) as error:
            wrong.append((i, error))
        rows.append(found)
    if wrong:
        shown = [f"{name}, {name_row(i, index)}: {error}." for i, error in wrong[:N_SHOWN]]
        if len(wrong) > 1:
            more = ", of which these are the first," if len(wrong) > N_SHOWN else ""
            shown.append(f"{len(wrong)} of {len(rows)} rows{more} have wrong answers: correct them, or leave them out.")
        if any(isinstance(error, PlaceError) for _, error in wrong):
            shown.append(_say_columns(column, [i for i, error in wrong if isinstance(error, PlaceError)], values))
        raise (TypeError if isinstance(wrong[0][1], TypeError) else ValueError)("\n".join(shown))
    if ambiguous and to_learn:
        warn(
            f"{name}: {len(set(ambiguous))} answers without a start stand in their contexts more than once; the first "
            f"place was taken. The first of these is {name_row(ambiguous[0], index)}. Give (text, start) to be exact."
        )
    return rows


def first_span(answers: list[Answer]) -> tuple[int, int] | None:
    """Return the characters of the first answer that stands in the context; None if there is none."""
    return next(((start, start + len(text)) for text, start in answers if start is not None), None)


def _placed(text: str, start: int | None, context: str, to_learn: bool) -> tuple[Answer, bool]:
    """Return an answer as it stands in its context, and whether it stands there only once."""
    try:
        place = find_text(text, context, start)
    except PlaceError:
        if to_learn:
            raise
        return (text, None), True
    return (context[place.start : place.stop], place.start), place.is_unique


def _say_columns(column: TextColumn, rows: list[int], values: list[Any]) -> str:
    """Say which columns were read as question and as context, and whether they seem to be in the wrong order."""
    names = ["the first", "the second"] if column.feature_names is None else [repr(n) for n in column.feature_names]
    said = f"The questions are those of column {names[0]} of X, the contexts those of column {names[1]}"
    if column.feature_names is None:
        said = f"The questions are {names[0]} column of X, the contexts {names[1]}"
    if all(text in column.texts[i] for i in rows for text, _ in _answers(values[i])):
        return f"{said}: is the order wrong? The answers stand in the questions."
    return f"{said}."


def _answers(value: Any) -> list[tuple[str, int | None]]:
    """Return one row of y as texts with their starts, if these are known."""
    if isinstance(value, str) or _is_missing(value):
        return _answer(value, None)
    if isinstance(value, Mapping):
        return _answers_of_squad(value)
    if isinstance(value, tuple) and len(value) == 2 and isinstance(value[0], str) and _may_be_start(value[1]):
        return _answer(*value)
    if isinstance(value, list | tuple | np.ndarray):
        return [answer for item in value for answer in _answers(item)]
    raise TypeError(f"{value!r:.60} is not an answer: a text, (text, start), or a dict with text and answer_start")


def _answers_of_squad(value: Mapping) -> list[tuple[str, int | None]]:
    if is_impossible(value):
        return []
    for key in ("answers", "answer"):
        if "text" not in value and key in value:
            return _answers(value[key])
    if "text" not in value:
        raise TypeError(f"{dict(value)!r:.60} has no 'text'")
    texts, starts = value["text"], value.get("answer_start")
    if not isinstance(texts, list | tuple | np.ndarray):
        return _answer(texts, starts)
    if not isinstance(starts, list | tuple | np.ndarray):
        starts = [starts] * (1 if not _is_missing(starts) else len(texts))
    if len(starts) != len(texts):
        raise ValueError(f"{len(texts)} texts, but {len(starts)} starts")
    return [answer for text, start in zip(texts, starts, strict=True) for answer in _answer(text, start)]


def _answer(text: Any, start: Any) -> list[tuple[str, int | None]]:
    """Return one text with its start, if that is known; nothing if the text is missing or empty."""
    if _is_missing(text) or (isinstance(text, str) and not text):
        return []
    if not isinstance(text, str):
        raise TypeError(f"the answer {text!r:.60} is a {type(text).__name__}, not a text")
    if _is_missing(start):
        return [(str(text), None)]
    if not _may_be_start(start) or not float(start).is_integer():
        raise TypeError(f"the start {start!r:.60} of the answer {text!r:.60} is not an integer")
    return [(str(text), int(start))]


def _may_be_start(value: Any) -> bool:
    """Whether a value is a number of characters; those of a column with gaps are floats."""
    return isinstance(value, Real) or _is_missing(value)


def _is_missing(value: Any) -> bool:
    return bool(pd.api.types.is_scalar(value) and pd.isna(value))
