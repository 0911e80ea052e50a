"""The right answers of questions, as users give them."""

from __future__ import annotations

from collections.abc import Mapping
from numbers import Real
from typing import Any

import numpy as np
import pandas as pd

from skxlmr.columns import TextColumn, check_n_rows, is_missing, name_row, one_column
from skxlmr.datasets.places import PlaceError, find_text
from skxlmr.datasets.squad import is_impossible
from skxlmr.system.warn import warn

N_SHOWN = 10

Answer = tuple[str, int | None]  # the text, and its first character in the context if it stands there


def check_answers(y: Any, column: TextColumn, name: str = "y", *, errors: str = "raise") -> list[list[Answer]]:
    """Read the right answers of each question as (text, start), as they stand in the context.

    A row of y is a text, which is looked for in the context; (text, start); a dict with "text" and "answer_start", of
    one answer or, as SQuAD has them, of lists; a question of SQuAD with "answers" or "answer"; a list of any of these;
    or nothing (None, NaN, "", an empty list, or "is_impossible") if there is no answer. Answers may differ from the
    context in white space and in the composition of characters.

    Answers that do not stand in their contexts are an error, which lists the first such rows; with `errors="drop"` it
    is a warning, and with "keep", for scores, it is nothing: they are returned without a start. If an answer without a
    start occurs more than once, the first place is taken with a warning, but for "keep".
    """
    values, _, index = one_column(y, name)
    check_n_rows(values, column.texts, name)
    rows: list[list[Answer]] = []
    ambiguous: list[int] = []
    wrong: list[tuple[int, Exception]] = []
    misplaced: list[tuple[int, Exception]] = []
    for i, (answers, context) in enumerate(zip(values, column.pairs or [], strict=True)):
        found: list[Answer] = []
        try:
            given = _answers(answers)
        except (TypeError, ValueError) as error:
            wrong.append((i, error))
            continue
        for text, start in given:
            try:
                place = find_text(text, context, start)
            except PlaceError as error:
                misplaced.append((i, error))
                found.append((text, None))
            else:
                found.append((context[place.start : place.stop], place.start))
                ambiguous += [] if place.is_unique else [i]
        rows.append(found)
    if wrong or (misplaced and errors == "raise"):
        raised = sorted(wrong + (misplaced if errors == "raise" else []), key=lambda row: row[0])
        problem = _say(name, index, raised, len(values))
        columns = f"\n{_say_columns(column, misplaced, values)}" if len(raised) > len(wrong) else ""
        raise (TypeError if isinstance(raised[0][1], TypeError) else ValueError)(f"{problem}{columns}")
    if misplaced and errors == "drop":
        dropped = [(i, error) for i, error in misplaced if first_span(rows[i]) is None]
        if dropped:
            warn(f"{_say(name, index, dropped, len(values))} They are not learned.")
    if ambiguous and errors != "keep":
        warn(
            f"{name}: {len(set(ambiguous))} answers without a start stand in their contexts more than once; the first "
            f"place was taken. The first of these is {name_row(ambiguous[0], index)}. Give (text, start) to be exact."
        )
    return rows


def first_span(answers: list[Answer]) -> tuple[int, int] | None:
    """Return the characters of the first answer that stands in the context; None if there is none."""
    return next(((start, start + len(text)) for text, start in answers if start is not None), None)


def _say(name: str, index: pd.Index | None, wrong: list[tuple[int, Exception]], n_rows: int) -> str:
    """List the first wrong rows, one in each line, and count them."""
    first = dict(reversed(wrong))  # a row may have several wrong answers
    rows = sorted(first)
    shown = [f"{name}, {name_row(i, index)}: {first[i]}." for i in rows[:N_SHOWN]]
    if len(rows) > 1:
        more = ", of which these are the first," if len(rows) > N_SHOWN else ""
        shown.append(f"{len(rows)} of {n_rows} rows{more} have wrong answers.")
    return "\n".join(shown)


def _say_columns(column: TextColumn, misplaced: list[tuple[int, Exception]], values: list[Any]) -> str:
    """Say which columns were read as question and as context, and whether they seem to be in the wrong order."""
    if column.feature_names is None:
        said = "The questions are the first column of X, the contexts the second"
    else:
        question, context = column.feature_names
        said = f"The questions are those of column {question!r} of X, the contexts those of column {context!r}"
    if all(text in column.texts[i] for i, _ in misplaced for text, _ in _answers(values[i])):
        return f"{said}: is the order wrong? The answers stand in the questions."
    return f"{said}. errors='drop' leaves such rows out."


def _answers(value: Any) -> list[tuple[str, int | None]]:
    """Return one row of y as texts with their starts, if these are known."""
    if isinstance(value, str) or is_missing(value):
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
        starts = [starts] * (1 if not is_missing(starts) else len(texts))
    if len(starts) != len(texts):
        raise ValueError(f"{len(texts)} texts, but {len(starts)} starts")
    return [answer for text, start in zip(texts, starts, strict=True) for answer in _answer(text, start)]


def _answer(text: Any, start: Any) -> list[tuple[str, int | None]]:
    """Return one text with its start, if that is known; nothing if the text is missing or empty."""
    if is_missing(text) or (isinstance(text, str) and not text):
        return []
    if not isinstance(text, str):
        raise TypeError(f"the answer {text!r:.60} is a {type(text).__name__}, not a text")
    if is_missing(start):
        return [(str(text), None)]
    if not _may_be_start(start) or not float(start).is_integer():
        raise TypeError(f"the start {start!r:.60} of the answer {text!r:.60} is not an integer")
    return [(str(text), int(start))]


def _may_be_start(value: Any) -> bool:
    """Whether a value is a number of characters; those of a column with gaps are floats."""
    return isinstance(value, Real) or is_missing(value)
