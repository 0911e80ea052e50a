"""The schemes of tags: which prefixes each has, and which tag may follow which."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence, Set
from dataclasses import dataclass
from typing import NoReturn

from skxlmr.tags.rows import name_rows, raise_for_rows

Part = tuple[str, str]  # prefix and type; ("O", "") outside of entities
OUTSIDE: Part = ("O", "")


@dataclass(frozen=True)
class Scheme:
    """A scheme: the prefixes of the only, the first, an inner and the last token of an entity.

    `contact` is the prefix of IOB1 and IOE1 that marks where two entities of one type touch, on the first token of the
    second entity, or on the last one of the first.
    """

    name: str
    only: str
    first: str
    inner: str
    last: str
    contact: str = ""

    @property
    def prefixes(self) -> str:
        """All prefixes, sorted; "O" is a tag of each scheme."""
        return "".join(sorted({self.only, self.first, self.inner, self.last, self.contact} - {""}))

    def begins(self, prefix: str) -> bool:
        """Whether an entity may begin with a prefix."""
        return prefix in (self.only, self.first)

    def ends(self, prefix: str) -> bool:
        """Whether an entity may end with a prefix."""
        return prefix in (self.only, self.last)

    def joins(self, before: Part, after: Part) -> bool:
        """Whether two neighbouring tags belong to one entity."""
        return (
            before[1] == after[1]
            and before[0] != "O" != after[0]
            and before[0] in (self.first, self.inner, *("B" * (self.contact == "B")))
            and after[0] in (self.inner, self.last, *("E" * (self.contact == "E")))
        )

    def may_follow(self, before: Part, after: Part) -> bool:
        """Whether a tag may follow another one; `OUTSIDE` stands for the ends of a sentence, too."""
        if self.contact == "B" and after[0] == "B":
            return before[0] != "O" and before[1] == after[1]
        if self.contact == "E" and before[0] == "E":
            return after[0] != "O" and before[1] == after[1]
        if self.contact:
            return True
        ended = before[0] == "O" or self.ends(before[0])
        begun = after[0] == "O" or self.begins(after[0])
        return self.joins(before, after) or (ended and begun)


SCHEMES = {
    scheme.name: scheme
    for scheme in (
        Scheme("BIO", "B", "B", "I", "I"),
        Scheme("IOB1", "I", "I", "I", "I", contact="B"),
        Scheme("IOE1", "I", "I", "I", "I", contact="E"),
        Scheme("IOE2", "E", "I", "I", "E"),
        Scheme("BIOES", "S", "B", "I", "E"),
        Scheme("BILOU", "U", "B", "I", "L"),
        Scheme("BMES", "S", "B", "M", "E"),
        Scheme("IO", "I", "I", "I", "I"),
    )
}
# The names of seqeval (IOB2, IOBES), spaCy (BILUO) and AllenNLP (BIOUL).
OTHER_NAMES = {"IOB2": "BIO", "IOBES": "BIOES", "BILUO": "BILOU", "BIOUL": "BILOU"}
PREFIXES = "BIESLUM"
LIKE_OUTSIDE = {"", "-", "_", "0", "o", "O ", " O", "OUT", "OUTSIDE", "NONE", "None", "none", "null", "nan"}  # for O
# Each prefix as the one of BIOES that means the same.
AS_BIOES = {"B": "B", "I": "I", "E": "E", "S": "S", "L": "E", "U": "S", "M": "I", "O": "O"}


def get_scheme(name: str) -> Scheme:
    """Return a scheme by its name, or by that of seqeval or spaCy; raises a ValueError that lists the names."""
    scheme = SCHEMES.get(OTHER_NAMES.get(name, name)) if isinstance(name, str) else None
    if scheme is None:
        names = [*SCHEMES, *OTHER_NAMES]
        similar = difflib.get_close_matches(str(name).upper(), names, n=1)
        meant = f" Did you mean {similar[0]!r}?" if similar else ""
        raise ValueError(f"scheme={name!r} is not a scheme of entities. There are {', '.join(names)}.{meant}")
    return scheme


def scheme_of_prefixes(prefixes: Set[str]) -> Scheme:
    """Return the scheme that some prefixes suggest: BIO for B, IOB1 for I alone, IOE2 for E without B and S."""
    if "M" in prefixes:
        return SCHEMES["BMES"]
    if prefixes & {"L", "U"}:
        return SCHEMES["BILOU"]
    if "E" in prefixes and not prefixes & {"B", "S"}:
        return SCHEMES["IOE2"]
    if prefixes & {"E", "S"}:
        return SCHEMES["BIOES"]
    return SCHEMES["IOB1" if prefixes - {"O"} == {"I"} else "BIO"]


def split_tag(tag: str) -> tuple[str, str]:
    """Split a tag into prefix and type: "B-PER" into "B" and "PER", "O" into "O" and ""."""
    prefix, _, kind = tag.partition("-")
    return prefix, kind


def is_well_formed(tag: str, prefixes: str = PREFIXES) -> bool:
    """Whether a tag is O, a prefix, or a prefix, a hyphen and a type without white space at its ends."""
    prefix, hyphen, kind = tag.partition("-")
    if tag == "O":
        return True
    return len(prefix) == 1 and prefix in prefixes and bool(kind) == bool(hyphen) and kind == kind.strip()


def has_type(tag: str) -> bool:
    """Whether a tag is a prefix of some scheme, a hyphen and a type."""
    return "-" in tag and is_well_formed(tag)


def is_raw(tags: Iterable[str]) -> bool:
    """Whether the tags of the scheme IO are types without a prefix, such as PERSON."""
    types = set(tags) - {"O"}
    return not any(is_well_formed(tag, "I") for tag in types) and not all(map(has_type, types))


def read_tags(
    rows: Sequence[Sequence[str]], scheme: str | None = None, *, name: str = "tags", names: Sequence[str] | None = None
) -> list[list[Part]]:
    """Split the tags of sentences into prefixes and types.

    Raises a ValueError that counts the rows with a tag that the scheme does not have, or none of the schemes if it is
    None. `names` are those of the rows.
    """
    tags = {tag for row in rows for tag in row}
    found = None if scheme is None else get_scheme(scheme)
    if found is not None and found.name == "IO" and is_raw(tags):
        parts = {tag: OUTSIDE if tag == "O" else ("I", tag) for tag in tags}
        odd = tags & LIKE_OUTSIDE
    else:
        parts = {tag: split_tag(tag) for tag in tags}
        prefixes = PREFIXES if found is None else found.prefixes
        odd = {tag for tag in tags if not is_well_formed(tag, prefixes)}
    if odd:
        what = "no scheme of entities has" if found is None else f"scheme={found.name!r} does not have"
        refuse_tags(rows, odd, f"a tag that {what}", _advice(found), name, names)
    return [[parts[tag] for tag in row] for row in rows]


def refuse_tags(
    rows: Sequence[Sequence[str]],
    odd: Set[str],
    what: str,
    advice: str,
    name: str,
    names: Sequence[str] | None,
    error: type[Exception] = ValueError,
) -> NoReturn:
    """Raise an error that counts the rows with an odd tag, and names the tag of the first ten."""
    problems = []
    for i, row in enumerate(rows):
        found = next((j for j, tag in enumerate(row) if tag in odd), None)
        if found is not None:
            problems.append((name_rows(names, i), f"tag {found} is {row[found]!r}"))
    raise_for_rows(name, problems, len(rows), what, advice, error)


def _advice(scheme: Scheme | None) -> str:
    if scheme is not None and scheme.name == "IO":
        return "Tags are O, and either types (PERSON) or types with the prefix I (I-PERSON). Or set another scheme."
    prefixes = ", ".join(PREFIXES if scheme is None else scheme.prefixes)
    own = "" if scheme is None else " Or set another scheme."
    return (
        f"Tags are O, or begin with one of {prefixes} and a hyphen, as in {(scheme.only if scheme else 'B')}-PER. "
        f"Write them so, with skxlmr.tags.convert_tags for another separator or for suffixes; types without a prefix, "
        f"such as PERSON, need scheme='IO'.{own}"
    )
