"""HTML of the views: one function makes elements and escapes what is in them, and one marks parts of a text.

Styles are inline, since notebooks and their exports drop style sheets. Colours are translucent and text inherits its
colour, so that it can be read on light and dark pages.
"""

from __future__ import annotations

import colorsys
import html
import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

MAX_ROWS = 20  # of a view that a notebook shows
GOLDEN_RATIO = 0.618034  # multiples of it spread evenly over the circle of hues, however many there are
CONTROL_CHARACTERS = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")  # not allowed in HTML

TEXT = "white-space:pre-wrap;overflow-wrap:anywhere"
SPACED = f"{TEXT};line-height:1.9"  # lines of text with marks
VIEW = "text-align:start;font-size:1em;max-width:60em"
ROW = "margin:0 0 1em 0"
QUIET = "opacity:.75;font-size:.85em"
STRONG = "font-weight:bold"
MARK = (
    "color:inherit;border-radius:.25em;padding:.1em .2em;-webkit-box-decoration-break:clone;box-decoration-break:clone"
)
NAME = "font-size:.75em;font-weight:bold;opacity:.85;white-space:nowrap"
AFTER_TEXT = f"{NAME};margin-inline-start:.4em"
PAGE = "color-scheme:light dark;font-family:sans-serif;margin:2em"


class Html(str):
    """A string that is HTML. Other strings are escaped when they become the content of an element."""


@dataclass(frozen=True)
class Mark:
    """A part of a text to be marked: its first character and the one after its last, its style, and a name or ""."""

    start: int
    end: int
    style: str
    name: str = ""
    title: str = ""


def escape(text: str) -> Html:
    """Escape a text for the content of an element or a quoted attribute; control characters become U+FFFD."""
    return text if isinstance(text, Html) else Html(html.escape(CONTROL_CHARACTERS.sub("\ufffd", text)))


def element(tag: str, *content: str, **attributes: str) -> Html:
    """Make an element. Content that is not `Html`, and attributes, are escaped; empty attributes are left out.

    Examples
    --------
    >>> element("p", "1 < 2 ", element("b", "&"), title='"')
    '<p title="&quot;">1 &lt; 2 <b>&amp;</b></p>'
    """
    written = "".join(f' {name}="{escape(value)}"' for name, value in attributes.items() if value)
    return Html(f"<{tag}{written}>{''.join(map(escape, content))}</{tag}>")


def check_marks(marks: Iterable[Mark], text: str, where: str) -> list[Mark]:
    """Return marks in the order of the text.

    Raises
    ------
    ValueError
        If marks overlap, are empty, or are not within the text; the message begins with `where`.
    """
    ordered = sorted(marks, key=lambda mark: (mark.start, mark.end))
    end, last = 0, None
    for mark in ordered:
        if not 0 <= mark.start < mark.end <= len(text):
            raise ValueError(
                f"{where}: the span ({mark.start}, {mark.end}) is empty or not within the text, which has {len(text)} "
                f"characters."
            )
        if last is not None and mark.start < end:
            raise ValueError(
                f"{where}: the spans ({last.start}, {last.end}) and ({mark.start}, {mark.end}) overlap, which cannot "
                f"be shown. Keep one of them."
            )
        end, last = mark.end, mark
    return ordered


def marked_text(text: str, marks: Iterable[Mark], where: str = "The text") -> Html:
    """Make a block of a text, with its own direction of writing, in which parts are marked.

    Examples
    --------
    >>> print(marked_text("Ada < 3", [Mark(0, 3, "color:red", "PER")]).partition(">")[2])
    <mark style="color:red">Ada<span style="..."><bdi>PER</bdi></span></mark> &lt; 3</div>
    """
    parts, position = [], 0
    for mark in check_marks(marks, text, where):
        name = [element("span", element("bdi", mark.name), style=AFTER_TEXT)] if mark.name else []
        parts.append(escape(text[position : mark.start]))
        parts.append(element("mark", text[mark.start : mark.end], *name, style=mark.style, title=mark.title))
        position = mark.end
    return element("div", *parts, text[position:], dir="auto", style=SPACED)


