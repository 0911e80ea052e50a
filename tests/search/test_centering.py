"""Subtraction of the means of languages."""

import pickle

import numpy as np
import pandas as pd
import pytest
import sklearn
from sklearn.base import clone
from sklearn.cluster import KMeans
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.utils.estimator_checks import parametrize_with_checks

from skxlmr import XLMRXLEmbedder
from skxlmr.search import LanguageCentering

RNG = np.random.default_rng(0)
TOPICS = RNG.integers(0, 2, 90)
LANGUAGES = np.array(["en", "de", "zh"])[np.arange(90) % 3]
Z = 3 * TOPICS[:, None] * np.eye(4)[0] + 9 * (np.arange(90) % 3)[:, None] * np.eye(4)[1] + RNG.normal(0, 0.1, (90, 4))


class SignedCentering(LanguageCentering):
    """Takes the sign of the first column for the language, since the checks of scikit-learn pass X and y only."""

    def fit(self, Z, y=None):
        return super().fit(Z, y, languages=self._signs(Z))

    def transform(self, Z):
        return super().transform(Z, languages=self._signs(Z))

    def fit_transform(self, Z, y=None):
        return self.fit(Z, y).transform(Z)

    @staticmethod
    def _signs(Z):
        values = np.asarray(Z)
        if values.dtype.kind == "c":
            return np.zeros(len(values), int)
        try:
            values = values.astype(float)
            return (values.reshape(len(values), -1)[:, 0] > 0).astype(int)
        except (TypeError, ValueError, IndexError):  # the error about Z is that of the estimator
            return np.zeros(values.shape[:1], int)


@parametrize_with_checks([SignedCentering(unknown="global")])
def test_scikit_learn_checks(estimator, check):
    check(estimator)


def test_mean_of_each_language_is_subtracted():
    centering = LanguageCentering().fit(Z, languages=LANGUAGES)
    assert centering.languages_.tolist() == ["de", "en", "zh"]
    assert centering.counts_.tolist() == [30, 30, 30]
    centred = centering.transform(Z, LANGUAGES)
    for i, language in enumerate(centering.languages_):
        np.testing.assert_allclose(centering.means_[i], Z[language == LANGUAGES].mean(0))
        np.testing.assert_allclose(centred[language == LANGUAGES].mean(0), 0, atol=1e-12)
    np.testing.assert_array_equal(LanguageCentering().fit_transform(Z, languages=pd.Series(LANGUAGES)), centred)
    np.testing.assert_allclose(centering.transform(Z[:2], ["zh", "zh"]), Z[:2] - centering.means_[2])


def test_clusters_follow_topics_afterwards():
    def agreement(vectors):
        found = KMeans(2, n_init=3, random_state=0).fit_predict(vectors)
        return max((found == TOPICS).mean(), (found != TOPICS).mean())

    assert agreement(Z) < 0.8
    assert agreement(LanguageCentering().fit_transform(Z, languages=LANGUAGES)) == 1


def test_unknown_language_raises_or_takes_the_mean_of_all():
    centering = LanguageCentering().fit(Z, languages=LANGUAGES)
    with pytest.raises(ValueError, match=r"2 vectors are in languages.*: 'fr'\. .*unknown='global'"):
        centering.transform(Z[:3], ["fr", "en", "fr"])
    centering.set_params(unknown="global")
    np.testing.assert_allclose(centering.transform(Z[:1], ["fr"]), Z[:1] - Z.mean(0))


@pytest.mark.parametrize(
    ("languages", "error", "message"),
    [
        (None, TypeError, "pass languages=df.language by its name"),
        ("en", TypeError, "languages is one string, 'en'"),
        (["en"], ValueError, "90 vectors, but 1 languages"),
        (["en", None] * 45, ValueError, "languages, row 1: is missing"),
        (["en", 3] * 45, TypeError, "all strings or all integers"),
        ([0.5] * 90, TypeError, "all strings or all integers"),
    ],
)
def test_languages_that_cannot_be_used_raise(languages, error, message):
    with pytest.raises(error, match=message):
        LanguageCentering().fit(Z, languages=languages)
    with pytest.raises(error, match=message):
        LanguageCentering().fit(Z, languages=LANGUAGES).transform(Z, languages)


def test_targets_of_a_pipeline_are_not_taken_for_languages():
    with pytest.raises(TypeError, match="set_fit_request"):
        make_pipeline(LanguageCentering(), LogisticRegression()).fit(Z, TOPICS)
    with pytest.raises(NotFittedError):
        LanguageCentering().transform(Z, LANGUAGES)


def test_types_pickle_and_set_output():
    centering = LanguageCentering().set_output(transform="pandas")
    frame = centering.fit_transform(pd.DataFrame(Z.astype(np.float32), columns=list("abcd")), languages=LANGUAGES)
    assert frame.columns.to_list() == list("abcd")
    assert (frame.dtypes == np.float32).all()
    again = pickle.loads(pickle.dumps(centering))
    pd.testing.assert_frame_equal(again.transform(frame, LANGUAGES), centering.transform(frame, LANGUAGES))
    assert clone(centering).unknown == "error"
    with pytest.raises(ValueError, match="unknown"):
        LanguageCentering(unknown="mean").fit(Z, languages=LANGUAGES)


def test_metadata_routing_carries_languages_through_pipelines_and_cross_validation():
    texts = [f"{language} text {topic}" for language, topic in zip(LANGUAGES, TOPICS, strict=True)]
    with sklearn.config_context(enable_metadata_routing=True):
        centering = LanguageCentering().set_fit_request(languages=True).set_transform_request(languages=True)
        pipeline = make_pipeline(XLMRXLEmbedder("nano"), centering, LogisticRegression(C=100))
        pipeline.fit(texts, TOPICS, languages=LANGUAGES)
        assert pipeline[1].languages_.tolist() == ["de", "en", "zh"]
        assert pipeline.score(texts, TOPICS, languages=LANGUAGES) == 1
        scores = cross_val_score(pipeline, texts, TOPICS, params={"languages": LANGUAGES}, cv=3)
        assert scores.min() > 0.9
        with pytest.raises(ValueError, match="languages that fit has not seen: 'fr'"):
            pipeline.predict(texts[:1], languages=["fr"])
