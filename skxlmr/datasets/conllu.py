"""Treebanks in the formats CoNLL-U and CoNLL-U Plus."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from typing import Any

import pandas as pd

from skxlmr.datasets.lines import Lines, in_line, sentences

FIELDS = ("id", "form", "lemma", "upos", "xpos", "feats", "head", "deprel", "deps", "misc")
DEFAULT = ("upos", "xpos", "feats")
CONTRACTIONS = ("split", "keep")


def read_conllu(
    path: str | os.PathLike,
    *,
    columns: Sequence[str] | None = None,
    contractions: str = "split",
    encoding: str = "utf-8",
) -> pd.DataFrame:
    """Read a treebank of Universal Dependencies, or another file in the formats CoNLL-U and CoNLL-U Plus.

    Empty nodes, such as 2.1, are left out.

    Parameters
    ----------
    path : str or path
        In a file of CoNLL-U Plus the first line, "# global.columns = ID FORM ...", names the columns.
    columns : sequence of str or None, default=None
        The columns to return beside the tokens, in upper or lower case: "form", "lemma", "upos", "xpos", "feats",
        "head", "deprel", "deps", "misc", or those that a file of CoNLL-U Plus names. None means upos, xpos and feats,
        and for CoNLL-U Plus all but id and form.
    contractions : {"split", "keep"}, default="split"
        "split" reads contractions as their words: "zum" as "zu" and "dem". "keep" reads them as they are written, and
        joins the values of their words by "+": "zum" with the upos "ADP+DET". The columns form and misc are then those
        of the contraction.
    encoding : str, default="utf-8"

    Returns
    -------
    DataFrame
        One row per sentence: sent_id and text (str, or missing), from its comments; tokens, and one column of each name
        in `columns`, in lower case, lists of str as they are in the file.

    Raises
    ------
    ValueError
        If a line has not as many columns as the format, or an empty value, or an ID that is not a number (of a word), a
        range (of a contraction) or a decimal number (of an empty node), or not greater than the ID before it; the
        message names the line. If the file does not have one of the columns.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> lines = ["1-2 zum _ _ _ _ _ _ _ _", "1 zu zu ADP _ _ 2 case _ _", "2 dem der DET _ _ 0 root _ _"]
    >>> path = Path(tempfile.mkdtemp()) / "train.conllu"
    >>> _ = path.write_text("\\n".join(lines).replace(" ", "\\t"), encoding="utf-8")
    >>> read_conllu(path, columns=["lemma"]).lemma.tolist()
    [['zu', 'der']]
    >>> read_conllu(path, contractions="keep")[["tokens", "upos"]].values.tolist()
    [[['zum'], ['ADP+DET']]]
    """
    if contractions not in CONTRACTIONS:
        raise ValueError(f"contractions must be one of {CONTRACTIONS}, got {contractions!r}.")
    if isinstance(columns, str):
        raise ValueError(f"columns must be a list of names, got {columns!r}: use [{columns!r}].")
    names, rows = _names(path, encoding), []
    default = DEFAULT if names == FIELDS else [name for name in names if name not in ("id", "form")]
    chosen = list(default) if columns is None else [column.lower() for column in columns]
    missing = [name for name in [*chosen, "form"] if name not in names]
    if missing:
        raise ValueError(f"{os.fspath(path)} has no column {missing[0]!r}, but {', '.join(names)}.")
    for sentence in sentences(path, encoding):
        comments = [line[1:].partition("=") for _, line in sentence if line.startswith("#")]
        values = {name.strip(): value.strip() for name, _, value in comments}
        lines = [(number, line) for number, line in sentence if not line.startswith("#")]
        words = _words(path, lines, names, {"form", *chosen}, contractions == "keep")
        if words:
            row: dict[str, Any] = {"sent_id": values.get("sent_id"), "text": values.get("text")}
            row["tokens"] = [word["form"] for word in words]
            rows.append(row | {name: [word[name] for word in words] for name in chosen})
    return pd.DataFrame(rows, columns=["sent_id", "text", "tokens", *chosen])


def _names(path: str | os.PathLike, encoding: str) -> Sequence[str]:
    """Return the names of the columns, which the first line of a file of CoNLL-U Plus has."""
    _, line = next(sentences(path, encoding), [(0, "")])[0]
    found = re.fullmatch(r"#\s*global\.columns\s*=(.*)", line)
    return tuple(found[1].lower().split()) if found else FIELDS


def _words(
    path: str | os.PathLike, lines: Lines, names: Sequence[str], needed: set[str], keep: bool
) -> list[dict[str, str]]:
    """Return the values of each word of a sentence, by the names of the columns; with `keep` of each contraction."""
    words: list[dict[str, str]] = []
    last, begun, until = 0, 0, 0  # the number of the last word; of the first and the last one of its contraction
    contraction: dict[str, str] = {}
    for number, line in lines:
        fields = line.split("\t")
        if len(fields) != len(names):
            of = "CoNLL-U has ten" if names == FIELDS else f"this file has {len(names)}"
            raise ValueError(f"{in_line(path, number, line)} has {len(fields)} columns; {of}, separated by tabs.")
        word = dict(zip(names, fields, strict=True))
        empty = [name for name, value in word.items() if not value and name in needed]
        if empty:
            raise ValueError(f"{in_line(path, number, line)} has an empty {empty[0]}; what is missing is written '_'.")
        place = word.get("id", str(last + 1))
        if re.fullmatch(r"[0-9]+\.[0-9]+", place):
            continue
        ids = re.fullmatch("([0-9]+)(?:-([0-9]+))?", place)
        if ids is None:
            raise ValueError(
                f"{in_line(path, number, line)}: the ID {place!r} is not a number, nor as 1-2 for a contraction or 1.1 "
                f"for an empty node."
            )
        first = int(ids[1])
        if first <= last or (ids[2] and (first <= until or int(ids[2]) < first)):
            raise ValueError(
                f"{in_line(path, number, line)}: the ID {place!r} comes after {last}. If a sentence begins here, a "
                f"blank line is missing before it."
            )
        if ids[2]:
            begun, until, contraction = first, int(ids[2]), word
            continue
        if last < begun < first:
            raise ValueError(
                f"{in_line(path, number, line)}: word {begun}, the first one of {begun}-{until}, is missing."
            )
        last = first
        if keep and begun < last <= until:
            words[-1] = {name: _joined(name, words[-1][name], word[name]) for name in names}
        elif keep and last == begun:
            words.append(word | {name: contraction[name] for name in ("form", "misc") if name in contraction})
        else:
            words.append(word)
    if until > last:
        raise ValueError(
            f"{os.fspath(path)}, line {lines[-1][0]}: the sentence ends with word {last}, before the end of its "
            f"contraction {begun}-{until}."
        )
    return words


def _joined(name: str, before: str, value: str) -> str:
    return before if name in ("form", "misc") else f"{before}+{value}"
