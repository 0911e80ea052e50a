import platform
import shutil

import pytest
import torch

from skxlmr.model.avx import library as module
from skxlmr.model.avx.library import Library, address, compiled, library


@pytest.fixture(autouse=True)
def forget():
    library.cache_clear()
    yield
    library.cache_clear()


def test_kernels_are_compiled_where_there_is_a_compiler():
    if platform.machine() != "x86_64" or platform.system() != "Linux" or shutil.which("gcc") is None:
        pytest.skip("no compiler, or not an x86 CPU")
    if compiled() is None:
        pytest.skip("this is a checkout that was not installed with `pip install -e .`")
    assert "avx2" not in torch.backends.cpu.get_cpu_capability().lower() or library() is not None


def test_library_is_none_if_nothing_was_compiled(monkeypatch, tmp_path):
    monkeypatch.setattr(module, "__file__", str(tmp_path / "library.py"))
    assert compiled() is None
    assert library() is None


def test_library_is_none_if_the_file_is_damaged(monkeypatch, tmp_path):
    monkeypatch.setattr(module, "__file__", str(tmp_path / "library.py"))
    (tmp_path / "_kernels.abi3.so").write_bytes(b"not a library")
    assert compiled() is not None
    assert library() is None


def test_library_of_another_version_is_not_used(monkeypatch):
    if compiled() is None:
        pytest.skip("the kernels were not compiled")
    monkeypatch.setattr(module, "VERSION", 0)
    assert library() is None


def test_unknown_variant_raises():
    if compiled() is None:
        pytest.skip("the kernels were not compiled")
    with pytest.raises(KeyError, match="sse2"):
        Library(compiled(), "sse2")


def test_address_of_nothing_is_none():
    assert address(None) is None
    assert address(torch.zeros(1)) != 0
