"""The entities that tags mark, and the tags that mark entities."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise

from skxlmr.tags.schemes import AS_BIOES, OUTSIDE, Part, Scheme, get_scheme, read_tags

Span = tuple[int, int, str]  # first token, the token after the last, type


def entity_spans(tags: Sequence[str], scheme: str | None = None) -> list[Span]:
    """Return the entities of one sentence, also of ill-formed tags, as CoNLL's own scorer does.

    An entity starts at B and S, after O, E and S, and where the type changes. It ends before a start or an O, and after
    E and S. L is read as E, U as S, and M as I.

    Parameters
    ----------
    tags : sequence of str
    scheme : str or None, default=None
        The scheme whose tags they must be, "IO" for types without a prefix (PERSON); see `strict_entity_spans`. None
        allows those of all schemes with a prefix.

    Returns
    -------
    list of tuple
        (first token, one past the last token, type), in order.

    Raises
    ------
    ValueError
        If a tag is none of the scheme's, or of any scheme.

    Examples
    --------
    >>> entity_spans(["B-PER", "I-PER", "O", "I-LOC"])
    [(0, 2, 'PER'), (3, 4, 'LOC')]
    >>> entity_spans(["PERSON", "PERSON", "O"], scheme="IO")
    [(0, 2, 'PERSON')]
    """
    return lenient_spans(read_tags([tags], scheme)[0])


def strict_entity_spans(tags: Sequence[str], scheme: str) -> list[Span]:
    """Return the well-formed entities of one sentence, as the strict mode of seqeval does.

    Parameters
    ----------
    tags : sequence of str
    scheme : {"BIO", "IOB1", "IOE1", "IOE2", "BIOES", "BILOU", "BMES", "IO"}
        In BIO (IOB2) an entity is a B followed by any number of I of the same type. In BIOES (IOBES) it is an S, or a
        B, any number of I, and an E; in BILOU a U, or B, I and L; in BMES an S, or B, M and E; in IOE2 any number of I
        and an E; all of the same type. In IO it is a run of tokens of one type; in IOB1 a B also begins an entity,
        directly after another one of its type, and in IOE1 an E ends one directly before another one of its type
        (unless it is one token, as in seqeval). The names of seqeval, in brackets, are understood as well.

    Returns
    -------
    list of tuple
        As `entity_spans`.

    Raises
    ------
    ValueError
        If there is no such scheme, or a tag is not of it.

    Examples
    --------
    >>> strict_entity_spans(["B-PER", "I-PER", "O", "I-LOC"], "BIO")
    [(0, 2, 'PER')]
    """
    return strict_spans(read_tags([tags], scheme)[0], get_scheme(scheme))


def lenient_spans(parts: Sequence[Part]) -> list[Span]:
    """Return the entities of tags that are split into prefixes and types; see `entity_spans`."""
    spans, begun = [], None
    before, kind_before = OUTSIDE
    for i, (prefix, kind) in enumerate([*parts, OUTSIDE]):
        prefix = AS_BIOES[prefix]
        changes = kind != kind_before
        if begun is not None and (before in "ES" or prefix in "BSO" or changes):
            spans.append((begun, i, kind_before))
            begun = None
        if prefix != "O" and (prefix in "BS" or before in "ESO" or changes):
            begun = i
        before, kind_before = prefix, kind
    return spans


def strict_spans(parts: Sequence[Part], scheme: Scheme) -> list[Span]:
    """Return the well-formed entities of tags that are split into prefixes and types; see `strict_entity_spans`."""
    extended, spans, i = [*parts, OUTSIDE], [], 0
    before = OUTSIDE
    while i < len(parts):
        end = i + 1
        if _starts(scheme, before, extended[i]):
            while scheme.joins(extended[end - 1], extended[end]):
                end += 1
            if _stops(scheme, extended[end - 1], extended[end]):
                spans.append((i, end, extended[i][1]))
        i, before = end, extended[end - 1]
    return spans


def _starts(scheme: Scheme, before: Part, here: Part) -> bool:
    """Whether an entity starts here, if none is open."""
    same = before[1] == here[1]
    if scheme.contact == "B":
        return here[0] == "I" and (before[0] != "I" or not same) if here[0] != "B" else before[0] != "O" and same
    if scheme.contact == "E":
        return here[0] == "I" and (before[0] != "I" or not same) if here[0] != "E" else before[0] == "E" and same
    return scheme.begins(here[0]) and not scheme.joins(before, here)


def _stops(scheme: Scheme, last: Part, after: Part) -> bool:
    """Whether an entity that nothing continues is complete."""
    if scheme.contact == "B":
        return not (last[0] == after[0] == "B" and last[1] != after[1])
    if scheme.contact == "E":
        return last[0] != "E" or (after[0] != "O" and after[1] == last[1])
    return scheme.ends(last[0])


def spans_to_tags(spans: Iterable[Span], n_tokens: int, scheme: str = "BIO") -> list[str]:
    """Convert spans of tokens to tags.

    Parameters
    ----------
    spans : iterable of tuple
        (first token, one past the last token, type). Types may be "": the tags are then prefixes alone.
    n_tokens : int
    scheme : str, default="BIO"
        See `strict_entity_spans`. In IO, spans of one type that touch become one.

    Returns
    -------
    list of str
        One tag per token.

    Raises
    ------
    ValueError
        If spans are empty, overlap or are outside.

    Examples
    --------
    >>> spans_to_tags([(1, 3, "PER")], 4)
    ['O', 'B-PER', 'I-PER', 'O']
    >>> spans_to_tags([(0, 1, "PER"), (1, 4, "PER")], 4, "BILOU")
    ['U-PER', 'B-PER', 'I-PER', 'L-PER']
    """
    found = get_scheme(scheme)
    tags = ["O"] * n_tokens
    ordered = sorted(spans)
    for start, end, kind in ordered:
        if not 0 <= start < end <= n_tokens:
            raise ValueError(f"the span ({start}, {end}, {kind!r}) is empty or beyond the {n_tokens} tokens")
        if any(tag != "O" for tag in tags[start:end]):
            raise ValueError(f"the span ({start}, {end}, {kind!r}) overlaps another one")
        prefixes = [found.only]
        if end - start > 1:
            prefixes = [found.first, *found.inner * (end - start - 2), found.last]
        tags[start:end] = [f"{prefix}-{kind}" if kind else prefix for prefix in prefixes]
    for (_, end, kind), (start, _, kind_after) in pairwise(ordered):
        if found.contact and end == start and kind == kind_after:
            at = start if found.contact == "B" else end - 1
            tags[at] = found.contact + tags[at][1:]
    return tags
