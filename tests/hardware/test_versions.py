import importlib.metadata
import re
from types import SimpleNamespace

import pytest
import torch

import skxlmr
from skxlmr.hardware import versions as module


def shown(capsys: pytest.CaptureFixture) -> dict[str, str]:
    """The rows that `show_versions` prints, by name."""
    skxlmr.show_versions()
    lines = (line.strip() for line in capsys.readouterr().out.splitlines() if line.startswith("  "))
    return dict(re.split(" {2,}", line, maxsplit=1) for line in lines)


def test_version_is_that_of_the_package():
    assert skxlmr.__version__ == importlib.metadata.version("skxlmr")


def test_show_versions_prints_every_dependency(capsys):
    rows = shown(capsys)
    for name in ("torch", "scikit-learn", "sentencepiece", "pandas", "huggingface-hub", "tqdm"):
        assert rows[name] == importlib.metadata.version(name)
    assert rows["skxlmr"] == skxlmr.__version__
    assert "pytest" not in rows, "requirements of extras are left out"


def test_show_versions_without_a_dependency_says_so(capsys, monkeypatch):
    monkeypatch.setattr(importlib.metadata, "requires", lambda name: ["no-such-package>=1.0; python_version > '3'"])
    rows = shown(capsys)
    assert rows["no-such-package"] == "not installed"
    assert "triton" in rows


@pytest.mark.parametrize(
    ("native", "int8", "bfloat16"), [(True, "native", "native"), (False, "in floating point", "emulated")]
)
def test_show_versions_tells_the_cpu_capabilities(capsys, monkeypatch, native, int8, bfloat16):
    monkeypatch.setattr(module, "cpu_has_int8", lambda: native)
    monkeypatch.setattr(module, "cpu_has_bfloat16", lambda: native)
    monkeypatch.setattr(module, "available_memory", lambda device: 12_340_000_000 if native else None)
    rows = shown(capsys)
    assert (rows["int8 products"], rows["bfloat16 products"]) == (int8, bfloat16)
    assert rows["free memory"] == ("12.3 GB" if native else "unknown")
    assert rows["torch"] == torch.__version__


@pytest.mark.parametrize(
    ("variant", "path", "machine", "expected"),
    [
        ("avx2", "_kernels.so", "x86_64", "avx2"),
        (None, None, "x86_64", "not compiled, .*slower: install gcc or clang, then skxlmr again"),
        (None, "_kernels.so", "AMD64", "not usable, .*slower: this CPU lacks AVX2, or"),
        (None, None, "arm64", "none for this CPU"),
    ],
)
def test_show_versions_names_the_kernels_or_says_why_there_are_none(
    capsys, monkeypatch, variant, path, machine, expected
):
    monkeypatch.setattr(module, "library", lambda: variant and SimpleNamespace(variant=variant))
    monkeypatch.setattr(module, "compiled", lambda: path)
    monkeypatch.setattr(module.platform, "machine", lambda: machine)
    assert re.match(expected, shown(capsys)["cpu kernels"])


def test_show_versions_with_cuda_names_each_device(capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda i: f"GPU number {i}")
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda i: (3 * 10**9, 80 * 10**9))
    rows = shown(capsys)
    assert rows["cuda:1"] == "GPU number 1, 3.00 of 80.0 GB free"
