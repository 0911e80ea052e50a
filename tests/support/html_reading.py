"""A strict reader of the HTML that this library writes."""

from __future__ import annotations

from html.parser import HTMLParser

VOID = {"meta"}


class StrictReader(HTMLParser):
    """Reads HTML whose elements must be closed in order; collects the text, the tags, and the text of marks."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.text = ""
        self.marks: list[tuple[int, int]] = []  # of the text

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        if tag == "mark":
            self.marks.append((len(self.text), -1))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open[-1:] == [tag], f"</{tag}> closes {self.open[-1:]}"
        self.open.pop()
        if tag == "mark":
            self.marks[-1] = (self.marks[-1][0], len(self.text))

    def handle_data(self, data):
        self.text += data


def read_html(html: str) -> StrictReader:
    """Read HTML, of which all elements are closed, and no attribute runs code or loads anything."""
    reader = StrictReader()
    reader.feed(html)
    reader.close()
    assert not reader.open, f"not closed: {reader.open}"
    assert {name for name, _ in reader.attributes} <= {"style", "title", "dir", "charset"}
    assert not {"script", "img", "iframe", "link"} & set(reader.tags)
    return reader
