"""The API page of the documentation lists every public name."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest

PAGE = Path(__file__).resolve().parents[1] / "docs" / "reference" / "api.md"
MODULES = ("skxlmr", "skxlmr.inspection", "skxlmr.scale", "skxlmr.search", "skxlmr.training", "skxlmr.datasets")


def names_of_page() -> dict[str, set[str]]:
    """Return the names that the page lists, by module."""
    names: dict[str, set[str]] = {}
    module = ""
    for line in PAGE.read_text(encoding="utf-8").splitlines():
        if found := re.match(r"\.\. currentmodule:: (\S+)", line):
            module = found[1]
        elif found := re.match(r"   (\w+)$", line):
            names.setdefault(module, set()).add(found[1])
    return names


@pytest.mark.parametrize("module", MODULES)
def test_api_page_lists_every_public_name(module):
    listed = names_of_page()
    public = set(importlib.import_module(module).__all__)
    assert public - listed["skxlmr"] <= listed[module]


def test_api_page_lists_only_names_that_exist():
    for module, names in names_of_page().items():
        assert not [name for name in names if not hasattr(importlib.import_module(module), name)]
