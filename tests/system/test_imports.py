"""What is imported by `import skxlmr`, by the command line and by a first vector; each in a process of its own."""

from __future__ import annotations

import ast
import gc
import importlib
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

import skxlmr
from skxlmr.system import imports
from skxlmr.system.imports import lazy_attributes, without_garbage_collection

LATE = (
    "sklearn.decomposition",
    "sklearn.ensemble",
    "sklearn.linear_model",
    "sklearn.metrics",
    "sklearn.model_selection",
    "sklearn.preprocessing",
    "matplotlib",
    "bitsandbytes",
    "huggingface_hub",
    "transformers",
    "torch._dynamo",
    "torch._inductor",
)
FIRST_VECTOR = (
    "from skxlmr import XLMRXLEmbedder\n"
    "XLMRXLEmbedder(model='nano', load_in_8bit={}, device='cpu').fit(['a']).transform(['b'])\n"
)


def imported(program: str) -> set[str]:
    """Run a program, and return the modules that it has imported."""
    program += "\nimport sys\nprint('modules', *sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=300, check=True)
    return set(done.stdout.splitlines()[-1].split()[1:])


@pytest.mark.parametrize(
    "program",
    [
        "import skxlmr; skxlmr.__version__",
        "import skxlmr.cli\ntry: skxlmr.cli.main(['--version'])\nexcept SystemExit: pass",
    ],
)
def test_import_and_version_import_no_large_library(program: str):
    assert not imported(program) & {"torch", "sklearn", "pandas", "scipy"}


@pytest.mark.parametrize("load_in_8bit", [False, True])
def test_first_vector_imports_nothing_that_is_needed_later_only(load_in_8bit: bool):
    modules = imported(FIRST_VECTOR.format(load_in_8bit))
    assert "sklearn.base" in modules
    assert not modules & set(LATE)
    assert "skxlmr.estimators.tagger" not in modules


def test_names_are_those_that_type_checkers_see():
    tree = ast.parse(Path(skxlmr.__file__).read_text(encoding="utf-8"))
    seen = {
        alias.name: node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) for alias in node.names
    }
    assert set(skxlmr.__all__) < set(dir(skxlmr))
    for name in skxlmr.__all__:
        assert getattr(skxlmr, name) is getattr(importlib.import_module(seen[name]), name)
    assert skxlmr.__version__ == version("skxlmr")


def test_lazy_attributes_with_an_unknown_name_raises():
    get, _ = lazy_attributes("skxlmr", {})
    for name in ("LoRa", "_private", "__wrapped__"):
        with pytest.raises(AttributeError, match=f"module 'skxlmr' has no attribute '{name}'"):
            get(name)


def test_without_garbage_collection_resumes_it_after_errors():
    assert gc.isenabled()
    with pytest.raises(ModuleNotFoundError), without_garbage_collection():
        importlib.import_module("skxlmr.missing" if not gc.isenabled() else "skxlmr")
    assert gc.isenabled()
    assert gc.get_freeze_count() == 0


def test_without_garbage_collection_leaves_a_disabled_collector_alone():
    gc.disable()
    try:
        with without_garbage_collection():
            assert not gc.isenabled()
        assert not gc.isenabled()
    finally:
        gc.enable()


def test_forked_child_of_an_importing_thread_collects_garbage():
    with without_garbage_collection():
        imports._resume()  # what a fork calls in the child
        assert gc.isenabled()
