"""One annotated span, in the forms that exports and libraries give it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from numbers import Integral
from typing import Any, NamedTuple

import numpy as np

SPAN_TYPES = (list, tuple, np.ndarray, Mapping)  # what one span may be
# Keys of a span in a dict: of this library and spaCy, doccano, Label Studio, and pipelines of transformers.
STARTS = ("start", "start_offset")
ENDS = ("end", "end_offset")
LABELS = ("label", "labels", "entity_group")


class LabelledSpan(NamedTuple):
    """A span, its label, and its text if the annotation has it."""

    start: int
    end: int
    label: str
    text: str | Sequence[str] | None = None


def read_span(item: Any) -> LabelledSpan:
    """Read a span: (start, end, label), or a dict; raises a TypeError or ValueError that says what is wrong.

    Examples
    --------
    >>> read_span((0, 2, "ORG"))
    LabelledSpan(start=0, end=2, label='ORG', text=None)
    >>> read_span({"start_offset": 0, "end_offset": 2, "label": "ORG"}).label
    'ORG'
    """
    text = None
    if isinstance(item, Mapping) and isinstance(item.get("value"), Mapping):  # a region of Label Studio
        item = item["value"]
    if isinstance(item, Mapping):
        found = [next((key for key in keys if key in item), None) for keys in (STARTS, ENDS, LABELS)]
        if None in found:
            raise TypeError(
                f"{item!r:.80} is not a span: a dict needs start, end and label, or start_offset, end_offset and label"
            )
        start, end, label = (item[key] for key in found)
        text = item.get("text")
    elif isinstance(item, list | tuple | np.ndarray) and len(item) == 3:
        start, end, label = item
    else:
        raise TypeError(f"{item!r:.80} is not a span (start, end, label)")
    if isinstance(start, bool) or not (isinstance(start, Integral) and isinstance(end, Integral)):
        raise TypeError(f"start and end of the span {item!r:.80} must be integers: a span is (start, end, label)")
    return LabelledSpan(int(start), int(end), _read_label(label, item), text)


def _read_label(label: Any, item: Any) -> str:
    if isinstance(label, list | tuple | np.ndarray):
        if len(label) != 1:
            raise ValueError(f"the span {item!r:.80} has {len(label)} labels; a token has one tag, so give one")
        label = label[0]
    if not isinstance(label, str | Integral):
        raise TypeError(f"the label of the span {item!r:.80} is a {type(label).__name__}, not a text")
    return str(label)
