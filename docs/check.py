"""Check the pages that Sphinx has built: internal links lead somewhere, and pictures are there.

python docs/check.py docs/_build/html
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit


class Page(HTMLParser):
    """The links, the anchors and the number of pictures of one page."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.links: list[str] = []
        self.anchors: set[str] = set()
        self.n_pictures = 0
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        for name, value in attributes:
            if name in ("id", "name") and value:
                self.anchors.add(value)
            elif name in ("href", "src") and value:
                self.links.append(value)
                self.n_pictures += tag == "img" and "/_images/" in f"/{value}"


def broken_links(pages: dict[Path, Page]) -> Iterator[str]:
    """Yield one line for each internal link without a file, or without its anchor."""
    for path, page in pages.items():
        for link in page.links:
            address = urlsplit(link)
            if address.scheme or address.netloc or not (address.path or address.fragment):
                continue
            target = (path.parent / unquote(address.path)).resolve() if address.path else path
            if not target.exists():
                yield f"{path}: {link} does not exist"
            elif address.fragment and target in pages and unquote(address.fragment) not in pages[target].anchors:
                yield f"{path}: {link} has no such anchor"


def main(folder: Path) -> int:
    """Print what is broken and how many pages have pictures; return 1 if anything is broken."""
    pages = {path.resolve(): Page(path) for path in sorted(folder.rglob("*.html")) if "_static" not in path.parts}
    lines = sorted(set(broken_links(pages)))
    print(*lines, sep="\n")
    illustrated = sum(page.n_pictures > 0 for page in pages.values())
    print(f"{len(pages)} pages, {illustrated} with pictures, {len(lines)} broken links")
    return 1 if lines else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
