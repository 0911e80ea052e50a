"""Questions with their contexts and answers, in the formats of SQuAD."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import pandas as pd

from skxlmr.datasets.lines import read_text
from skxlmr.datasets.places import PlaceError, find_text
from skxlmr.system import nested_json
from skxlmr.system.warn import warn

COLUMNS = ("id", "title", "question", "context", "answers")
ERRORS = ("raise", "drop", "keep")
N_SHOWN = 10


class _Question(NamedTuple):
    where: str
    entry: Mapping
    context: Any
    title: Any


def read_squad(path: str | os.PathLike, *, errors: str = "raise", encoding: str = "utf-8") -> pd.DataFrame:
    """Read questions in the JSON formats of SQuAD 1.1 and 2.0, which XQuAD, MLQA, KLUE and others share.

    These are articles of paragraphs of questions; articles of questions, as in KorQuAD 2; and flat records with
    question, context and answers, as the library datasets has them, in a list or one per line (JSON lines).

    An answer that differs from its context in white space or in the composition of characters only is returned as it
    stands there. An answer without a start is looked for.

    Parameters
    ----------
    path : str or path
    errors : {"raise", "drop", "keep"}, default="raise"
        What to do with questions that cannot be learned from: no text, or an answer that does not stand in its context,
        or not at its start. "raise" lists them in an error, "drop" leaves them out with a warning that lists them.
        "keep" keeps answers that do not stand in their contexts as they are, for scoring, and raises for the others.
    encoding : str, default="utf-8"

    Returns
    -------
    DataFrame
        Columns id, title, question, context (str) and answers: a dict with the lists "text" and "answer_start", which
        are empty if the question has no answer (`is_impossible`, or a file without answers). If no question of the
        file has an id (or guid), the ids are the numbers of the questions.

    Raises
    ------
    ValueError
        If the file does not have one of these formats, or has questions that cannot be learned from; the message names
        the article, the paragraph and the question of each, all counted from 0, or the line.

    Examples
    --------
    >>> import json, tempfile
    >>> from pathlib import Path
    >>> path = Path(tempfile.mkdtemp()) / "train.jsonl"
    >>> record = {"id": "1", "question": "Who?", "context": "Ada wrote it.", "answers": {"text": ["Ada"]}}
    >>> _ = path.write_text(json.dumps(record), encoding="utf-8")
    >>> read_squad(path).answers[0]
    {'text': ['Ada'], 'answer_start': [0]}
    """
    if errors not in ERRORS:
        raise ValueError(f"errors must be one of {ERRORS}, got {errors!r}.")
    name = os.fspath(path)
    try:
        questions = list(_questions(_entries(read_text(path, encoding))))
    except ValueError as error:
        raise ValueError(f"{name} is not a SQuAD file: {error}") from error
    has_ids = any(_id(question.entry) is not None for question in questions)
    has_answers = any(_has_answers(question.entry) for question in questions)
    rows, bad = [], []
    for number, question in enumerate(questions):
        try:
            rows.append(_row(question, None if has_ids else str(number), has_answers, errors == "keep"))
        except ValueError as error:
            bad.append(f"{question.where}: {error}")
    if bad:
        n = f"{len(bad)} of {len(questions)} questions cannot be read"
        shown = "\n".join(bad[:N_SHOWN]) + ("\n..." if len(bad) > N_SHOWN else "")
        if errors != "drop":
            raise ValueError(f"{name}: {n} (errors='drop' leaves them out):\n{shown}")
        warn(f"{name}: {n} and were left out:\n{shown}")
    return pd.DataFrame(rows, columns=COLUMNS)


def _entries(text: str) -> list[tuple[str, Any]]:
    """Return the articles, or records, of a file with the name of each."""
    try:
        content = nested_json.loads(text)
    except ValueError as error:
        lines = [(number, line) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
        if len(lines) < 2 or not _is_json(lines[0][1]):
            raise ValueError(str(error)) from error
        return [(f"line {number}", _record(number, line)) for number, line in lines]
    if isinstance(content, Mapping):
        if "data" not in content:
            return [("line 1", content)]  # JSON lines of one line
        content = content["data"]
    if not isinstance(content, list):
        raise ValueError(f"its data is a {type(content).__name__}, not a list of articles or records")
    return [(f"article {i}" if _is_article(entry) else f"record {i}", entry) for i, entry in enumerate(content)]


def _is_json(line: str) -> bool:
    try:
        nested_json.loads(line)
    except ValueError:
        return False
    return True


def _record(number: int, line: str) -> Any:
    try:
        return nested_json.loads(line)
    except ValueError as error:
        raise ValueError(f"line {number} is not JSON: {error}") from error


def _is_article(entry: Any) -> bool:
    return isinstance(entry, Mapping) and ("paragraphs" in entry or "qas" in entry)


def _questions(entries: Iterable[tuple[str, Any]]) -> Iterator[_Question]:
    for where, entry in entries:
        if not isinstance(entry, Mapping):
            raise ValueError(f"{where} is a {type(entry).__name__}, not an object")
        title = entry.get("title", "")
        if not _is_article(entry):
            if "question" not in entry:
                raise ValueError(f"{where} has neither 'paragraphs' nor 'qas' nor a 'question'")
            yield _Question(_named(where, entry), entry, entry.get("context"), title)
            continue
        if title:
            where = f"{where} ({title!r:.40})"
        if "paragraphs" not in entry:
            yield from _of_paragraph(entry, where, title)
            continue
        if not isinstance(entry["paragraphs"], list):
            raise ValueError(f"the paragraphs of {where} are not a list")
        for i, paragraph in enumerate(entry["paragraphs"]):
            yield from _of_paragraph(paragraph, f"{where}, paragraph {i}", title)


def _of_paragraph(paragraph: Any, where: str, title: Any) -> Iterator[_Question]:
    if not isinstance(paragraph, Mapping) or not isinstance(paragraph.get("qas"), list):
        raise ValueError(f"{where} has no list 'qas'")
    for i, question in enumerate(paragraph["qas"]):
        if not isinstance(question, Mapping):
            raise ValueError(f"{where}, question {i} is a {type(question).__name__}, not an object")
        yield _Question(_named(f"{where}, question {i}", question), question, paragraph.get("context"), title)


def _has_answers(question: Mapping) -> bool:
    try:
        return bool(answers_of(question))
    except ValueError:
        return True


def _named(where: str, question: Mapping) -> str:
    return where if _id(question) is None else f"{where} (id {_id(question)!r:.40})"


def _id(question: Mapping) -> Any:
    return next((question[key] for key in ("id", "guid") if question.get(key) is not None), None)


def _row(question: _Question, number: str | None, has_answers: bool, keep: bool) -> dict[str, Any]:
    """Return a row of the table; `number` takes the place of ids that a file does not have."""
    _, entry, context, title = question
    name = _id(entry) if number is None else number
    if name is None:
        raise ValueError("it has no 'id', which other questions have")
    for key, value in (("question", entry.get("question")), ("context", context)):
        if not isinstance(value, str):
            raise ValueError(f"its {key} is {'missing' if value is None else f'{value!r:.60}, not a text'}")
    if has_answers and all(entry.get(key) is None for key in ("answers", "answer", "is_impossible")):
        raise ValueError("it has no 'answers', which other questions have")
    answers = [] if is_impossible(entry) else [_placed(*answer, context, keep) for answer in answers_of(entry)]
    if has_answers and not answers and entry.get("is_impossible") is False:
        raise ValueError("it has no answers, though is_impossible is false")
    texts, starts = ([answer[i] for answer in answers] for i in range(2))
    return dict(
        zip(COLUMNS, (name, title, entry["question"], context, {"text": texts, "answer_start": starts}), strict=True)
    )


def _placed(text: Any, start: Any, context: str, keep: bool) -> tuple[str, int | None]:
    """Return an answer as it stands in its context, with its start."""
    if not isinstance(text, str) or not text:
        raise ValueError(f"the text of an answer is {text!r:.60}")
    start = int(start) if isinstance(start, float) and start.is_integer() else start
    if start is not None and (not isinstance(start, int) or isinstance(start, bool)):
        raise ValueError(f"the start {start!r:.60} of the answer {text!r:.60} is not an integer")
    try:
        place = find_text(text, context, start)
    except PlaceError:
        if keep:
            return text, start
        raise
    if start is None and not place.is_unique and not keep:
        raise ValueError(f"the answer {text!r:.60} has no answer_start, and stands in its context more than once")
    return context[place.start : place.stop], place.start


def is_impossible(question: Mapping) -> bool:
    """Whether a question of SQuAD 2.0 says that it has no answer; what it lists then are plausible wrong ones."""
    value = question.get("is_impossible", False)
    if value not in (True, False, None):
        raise ValueError(f"is_impossible is {value!r:.60}, neither true nor false")
    return bool(value)


def answers_of(question: Mapping) -> list[tuple[Any, Any]]:
    """Return (text, start) of the answers of a question, in any of the forms of the key "answers" or "answer"."""
    found: Any = next((question[key] for key in ("answers", "answer") if question.get(key) is not None), [])
    if isinstance(found, Mapping) and isinstance(found.get("text"), list):  # as the library datasets has them
        texts, starts = found["text"], found.get("answer_start")
        starts = [None] * len(texts) if starts is None else starts
        if not isinstance(starts, list) or len(starts) != len(texts):
            raise ValueError(f"its answers have {len(texts)} texts, but the starts are {starts!r:.60}")
        return list(zip(texts, starts, strict=True))
    if isinstance(found, str):
        return [(found, question.get("answer_start"))]
    found = found if isinstance(found, list) else [found]
    for answer in found:
        if isinstance(answer, Mapping) and "text" not in answer:
            raise ValueError(f"its answer {dict(answer)!r:.60} has no 'text'")
        if not isinstance(answer, Mapping | str):
            raise ValueError(f"its answer {answer!r:.60} is neither a text nor an object")
    return [(a, None) if isinstance(a, str) else (a["text"], a.get("answer_start")) for a in found]
