"""The example of "Writing an estimator" in CONTRIBUTING.md has what every estimator has."""

import runpy
from pathlib import Path

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV

import skxlmr

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "ordinal_classifier.py"
TEXTS = ["dreadful, never again", "not good", "it was fine", "good", "wonderful, a delight"] * 4
STARS = ["one", "two", "three", "four", "five"] * 4
ORDER = ["one", "two", "three", "four", "five"]


@pytest.fixture(scope="module")
def ordinal():
    cls = runpy.run_path(str(EXAMPLE))["XLMRXLOrdinalClassifier"]
    return cls("nano", order=ORDER, learning_rate=5e-3, max_epochs=6, random_state=0)


@pytest.fixture(scope="module")
def fitted(ordinal):
    return clone(ordinal).fit(TEXTS, STARS)


def test_example_is_shorter_than_120_lines():
    assert len(EXAMPLE.read_text().splitlines()) < 120


def test_ordinal_classifier_predicts_classes_in_order(fitted):
    assert fitted.classes_.tolist() == ORDER
    assert fitted.score(TEXTS, STARS) > -0.5
    proba = fitted.predict_proba(TEXTS)
    assert proba.shape == (20, 5)
    np.testing.assert_allclose(proba.sum(axis=1), 1, rtol=1e-6)
    assert (proba >= 0).all()


def test_ordinal_classifier_save_and_load_keeps_predictions(fitted, tmp_path):
    fitted.save(tmp_path / "saved")
    loaded = skxlmr.load(tmp_path / "saved")
    assert loaded.order == ORDER
    np.testing.assert_array_equal(loaded.predict_proba(TEXTS), fitted.predict_proba(TEXTS))


def test_ordinal_classifier_grid_over_tuning_rank(ordinal):
    search = GridSearchCV(clone(ordinal).set_params(max_epochs=1), {"tuning__rank": [2, 4]}, cv=2).fit(TEXTS, STARS)
    assert search.best_params_["tuning__rank"] in (2, 4)
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()


def test_ordinal_classifier_warm_start_with_reversed_order_raises(fitted):
    again = clone(fitted).set_params(max_epochs=1, warm_start=True).fit(TEXTS, STARS)
    before = again.predict_proba(TEXTS)
    with pytest.raises(ValueError, match="in the same order"):
        again.set_params(order=ORDER[::-1]).fit(TEXTS, STARS)
    np.testing.assert_array_equal(again.predict_proba(TEXTS), before)


def test_ordinal_classifier_export_is_not_offered(fitted, tmp_path):
    with pytest.raises(NotImplementedError, match="no class for what XLMRXLOrdinalClassifier learns; use save"):
        fitted.export_pretrained(tmp_path)
    with pytest.raises(NotImplementedError, match="no class for what XLMRXLOrdinalClassifier learns; use save"):
        fitted.export_adapter(tmp_path)


def test_ordinal_classifier_fit_without_y_names_class_and_method(ordinal):
    with pytest.raises(TypeError, match=r"^XLMRXLOrdinalClassifier\.fit requires y"):
        clone(ordinal).fit(TEXTS)
    with pytest.raises(ValueError, match=r"^XLMRXLOrdinalClassifier\.fit requires y to be passed"):
        clone(ordinal).fit(TEXTS, None)


def test_ordinal_classifier_unknown_parameter_is_suggested(ordinal):
    with pytest.raises(TypeError, match="Did you mean 'max_epochs'"):
        type(ordinal)(num_train_epochs=3)
    with pytest.raises(ValueError, match="Did you mean 'order'"):
        clone(ordinal).set_params(ordr=ORDER)
