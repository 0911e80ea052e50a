"""What triton needs to be usable."""

import importlib.util
import shutil
import sys
import sysconfig

import pytest

from skxlmr.system import triton


@pytest.fixture(autouse=True)
def complete_machine(tmp_path, monkeypatch):
    """A machine with triton, gcc and the headers of Python, of which a test takes one away."""
    (tmp_path / "Python.h").touch()
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)
    monkeypatch.setattr(shutil, "which", lambda name: name if name == "gcc" else None)
    monkeypatch.setattr(sysconfig, "get_path", lambda *_: str(tmp_path))
    monkeypatch.delenv("CC", raising=False)
    triton.missing.cache_clear()
    yield
    triton.missing.cache_clear()


def test_require_with_all_there_does_not_import_triton():
    before = "triton" in sys.modules
    assert triton.is_usable()
    triton.require()
    assert ("triton" in sys.modules) == before


def test_require_without_triton_says_how_to_install(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert not triton.is_usable()
    with pytest.raises(ImportError, match=r"run `pip install triton`\. Int8\(engine=\"auto\"\) multiplies without it"):
        triton.require()


def test_require_without_compiler_names_gcc(monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(ImportError, match=r"C compiler.*install gcc, or name one in the environment variable CC"):
        triton.require()


def test_compiler_may_be_named_in_the_environment(monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    monkeypatch.setenv("CC", "/opt/bin/cc")
    assert triton.is_usable()


def test_require_without_headers_of_python_names_their_package(tmp_path):
    (tmp_path / "Python.h").unlink()
    with pytest.raises(ImportError, match=r"Python\.h, which is missing: .* python3-dev"):
        triton.require()


def test_require_without_a_folder_to_write_to_names_it(tmp_path, monkeypatch):
    """As for users of containers who have no home directory."""
    monkeypatch.setenv("TRITON_HOME", str(tmp_path / "nobody"))
    asked = []
    monkeypatch.setattr(triton.os, "access", lambda path, mode: asked.append(path))
    with pytest.raises(ImportError, match=r"nobody.\.triton.cache is not: name one in .*TRITON_CACHE_DIR"):
        triton.require()
    assert asked == [tmp_path]
    triton.missing.cache_clear()
    monkeypatch.undo()
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path / "kept"))
    assert triton._cache() == tmp_path / "kept"


@pytest.mark.parametrize(("value", "expected"), [("1", True), ("true", True), ("0", False), ("", False)])
def test_is_interpreting_reads_the_environment(value, expected, monkeypatch):
    monkeypatch.setenv("TRITON_INTERPRET", value)
    assert triton.is_interpreting() is expected
