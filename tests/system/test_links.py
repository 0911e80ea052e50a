"""Addresses of the project's pages."""

import re
from pathlib import Path

import skxlmr
from skxlmr.estimators.base import estimators
from skxlmr.system.links import API_PAGE, DOCUMENTATION

PAGES = Path(__file__).parents[2] / "docs"


def test_pages_of_public_estimators_are_generated():
    """The address of a class is that of the page that autosummary makes of the list in docs/reference/api.md."""
    folder, name = API_PAGE.removeprefix(DOCUMENTATION + "/").rsplit("/", 1)
    listed = (PAGES / folder).with_suffix(".md").read_text(encoding="utf-8")
    blocks = re.findall(r"currentmodule:: (\S+)\n(.*?)```", listed, re.DOTALL)
    (public,) = (block for module, block in blocks if f"{module}.{{estimator_name}}.html" == name)
    for estimator in estimators().keys() & set(skxlmr.__all__):
        assert re.search(rf"^   {estimator}$", listed, re.MULTILINE), estimator
    assert "XLMRXLClassifier" in public