def bracketed_text(text: str, marks: Iterable[Mark]) -> str:
    """Return a text in which parts are marked by brackets, with their names, for places that show no HTML.

    Examples
    --------
    >>> bracketed_text("Ada lives in Rome", [Mark(0, 3, "", "PER"), Mark(13, 17, "", "LOC")])
    '[Ada PER] lives in [Rome LOC]'
    """
    parts, position = [], 0
    for mark in sorted(marks, key=lambda mark: mark.start):
        name = f" {mark.name}" if mark.name else ""
        parts += [text[position : mark.start], f"[{text[mark.start : mark.end]}{name}]"]
        position = mark.end
    return "".join(parts) + text[position:]


def rgba(color: tuple[int, int, int], alpha: float) -> str:
    """Write a translucent colour.

    Examples
    --------
    >>> rgba((0, 114, 178), 0.25)
    'rgba(0,114,178,0.25)'
    """
    return f"rgba({color[0]},{color[1]},{color[2]},{alpha:.2g})"


def colors_of(names: Sequence[str]) -> dict[str, tuple[int, int, int]]:
    """Return a colour for each name, red, green and blue from 0 to 255; the same names have the same colours."""
    hues = ((0.58 + i * GOLDEN_RATIO) % 1 for i in range(len(names)))
    colors = (colorsys.hls_to_rgb(hue, 0.5, 0.75) for hue in hues)
    return {
        name: (round(255 * r), round(255 * g), round(255 * b)) for name, (r, g, b) in zip(names, colors, strict=True)
    }


class View(ABC):
    """Base class of the views: rows that are shown as HTML in notebooks, and as text elsewhere.

    A notebook and `str` show the first 20 rows, `to_html` all of them.
    """

    @abstractmethod
    def __len__(self) -> int:
        """Return the number of rows."""

    @abstractmethod
    def _row_html(self, row: int) -> Html:
        """Return the content of one row."""

    @abstractmethod
    def _row_text(self, row: int) -> str:
        """Return one row for places that show no HTML."""

    def _legend(self) -> list[Html]:
        """Return what explains the colours, above the rows."""
        return []

    def to_html(self, max_rows: int | None = None, *, page: bool = False) -> str:
        """Return HTML in which all texts are escaped.

        Parameters
        ----------
        max_rows : int, default=None
            Show only so many of the first rows; None shows all.
        page : bool, default=False
            Return a whole page to be written to a file, in UTF-8, instead of a part for another page.

        Returns
        -------
        str
        """
        shown = len(self) if max_rows is None else min(max_rows, len(self))
        rows = [element("div", self._row_html(row), style=ROW) for row in range(shown)]
        rest = [element("div", _rest(len(self) - shown), style=QUIET)] if shown < len(self) else []
        legend = [element("div", *self._legend(), style=ROW)] if self._legend() else []
        view = element("div", *legend, *rows, *rest, style=VIEW)
        if not page:
            return str(view)
        head = element("head", Html('<meta charset="utf-8">'), element("title", type(self).__name__))
        return "<!DOCTYPE html>\n" + element(
            "html", head, element("body", view, style=PAGE), style="color-scheme:light dark"
        )

    def _repr_html_(self) -> str:
        return self.to_html(max_rows=MAX_ROWS)

    def __str__(self) -> str:
        rows = [self._row_text(row) for row in range(min(len(self), MAX_ROWS))]
        return "\n".join([*rows, _rest(len(self) - MAX_ROWS)] if len(self) > MAX_ROWS else rows)

    __repr__ = __str__


def _rest(n_rows: int) -> str:
    return f"and {n_rows} more {'row' if n_rows == 1 else 'rows'}"
