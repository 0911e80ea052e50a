"""Readers of tagged sentences and of questions, as DataFrames for the estimators."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd


def read_conll(
    path: str | os.PathLike, *, token: int = 0, tag: int = -1, sep: str | None = None, encoding: str = "utf-8"
) -> pd.DataFrame:
    """Read sentences with one token and its tags per line, separated by blank lines (CoNLL 2002, 2003, WNUT).

    Parameters
    ----------
    path : str or path
        Lines that start with "-DOCSTART-" are skipped.
    token, tag : int, default=0, -1
        Columns of the token and of the tag.
    sep : str or None, default=None
        Column separator; None means any number of spaces and tabs. Other white space, such as a no-break space, is part
        of a token.
    encoding : str, default="utf-8"
        The files of CoNLL 2002 are in "latin-1".

    Returns
    -------
    DataFrame
        Columns tokens and tags, each a list of str.

    Raises
    ------
    ValueError
        If a line has too few columns; the message names the line. If the file is not in this encoding.

    Examples
    --------
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "train.txt"
    >>> _ = path.write_text("Ada B-PER\\nLovelace I-PER\\n\\nHello O\\n", encoding="utf-8")
    >>> read_conll(path).tags.tolist()
    [['B-PER', 'I-PER'], ['O']]
    """
    minimum = max(index + 1 if index >= 0 else -index for index in (token, tag))
    rows = []
    for sentence in _sentences(path, encoding):
        columns = []
        for number, line in sentence:
            fields = re.split("[ \t]+", line.strip(" \t")) if sep is None else line.split(sep)
            if fields[0] == "-DOCSTART-":
                continue
            if len(fields) < max(minimum, 2):
                raise ValueError(
                    f"{os.fspath(path)}, line {number}: {line[:60]!r} has {len(fields)} columns, but "
                    f"{max(minimum, 2)} are needed. Set token, tag or sep."
                )
            columns.append((fields[token], fields[tag]))
        if columns:
            rows.append({"tokens": [c[0] for c in columns], "tags": [c[1] for c in columns]})
    return pd.DataFrame(rows, columns=["tokens", "tags"])


def read_conllu(path: str | os.PathLike) -> pd.DataFrame:
    """Read a treebank of Universal Dependencies.

    Parameters
    ----------
    path : str or path
        A file in the CoNLL-U format. Contractions are read as their parts ("zum" as "zu" and "dem"); empty nodes are
        skipped.

    Returns
    -------
    DataFrame
        Columns sent_id and text (str or None), tokens, upos, xpos and feats (lists of str), one row per sentence.

    Raises
    ------
    ValueError
        If a line does not have ten columns; the message names the line.
    """
    rows = []
    for sentence in _sentences(path):
        row: dict[str, Any] = {"sent_id": None, "text": None, "tokens": [], "upos": [], "xpos": [], "feats": []}
        for number, line in sentence:
            if line.startswith("#"):
                name, _, value = line[1:].partition("=")
                if name.strip() in ("sent_id", "text"):
                    row[name.strip()] = value.strip()
                continue
            fields = line.split("\t")
            if len(fields) != 10:
                raise ValueError(
                    f"{os.fspath(path)}, line {number}: {line[:60]!r} has {len(fields)} columns; CoNLL-U has ten, "
                    f"separated by tabs."
                )
            if fields[0].isdigit():
                for name, field in (("tokens", 1), ("upos", 3), ("xpos", 4), ("feats", 5)):
                    row[name].append(fields[field])
        if row["tokens"]:
            rows.append(row)
    return pd.DataFrame(rows, columns=["sent_id", "text", "tokens", "upos", "xpos", "feats"])


def read_squad(path: str | os.PathLike) -> pd.DataFrame:
    """Read questions in the JSON format of SQuAD 1.1 and 2.0, which XQuAD, MLQA and others share.

    Parameters
    ----------
    path : str or path

    Returns
    -------
    DataFrame
        Columns id, title, question, context (str) and answers: a dict with the lists "text" and "answer_start", which
        are empty if the question has no answer.

    Raises
    ------
    ValueError
        If the file does not have this format.
    """
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8-sig"))
        rows = [
            {
                "id": question["id"],
                "title": article.get("title", ""),
                "question": question["question"],
                "context": paragraph["context"],
                "answers": {
                    "text": [answer["text"] for answer in question.get("answers", [])],
                    "answer_start": [answer["answer_start"] for answer in question.get("answers", [])],
                },
            }
            for article in content["data"]
            for paragraph in article["paragraphs"]
            for question in paragraph["qas"]
        ]
    except UnicodeDecodeError as error:  # its repr would contain the whole file
        raise ValueError(f"{os.fspath(path)} is not a SQuAD file: {error}") from error
    except (json.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{os.fspath(path)} is not a SQuAD file: {error!r}") from error
    return pd.DataFrame(rows, columns=["id", "title", "question", "context", "answers"])


def _sentences(path: str | os.PathLike, encoding: str = "utf-8") -> Iterator[list[tuple[int, str]]]:
    """Yield groups of consecutive non-blank lines, with line numbers."""
    lines: list[tuple[int, str]] = []
    with open(path, encoding="utf-8-sig" if encoding == "utf-8" else encoding) as file:
        try:
            for number, line in enumerate(file, start=1):
                if line.strip(" \t\r\n"):
                    lines.append((number, line.rstrip("\r\n")))
                elif lines:
                    yield lines
                    lines = []
        except UnicodeDecodeError as error:
            raise ValueError(f"{os.fspath(path)} is not in {encoding}, but in another encoding: {error}") from error
    if lines:
        yield lines
