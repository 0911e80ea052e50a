"""Tags of tokens: their schemes, which may follow which, and the spans that they mark."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from skxlmr.metrics import entity_f1, split_tag

SENTENCES_AT_ONCE = 1024  # that are decoded together
SCHEMES = ("BIO", "BIOES", "IO", "plain")
FORBIDDEN = -1e4  # far below any log-probability: such a transition is taken only if there is no other


def infer_scheme(rows: Sequence[Sequence[str]]) -> str:
    """Infer the scheme of tags: "BIO", "BIOES", "IO", or "plain" for tags that mark no spans.

    IOB1 (as in CoNLL 2003: B only between neighbours of one type) counts as "IO": any tag may follow any other, and
    `skxlmr.metrics.entity_spans` reads both. Raises a ValueError for BILOU.

    Examples
    --------
    >>> infer_scheme([["O", "B-PER", "I-PER"]]), infer_scheme([["NOUN", "VERB"]]), infer_scheme([["I-PER", "B-PER"]])
    ('BIO', 'plain', 'IO')
    """
    tags = {tag for row in rows for tag in row}
    prefixes = {split_tag(tag)[0] for tag in tags} - {"O"}
    has_types = all("-" in tag for tag in tags - {"O"})
    if not prefixes or prefixes - set("BIESLU") or not (has_types or {"B", "O"} <= tags <= set("BIESO")):
        return "plain"
    if prefixes & {"L", "U"}:
        raise ValueError(
            "y seems to be in BILOU: it has tags that begin with L- or U-. Write E- and S- in their place; or, if they "
            "mark no spans, set scheme='plain'."
        )
    if prefixes & {"E", "S"}:
        return "BIOES"
    return "BIO" if "B" in prefixes and not _is_iob1(rows) else "IO"


def _is_iob1(rows: Iterable[Sequence[str]]) -> bool:
    """Whether each B follows an entity of its type, and some entity begins with I."""
    begins_with_i = False
    for row in rows:
        kinds = [split_tag(tag) for tag in row]
        for (_, before), (prefix, kind) in zip([("O", ""), *kinds], kinds, strict=False):
            if prefix == "B" and kind != before:
                return False
            begins_with_i |= prefix == "I" and kind != before
    return begins_with_i


def check_scheme(tags: Iterable[str], scheme: str) -> None:
    """Raise a ValueError if a scheme does not have one of the tags."""
    prefixes = {"BIO": "BI", "BIOES": "BIES", "IO": "BI"}  # IO: or IOB1
    for tag in tags if scheme in prefixes else ():
        if tag != "O" and split_tag(tag)[0] not in set(prefixes[scheme]):
            raise ValueError(
                f"y has the tag {tag!r}, which scheme={scheme!r} does not have: its tags are O, or begin with one of "
                f"{', '.join(prefixes[scheme])}. Set scheme='auto'."
            )


def transitions(tags: Sequence[str], scheme: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return what may follow what: 0 if it may, `FORBIDDEN` if it may not.

    The first array is (n_tags, n_tags), from the tag of the row to that of the column; the other two are for the first
    and for the last tag of a sentence, (n_tags,) each.
    """
    parts = [split_tag(tag) for tag in tags]
    if scheme in ("IO", "plain"):
        continues, goes_on = [False] * len(tags), [False] * len(tags)
    else:
        continues = [prefix in "IE" for prefix, _ in parts]  # needs the same entity before it
        goes_on = [scheme == "BIOES" and prefix in "BI" for prefix, _ in parts]  # needs it after it
    between = np.zeros((len(tags), len(tags)))
    for i, (prefix, kind) in enumerate(parts):
        for j, (_, kind_after) in enumerate(parts):
            same = prefix in "BI" and kind == kind_after and continues[j]
            if not same and (continues[j] or goes_on[i]):
                between[i, j] = FORBIDDEN
    return between, np.where(continues, FORBIDDEN, 0.0), np.where(goes_on, FORBIDDEN, 0.0)


def decode(logits: Sequence[np.ndarray] | np.ndarray, tags: Sequence[str], scheme: str) -> list[np.ndarray]:
    """Return the most probable tag numbers of each sentence among those that the scheme allows (Viterbi).

    Logits are (n_tokens, n_tags) per sentence, results (n_tokens,) int64.
    """
    if scheme in ("IO", "plain"):
        return [of_sentence.argmax(axis=1) for of_sentence in logits]
    between, first, last = transitions(tags, scheme)
    lengths = np.fromiter(map(len, logits), np.int64, len(logits))
    decoded: list[np.ndarray] = [np.empty(0, np.int64)] * len(logits)
    for length in np.unique(lengths[lengths > 0]):  # sentences of one length at once
        of_length = np.flatnonzero(lengths == length)
        for chosen in np.split(of_length, np.arange(SENTENCES_AT_ONCE, len(of_length), SENTENCES_AT_ONCE)):
            scores = log_softmax(np.stack([logits[i] for i in chosen]))
            for i, of_sentence in zip(chosen, best_paths(scores, between, first, last), strict=True):
                decoded[i] = of_sentence
    return decoded


def best_paths(scores: np.ndarray, between: np.ndarray, first: np.ndarray, last: np.ndarray) -> np.ndarray:
    """Return the tags with the highest sums of scores, (sentences, tokens, tags) -> (sentences, tokens)."""
    best, back = scores[:, 0] + first, []
    for token in range(1, scores.shape[1]):
        steps = best[:, :, None] + between  # (sentences, tag before, tag)
        back.append(steps.argmax(axis=1))
        best = steps.max(axis=1) + scores[:, token]
    path = [(best + last).argmax(axis=1)]
    for pointers in reversed(back):
        path.append(np.take_along_axis(pointers, path[-1][:, None], axis=1)[:, 0])
    return np.stack(path[::-1], axis=1)


def log_softmax(logits: np.ndarray) -> np.ndarray:
    shifted = logits.astype(np.float64) - logits.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


def spans_to_tags(spans: Iterable[tuple[int, int, str]], n_tokens: int) -> list[str]:
    """Convert spans of tokens (first, one past the last, type) to BIO tags; a ValueError if they overlap or are
    outside.

    Examples
    --------
    >>> spans_to_tags([(1, 3, "PER")], 4)
    ['O', 'B-PER', 'I-PER', 'O']
    """
    tags = ["O"] * n_tokens
    for start, end, kind in spans:
        if not 0 <= start < end <= n_tokens:
            raise ValueError(f"the span ({start}, {end}, {kind!r}) is empty or beyond the {n_tokens} tokens")
        if any(tag != "O" for tag in tags[start:end]):
            raise ValueError(f"the span ({start}, {end}, {kind!r}) overlaps another one")
        tags[start:end] = [f"B-{kind}"] + [f"I-{kind}"] * (end - start - 1)
    return tags


def tag_score(
    true: Sequence[Sequence[str]],
    predicted: Sequence[Sequence[str]] | np.ndarray,
    scheme: str,
    weights: np.ndarray,
    strict: bool = False,
) -> float:
    """Compute the entity F1, or the accuracy of tags without a scheme."""
    if scheme != "plain":
        return entity_f1(true, predicted, strict=strict, scheme=scheme, sample_weight=weights)
    right = [sum(a == b for a, b in zip(*rows, strict=True)) for rows in zip(true, predicted, strict=True)]
    n_tokens = np.fromiter(map(len, true), np.float64, len(true))
    total = (n_tokens * weights).sum()
    return float((np.array(right) * weights).sum() / total) if total else 0.0
