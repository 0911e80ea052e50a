"""Spans of characters or tokens, and the tokens that they consist of."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np

from skxlmr.system.warn import warn
from skxlmr.tags.entities import Span, spans_to_tags
from skxlmr.tags.rows import raise_for_rows
from skxlmr.tags.schemes import has_type, split_tag
from skxlmr.tags.spans import LabelledSpan, read_span
from skxlmr.tasks.tagging.sentences import TokenColumn

ALIGNMENTS = ("strict", "expand", "contract")


@dataclass
class SpanReader:
    """Turn the spans of rows into tags; problems are collected and raised at the end.

    Attributes
    ----------
    column : TokenColumn
    align : {"strict", "expand", "contract"}
        What becomes of a span that begins or ends within a token: an error, a span of all tokens that it touches, or
        one of the tokens that it contains.
    problems : list of tuple
        (row, message)
    errors : list of type
        The first error decides about the type of the one that is raised.
    left_out : list of tuple
        (row, span) without a whole token.
    """

    column: TokenColumn
    align: str = "strict"
    problems: list[tuple[int, str]] = field(default_factory=list)
    errors: list[type[Exception]] = field(default_factory=list)
    left_out: list[tuple[int, str]] = field(default_factory=list)

    def tags(self, rows: Sequence[Iterable[Any]], scheme: str, name: str, names: Sequence[str]) -> list[list[str]]:
        """Return the tags of all rows, which errors call `names`, of the column `name`."""
        read = [self._attempt(i, lambda row=row: [read_span(item) for item in row]) or [] for i, row in enumerate(rows)]
        wrong = wrong_labels({span.label for spans in read for span in spans})
        tokens = [self._attempt(i, lambda i=i, spans=spans: self._row(i, spans, wrong)) for i, spans in enumerate(read)]
        if self.problems:
            shown = sorted((i, names[i], message) for i, message in self.problems)
            problems = [(row, message) for _, row, message in shown]
            raise_for_rows(name, problems, len(names), "", self._advice(), self.errors[0])
        if self.left_out:
            first, text = self.left_out[0]
            warn(
                f"{name}: {len(self.left_out)} spans contain no whole token and were left out (align='contract'). The "
                f"first is {text} in {names[first]}."
            )
        lengths = map(len, self.column.texts)
        return [spans_to_tags(of_row or [], n, scheme) for of_row, n in zip(tokens, lengths, strict=True)]

    def _attempt(self, i: int, read: Any) -> Any:
        try:
            return read()
        except (TypeError, ValueError) as error:
            self.problems.append((i, str(error)))
            self.errors.append(type(error))
        return None

    def _row(self, i: int, spans: list[LabelledSpan], wrong: dict[str, str]) -> list[Span]:
        """Return the spans of one row, in tokens; raises a ValueError for the first that is wrong."""
        found: list[tuple[int, int, LabelledSpan]] = []
        for span in spans:
            if span.label in wrong:
                raise ValueError(f"the label {wrong[span.label]}")
            self._check_range(i, span)
            tokens = self._tokens(i, span)
            if tokens is None:
                self.left_out.append((i, self._show(i, span)))
            else:
                found.append((*tokens, span))
        found.sort(key=lambda item: item[:2])
        for (_, end, before), (start, _, span) in pairwise(found):
            if start < end:
                first, second = self._show(i, before), self._show(i, span)
                token = self.column.texts[i][start]
                raise ValueError(f"the span {second} overlaps {first}: both have the token {token!r:.40}")
        return [(start, end, span.label) for start, end, span in found]

    def _check_range(self, i: int, span: LabelledSpan) -> None:
        """Check that a span lies in its row, and has the text that the annotation says."""
        source = self._source(i)
        unit = "tokens" if self.column.sources is None else "characters"
        if not 0 <= span.start < span.end <= len(source):
            shown = (span.start, span.end, span.label)
            raise ValueError(f"the span {shown} is empty or beyond the {len(source)} {unit}")
        has = source[span.start : span.end]
        if span.text is not None and not _same_text(span.text, has):
            has_astral = self.column.sources is not None and max(source) > "\uffff"
            units = " (an emoji counts as one)" if has_astral else ""
            raise ValueError(
                f"the span {self._show(i, span)} has the text {span.text!r:.60} in its annotation, which are not these "
                f"{unit}{units}"
            )

    def _tokens(self, i: int, span: LabelledSpan) -> tuple[int, int] | None:
        """Return the first token of a span and the one after its last; None if it is left out."""
        if self.column.offsets is None:
            return span.start, span.end
        starts, ends = self.column.offsets[i].T
        first = int(np.searchsorted(ends, span.start, side="right"))
        last = int(np.searchsorted(starts, span.end, side="left")) - 1
        if first > last:
            raise ValueError(f"the span {self._show(i, span)} contains no token")
        cut = [t for t in dict.fromkeys((first, last)) if starts[t] < span.start or ends[t] > span.end]
        if not cut or self.align == "expand":
            return first, last + 1
        if self.align == "strict":
            tokens = " and ".join(f"{self.column.texts[i][t]!r:.40} ({starts[t]}, {ends[t]})" for t in cut)
            raise ValueError(f"the span {self._show(i, span)} begins or ends within a token: {tokens}")
        first, last = first + (first in cut), last - (last in cut)
        return (first, last + 1) if first <= last else None

    def _source(self, i: int) -> Sequence[str]:
        return self.column.texts[i] if self.column.sources is None else self.column.sources[i]

    def _show(self, i: int, span: LabelledSpan) -> str:
        has = self._source(i)[span.start : span.end]
        shown = has if isinstance(has, str) else " ".join(has)
        return f"({span.start}, {span.end}, {span.label!r}) {shown!r:.60}"

    def _advice(self) -> str:
        messages = " ".join(message for _, message in self.problems)
        advice = {
            "within a token": "Set align='expand' or align='contract', or a tokenizer that separates these words.",
            "overlaps": "A token has one tag: keep one of these spans.",
            "in its annotation": "Start and end count characters of the text in X, from 0; the end is not included.",
            "is itself a tag": "Labels are types, such as 'geo'; if y has one tag per token, pass the tags alone.",
            "beyond the": "Start counts from 0, and the end is not included.",
        }
        return " ".join(text for key, text in advice.items() if key in messages)


def _same_text(annotated: Any, has: Sequence[str]) -> bool:
    """Whether the text of an annotation is that of a span, apart from white space."""
    texts = [text if isinstance(text, str) else " ".join(map(str, text)) for text in (annotated, has)]
    if isinstance(has, str):
        return " ".join(texts[0].split()) == " ".join(texts[1].split())
    return "".join(texts[0].split()) == "".join(texts[1].split())  # spaces between tokens are not known


def wrong_labels(labels: set[str]) -> dict[str, str]:
    """Return the labels of spans that cannot be types of entities, each with the reason.

    A label that begins with "B-" or "I-" is taken for a tag; one that begins with another prefix ("E-mail") only if the
    rest is the type of another one ("B-mail"), or if all labels have a prefix.

    Examples
    --------
    >>> wrong_labels({"geo", "O", "B-geo", "E-mail"})
    {'B-geo': "'B-geo' is itself a tag", 'O': "'O' is that of tokens outside of spans; leave such spans out"}
    """
    reasons: dict[str, str] = {}
    with_prefix = {label for label in labels if has_type(label)}
    all_have = len(with_prefix) > 1 and with_prefix == labels - {"O"}
    kinds = [split_tag(label)[1] for label in with_prefix]
    for label in sorted(labels):
        if not label.strip():
            reasons[label] = f"{label!r} is empty"
        elif label != label.strip():
            reasons[label] = f"{label!r} has white space at its ends"
        elif label == "O":
            reasons[label] = f"{label!r} is that of tokens outside of spans; leave such spans out"
        elif label in with_prefix:
            prefix, kind = split_tag(label)
            if prefix in "BI" or all_have or kinds.count(kind) > 1:
                reasons[label] = f"{label!r} is itself a tag"
    return reasons
