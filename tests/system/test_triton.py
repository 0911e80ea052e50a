"""Whether triton is installed."""

import importlib.util
import sys

import pytest

from skxlmr.system import triton


@pytest.fixture(autouse=True)
def forget():
    triton.is_installed.cache_clear()
    yield
    triton.is_installed.cache_clear()


def test_is_installed_does_not_import_it(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)
    before = "triton" in sys.modules
    assert triton.is_installed()
    assert ("triton" in sys.modules) == before
    triton.require()


def test_require_without_package_says_how_to_install(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert not triton.is_installed()
    with pytest.raises(ImportError, match=r"run `pip install triton`.*engine=\"auto\"\) multiplies without it"):
        triton.require()
