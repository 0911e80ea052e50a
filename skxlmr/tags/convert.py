"""Conversion of tags between schemes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from skxlmr.tags.entities import lenient_spans, spans_to_tags
from skxlmr.tags.infer import infer_scheme
from skxlmr.tags.schemes import get_scheme, read_tags


def convert_tags(
    tags: Iterable[Sequence[str]],
    to: str = "BIO",
    *,
    scheme: str = "auto",
    separator: str = "-",
    suffix: bool = False,
) -> list[list[str]]:
    """Convert the tags of sentences to another scheme.

    Ill-formed sequences are read as CoNLL's scorer does, see `entity_spans`, and written well-formed.

    Parameters
    ----------
    tags : iterable of sequence of str
        Tags of each sentence.
    to : {"BIO", "IOB1", "IOE1", "IOE2", "BIOES", "BILOU", "BMES", "IO"}, default="BIO"
        Scheme of the result. In IO, entities of one type that touch become one.
    scheme : str, default="auto"
        Scheme of the tags, one of those, or "auto", which infers it. "IO" is for types without a prefix (PERSON), too.
    separator : str, default="-"
        What stands between prefix and type: "_" for B_PER, "" for BPER. In the result it is a hyphen.
    suffix : bool, default=False
        Whether the prefix stands behind the type (PER-B). In the result it stands before it.

    Returns
    -------
    list of list of str

    Raises
    ------
    TypeError, ValueError
        If a sentence is a str; if there is no such scheme, tags are not in it, or "auto" finds none. The message names
        the rows.

    Examples
    --------
    >>> from skxlmr.tags import convert_tags
    >>> convert_tags([["B-PER", "I-PER", "O", "B-LOC"]], to="BILOU")
    [['B-PER', 'L-PER', 'O', 'U-LOC']]
    >>> convert_tags([["PERSON", "PERSON", "O"]], scheme="IO")
    [['B-PERSON', 'I-PERSON', 'O']]
    >>> convert_tags([["PER_B", "PER_I"]], separator="_", suffix=True)
    [['B-PER', 'I-PER']]
    """
    rows = []
    for i, row in enumerate(tags):
        if isinstance(row, str):
            raise TypeError(f"tags, row {i} is a str, not a list of tags. Put the tags of each sentence into a list.")
        rows.append(list(map(str, row)))
    get_scheme(to)
    if separator != "-" or suffix:
        rows = [[_rewrite(tag, separator, suffix) for tag in row] for row in rows]
    if scheme == "auto":
        scheme = infer_scheme(rows, name="tags")
        if scheme == "plain" and any(tag != "O" for row in rows for tag in row):
            first = next(tag for row in rows for tag in row if tag != "O")
            raise ValueError(f"tags have no scheme: they are {first!r} and others. Set scheme, or separator or suffix.")
    read = read_tags(rows, None if scheme == "plain" else scheme)
    return [spans_to_tags(lenient_spans(parts), len(parts), to) for parts in read]


def _rewrite(tag: str, separator: str, suffix: bool) -> str:
    """Return a tag with its prefix in front and a hyphen."""
    if separator not in tag or tag == "O":
        return tag
    if not separator:
        prefix, kind = (tag[-1:], tag[:-1]) if suffix else (tag[:1], tag[1:])
    elif suffix:
        kind, _, prefix = tag.rpartition(separator)
    else:
        prefix, _, kind = tag.partition(separator)
    return f"{prefix}-{kind}"
