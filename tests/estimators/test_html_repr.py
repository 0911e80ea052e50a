"""Estimators as notebooks show them: parameters and fitted attributes with their documentation."""

import re

import pytest
import sklearn
from sklearn.base import BaseEstimator
from sklearn.utils.fixes import parse_version

import skxlmr
from skxlmr import XLMRXLQA, Bias, Full, LoRA, XLMRXLClassifier, XLMRXLEmbedder, XLMRXLRegressor, XLMRXLTagger
from skxlmr.estimators.base import estimators
from skxlmr.system.links import DOCUMENTATION

CLASSES = [*(estimators()[name] for name in sorted(estimators().keys() & set(skxlmr.__all__))), LoRA, Bias, Full]
TEXTS = ["a b", "b c", "a c", "c b"]
FITTED = {
    XLMRXLClassifier: lambda cls: cls("nano", tuning="head").fit(TEXTS, [0, 1, 0, 1]),
    XLMRXLRegressor: lambda cls: cls("nano", tuning="head").fit(TEXTS, [0, 1, 0, 2]),
    XLMRXLTagger: lambda cls: cls("nano", tuning="head").fit(TEXTS, [["X", "O"], ["O", "X"]] * 2),
    XLMRXLQA: lambda cls: cls("nano", max_epochs=1).fit([[text, text] for text in TEXTS], list("abac")),
    XLMRXLEmbedder: lambda cls: cls("nano").fit(TEXTS),
}
needs_tooltips = pytest.mark.skipif(
    parse_version(sklearn.__version__) < parse_version("1.9"), reason="scikit-learn shows tooltips since 1.9"
)


def documented(html):
    """Return the names with a link and a description, and the description of each."""
    link = (
        r'<a class="param-doc-link"[^>]*href="([^"]+)">\s*(\w+)\s*<span class="param-doc-description"[^>]*>(.*?)</span>'
    )
    found = re.findall(link, html, re.DOTALL)
    assert all(address.startswith(f"{DOCUMENTATION}/reference/api/skxlmr.") for address, _, _ in found)
    return {name: description for _, name, description in found}


@needs_tooltips
@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
def test_each_parameter_shows_its_documentation(cls):
    html = cls()._repr_html_()
    shown = documented(html)
    assert set(shown) == set(cls().get_params(deep=False))
    for name, description in shown.items():
        assert re.match(rf"\s*{name}: .+default=.+<br><br>\s*\S", description, re.DOTALL), name
    assert f'href="{DOCUMENTATION}/reference/api/skxlmr.{cls.__name__}.html"' in html


@needs_tooltips
@pytest.mark.parametrize("cls", FITTED, ids=lambda cls: cls.__name__)
@pytest.mark.filterwarnings("ignore")  # of training on four rows
def test_each_fitted_attribute_shows_its_documentation(cls):
    fitted = FITTED[cls](cls)
    names = {name for name in vars(fitted) if name.endswith("_") and not name.startswith("_")}
    assert names
    assert names <= set(documented(fitted._repr_html_()))


def test_classes_of_users_have_no_link():
    class Mine(XLMRXLClassifier, abstract=True):
        pass

    Mine.__module__ = "mine"
    assert DOCUMENTATION not in Mine()._repr_html_()
    assert XLMRXLClassifier()._get_doc_link().startswith(DOCUMENTATION)
    assert BaseEstimator()._get_doc_link().startswith("https://scikit-learn.org")
