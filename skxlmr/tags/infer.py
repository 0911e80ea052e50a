"""Which scheme tags are in."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence, Set

from skxlmr.tags.schemes import LIKE_OUTSIDE, OUTSIDE, has_type, refuse_tags, split_tag

# Tags that are written otherwise, and the arguments of `convert_tags` that read them.
OTHER_FORMS = (
    (re.compile(r"(?P<prefix>[BIESLUM])(?P<separator>[_/:.|=+ \u2010-\u2015\u2212])(?P<kind>\S.*)"), "separator={!r}"),
    (re.compile(r"(?P<kind>.*\S)(?P<separator>[-_/:.|=+ \u2010-\u2015\u2212])(?P<prefix>[BIESLUM])"), "suffix=True"),
    (re.compile(r"(?P<prefix>[biesl])(?P<separator>-)(?P<kind>\S.*)"), ""),
    (re.compile(r"(?P<prefix>[BIESLUM])(?P<separator>)(?P<kind>\w\w.*)"), "separator=''"),
)
NAMES_OF_OUTSIDE = ("O", "o", "0", "OUT", "OUTSIDE")
PLAIN = "Or set scheme='plain', if the tags mark no entities."


def infer_scheme(rows: Sequence[Sequence[str]], *, name: str = "y", names: Sequence[str] | None = None) -> str:
    """Infer the scheme of tags.

    Tags of BIO without an E, S, L, U or M are IOB1 if each B follows an entity of its type and some entity begins with
    I, and IO if there is no B at all. Tags with an E, but without B and S, are IOE2 if each entity ends with one, and
    otherwise IOE1.

    Parameters
    ----------
    rows : sequence of sequence of str
        Tags of each sentence.
    name : str, default="y"
        Name of the rows in errors.
    names : sequence of str, default=None
        Names of the single rows in errors; None numbers them.

    Returns
    -------
    {"BIO", "IOB1", "IOE1", "IOE2", "BIOES", "BILOU", "BMES", "IO", "plain"}
        "plain" for tags that mark no entities, such as parts of speech.

    Raises
    ------
    ValueError
        If most tags have a scheme, but some do not; if all tags have one in another form (B_PER, PER-B, b-per); if
        prefixes are of several schemes; or if there are an O and tags without any prefix (PERSON), which may be
        entities or not, unless all tags are single characters. The message counts the rows and shows the first ten.

    Examples
    --------
    >>> infer_scheme([["O", "B-PER", "I-PER"]]), infer_scheme([["NOUN", "VERB"]]), infer_scheme([["I-PER", "B-PER"]])
    ('BIO', 'plain', 'IOB1')
    """
    counts = Counter(tag for row in rows for tag in row)
    typed = {tag for tag in counts if has_type(tag)}
    odd = counts.keys() - typed - {"O"}
    spaced = {tag for tag in counts if tag != tag.strip() and (tag.strip() == "O" or has_type(tag.strip()))}
    if spaced:
        advice = f"Strip it: [[tag.strip() for tag in row] for row in {name}]."
        refuse_tags(rows, spaced, "a tag with white space at its ends", f"{advice} {PLAIN}", name, names)
    if _are_bare(counts.keys()):
        return _scheme_of(rows, set(counts), name, names)
    if not odd:
        return _scheme_of(rows, typed, name, names) if typed else "plain"
    if typed and _mostly(counts, typed, odd):
        what = f"a tag without a scheme, where others have one, such as {min(typed)!r}"
        refuse_tags(rows, odd, what, f"Write it as those, or as 'O'. {PLAIN}", name, names)
    _refuse_other_forms(rows, counts, name, names)
    outside = [tag for tag in NAMES_OF_OUTSIDE if tag in counts]
    if outside and not typed and any(len(tag) > 1 for tag in odd - set(outside)):
        first = next(tag for tag in counts if tag in odd and tag not in outside)
        raise ValueError(
            f"{name} has the tag {outside[0]!r} and tags without a prefix, such as {first!r}. If runs of equal tags "
            f"are entities, set scheme='IO'; if each tag stands for itself, as parts of speech do, set scheme='plain'."
        )
    return "plain"


def scheme_of_labels(labels: Sequence[str]) -> str:
    """Infer the scheme from all tags that there are, without sentences, as a trained model has them.

    Tags of BIO are IOB1 if there is a type without a B, since its entities begin with I.

    Parameters
    ----------
    labels : sequence of str

    Returns
    -------
    {"BIO", "IOB1", "IOE1", "IOE2", "BIOES", "BILOU", "BMES", "IO", "plain"}

    Raises
    ------
    ValueError
        If `infer_scheme` would raise one.

    Examples
    --------
    >>> scheme_of_labels(["O", "B-PER", "I-PER"]), scheme_of_labels(["O", "I-PER", "B-LOC", "I-LOC"])
    ('BIO', 'IOB1')
    >>> scheme_of_labels(["NOUN", "VERB"])
    'plain'
    """
    try:
        scheme = infer_scheme([[label] for label in labels])
    except ValueError as error:
        raise ValueError(
            f"its labels are not the tags of one scheme: {', '.join(map(repr, labels))[:200]}. Set scheme='plain' for "
            f"the most probable label of each token, or scheme='IO' if runs of equal labels are entities."
        ) from error
    if scheme in ("BIO", "IOE1"):
        of_prefix = {prefix: {kind for p, kind in map(split_tag, labels) if p == prefix} for prefix in "BIE"}
        if scheme == "IOE1":
            return "IOE1" if of_prefix["I"] - of_prefix["E"] else "IOE2"
        return "IOB1" if of_prefix["I"] - of_prefix["B"] else "BIO"
    return scheme


def _are_bare(tags: Set[str]) -> bool:
    """Whether tags are prefixes without types: B, I and O of chunks, or B, M, E and S of words."""
    return bool(tags) and ({"B", "O"} <= tags <= set("BIESO") or {"B", "M", "E"} <= tags <= set("BMESO"))


def _mostly(counts: Counter[str], typed: Set[str], odd: Set[str]) -> bool:
    """Whether most tokens, or most tags, have a scheme, or all others look like an O."""
    n_odd = sum(counts[tag] for tag in odd)
    return n_odd * 2 < counts.total() or len(odd) < len(typed) or odd <= LIKE_OUTSIDE


def _refuse_other_forms(
    rows: Sequence[Sequence[str]], counts: Counter[str], name: str, names: Sequence[str] | None
) -> None:
    """Raise a ValueError if most tags are in another form of a scheme."""
    tags = counts.keys() - LIKE_OUTSIDE - {"O"}
    for form, arguments in OTHER_FORMS:
        found = {tag: match for tag in tags if (match := form.fullmatch(tag))}
        prefixes = {(match["prefix"], match["kind"]) for match in found.values()}
        n_kinds = len({kind for _, kind in prefixes})
        outside = "O" in counts or bool(counts.keys() & LIKE_OUTSIDE)
        shared = n_kinds * 2 <= len(prefixes)  # most types have several prefixes
        is_form = (
            bool(prefixes) and len(found) * 2 > len(tags) and (shared or (outside and arguments != "separator=''"))
        )
        if not is_form or not {prefix.upper() for prefix, _ in prefixes} & set("BISU"):
            continue
        separator = Counter(match["separator"] for match in found.values()).most_common(1)[0][0]
        if not arguments:
            advice = (
                f"Write prefixes and O in upper case: [[tag[:1].upper() + tag[1:] for tag in row] for row in {name}]."
            )
        else:
            given = arguments.format(separator)
            if arguments == "suffix=True" and separator != "-":
                given = f"separator={separator!r}, suffix=True"
            advice = f"Convert them: skxlmr.tags.convert_tags({name}, {given})."
        what = "a tag whose prefix is written in another way than B-PER"
        refuse_tags(rows, set(found), what, f"{advice} {PLAIN}", name, names)


def _scheme_of(rows: Sequence[Sequence[str]], tags: Iterable[str], name: str, names: Sequence[str] | None) -> str:
    """Return the scheme of tags that all have a prefix."""
    prefixes = {split_tag(tag)[0] for tag in tags} - {"O"}
    for scheme, own, marks in (("BILOU", "BILU", "LU"), ("BMES", "BMES", "M")):
        if prefixes & set(marks):
            if prefixes - set(own):
                odd = {tag for tag in tags if tag != "O" and split_tag(tag)[0] not in own}
                what = f"a tag of another scheme than {scheme}, in which others are"
                refuse_tags(rows, odd, what, f"Write all tags in one scheme. {PLAIN}", name, names)
            return scheme
    if prefixes & {"E", "S"}:
        return "BIOES" if prefixes & {"B", "S"} else _kind_of_ioe(rows)
    return _kind_of_iob(rows) if "B" in prefixes else "IO"


def _kind_of_iob(rows: Iterable[Sequence[str]]) -> str:
    """Return "IOB1" if each B follows an entity of its type, and some entity begins with I, else "BIO"."""
    begins_with_i = False
    for row in rows:
        kinds = [split_tag(tag) for tag in row]
        for before, (prefix, kind) in zip([OUTSIDE, *kinds], kinds, strict=False):
            begins = before[0] == "O" or kind != before[1]
            if prefix == "B" and begins:
                return "BIO"
            begins_with_i |= prefix == "I" and begins
    return "IOB1" if begins_with_i else "BIO"


def _kind_of_ioe(rows: Iterable[Sequence[str]]) -> str:
    """Return "IOE1" if some entity ends with I, else "IOE2"."""
    for row in rows:
        kinds = [split_tag(tag) for tag in row]
        for (prefix, kind), after in zip(kinds, [*kinds[1:], OUTSIDE], strict=False):
            if prefix == "I" and (after[0] == "O" or kind != after[1]):
                return "IOE1"
    return "IOE2"
