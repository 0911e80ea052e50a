"""Tagged sentences in columns, as the shared tasks of CoNLL published them."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass

import pandas as pd

from skxlmr.datasets.lines import in_line, sentences

DOCUMENT_START = "-DOCSTART-"


def read_conll(
    path: str | os.PathLike,
    *,
    token: int | str = 0,
    tag: int | str = -1,
    sep: str | None = None,
    comment: str | tuple[str, ...] | None = None,
    header: bool = False,
    documents: bool = False,
    encoding: str = "utf-8",
) -> pd.DataFrame:
    """Read sentences with one token and its tags per line, separated by blank lines (CoNLL 2002, 2003, WNUT).

    All lines must have as many columns as the first one. A line whose token is "-DOCSTART-" begins a document: it ends
    the sentence before it, and is left out.

    Parameters
    ----------
    path : str or path
    token, tag : int or str, default=0, -1
        Columns of the token and of the tag: their positions, or with a header their names.
    sep : str or None, default=None
        Column separator; None means any number of spaces and tabs. Other white space, such as a no-break space, is part
        of a token.
    comment : str, tuple of str or None, default=None
        Lines that begin with this, or with one of these, are left out: "#" for GermEval 2014, "# id" for MultiCoNER.
        With None and "" no line is left out; with None, a line at the beginning of a sentence that looks like a comment
        is an error: "# id = 1", or "# name" if no other token has the tag "name".
    header : bool, default=False
        Whether the first line has the names of the columns.
    documents : bool, default=False
        Whether to return the column document, too.
    encoding : str, default="utf-8"
        The files of CoNLL 2002 are in "latin-1". A byte order mark is left out.

    Returns
    -------
    DataFrame
        Columns tokens and tags, each a list of str; and document (int), the number of lines "-DOCSTART-" before the
        sentence, if asked for.

    Raises
    ------
    ValueError
        If a line has another number of columns than the first one, or an empty token or tag, or looks like a comment;
        the message names the line. If `token` or `tag` is not a column. If the file is not in this encoding.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> path = Path(tempfile.mkdtemp()) / "train.txt"
    >>> _ = path.write_text("Ada B-PER\\nLovelace I-PER\\n\\nHello O\\n", encoding="utf-8")
    >>> read_conll(path).tags.tolist()
    [['B-PER', 'I-PER'], ['O']]
    """
    table = _Table(path, token, tag, sep, header)
    rows: list[tuple[list[str], list[str], int]] = []
    n_documents = 0
    seen = {"O"}
    suspects: list[tuple[int, str, str]] = []  # lines that are comments unless their tags are those of other tokens
    for sentence in sentences(path, encoding):
        tokens: list[str] = []
        tags: list[str] = []
        for number, line in sentence:
            if comment and line.startswith(comment):
                continue
            if comment is None and not tokens and _looks_like_comment(line):
                raise _comment_error(path, number, line)
            fields = table.split(line)
            if table.begins_document(line, fields):
                rows.append((tokens, tags, n_documents))
                tokens, tags, n_documents = [], [], n_documents + 1
                continue
            if table.width is None:
                table.check_first(number, line, fields)
                if header:
                    continue
            word, its_tag = table.token_and_tag(number, line, fields)
            if comment is None and not tokens and line.startswith("#") and (word == "#" or not its_tag[0].isupper()):
                suspects.append((number, line, its_tag))
            else:
                seen.add(its_tag)
            tokens.append(word)
            tags.append(its_tag)
        rows.append((tokens, tags, n_documents))
    for number, line, its_tag in suspects:
        if its_tag not in seen:
            raise _comment_error(path, number, line)
    frame = pd.DataFrame([row for row in rows if row[0]], columns=["tokens", "tags", "document"])
    return frame if documents else frame[["tokens", "tags"]]


@dataclass
class _Table:
    """The columns of a file, whose first line says how many there are."""

    path: str | os.PathLike
    token: int | str
    tag: int | str
    sep: str | None
    header: bool
    width: int | None = None
    first: int = 0  # the number of the first line

    def __post_init__(self) -> None:
        for name, column in (("token", self.token), ("tag", self.tag)):
            if isinstance(column, str) and not self.header:
                raise ValueError(f"{name}={column!r} is the name of a column, which only a file with header=True has.")

    def split(self, line: str) -> list[str]:
        return re.split("[ \t]+", line.strip(" \t")) if self.sep is None else line.split(self.sep)

    def begins_document(self, line: str, fields: list[str]) -> bool:
        if line.strip().startswith(DOCUMENT_START):  # whatever the separator is
            return True
        token = self.token
        return isinstance(token, int) and -len(fields) <= token < len(fields) and fields[token] == DOCUMENT_START

    def check_first(self, number: int, line: str, fields: list[str]) -> None:
        """Take the number of columns from the first line, and find the token and the tag in it."""
        where = in_line(self.path, number, line)
        if len(fields) < 2:
            raise ValueError(f"{where} has 1 column; a token and a tag are needed. Set sep.")
        for name in ("token", "tag"):
            column = getattr(self, name)
            if isinstance(column, str):
                if fields.count(column) != 1:
                    raise ValueError(f"{where} has not one column of the name {name}={column!r}.")
                setattr(self, name, fields.index(column))
            elif not -len(fields) <= column < len(fields):
                raise ValueError(f"{where} has {len(fields)} columns, so {name}={column} is not one of them.")
        self.width, self.first = len(fields), number

    def token_and_tag(self, number: int, line: str, fields: list[str]) -> tuple[str, str]:
        where = in_line(self.path, number, line)
        if len(fields) != self.width:
            hint = "sep='\\t'" if self.sep is None and "\t" in line else "sep"
            raise ValueError(
                f"{where} has {len(fields)} columns, but line {self.first} has {self.width}. Set {hint} if the columns "
                f"are separated otherwise, or comment if this line is not a token."
            )
        assert isinstance(self.token, int)
        assert isinstance(self.tag, int)
        found = fields[self.token], fields[self.tag]
        for name, value in zip(("token", "tag"), found, strict=True):
            if not value:
                raise ValueError(f"{where} has an empty {name}.")
        return found


def _comment_error(path: str | os.PathLike, number: int, line: str) -> ValueError:
    return ValueError(
        f"{in_line(path, number, line)} looks like a comment. Set comment='#', or more of the beginning, to leave such "
        f"lines out, or comment='' to read them."
    )


def _looks_like_comment(line: str) -> bool:
    """Whether a line is "#" and then name=value, a document of OntoNotes, or an address, as in GermEval 2014."""
    return bool(re.match(r"#\s*[\w-]+(\s+\S+)?(\s+[\w-]+)?\s*=|#(begin|end) document\b|#\s*\w+://", line))
