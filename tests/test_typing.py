"""A type checker sees the public signatures."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from mypy import api

import skxlmr

REPOSITORY = Path(__file__).resolve().parents[1]
CONFIG = """
[mypy]
follow_imports = silent
[mypy-sklearn.*]
follow_untyped_imports = True
[mypy-torch.*]
follow_imports = skip
[mypy-pandas.*]
ignore_missing_imports = True
"""
PROGRAM = """
import pandas as pd
from skxlmr import Full, LoRA, XLMRXLClassifier, XLMRXLEmbedder, XLMRXLGenerator, XLMRXLTagger, load, memory_estimate

clf = XLMRXLClassifier("nano", tuning=LoRA(rank=4, layers=2), max_epochs=3, learning_rate=1e-4)
clf.fit(pd.Series(["good", "bad"]), ["yes", "no"]).predict_proba(["fine"]).max(axis=1)
XLMRXLClassifier(model="nano", tuning=Full(layers=1), early_stopping=True, random_state=0).set_params(max_epochs=1)
XLMRXLEmbedder(model="nano", pooling="max").fit_transform(["good", "bad"]).shape
XLMRXLTagger(model="nano").fit([["Ada"]], [["B-PER"]]).save("folder")
load("folder")
memory_estimate("nano", load_in_8bit=True).total + 1

XLMRXLClassifier(max_epochs="3")  # wrong: "max_epochs"
XLMRXLClassifier(max_epoch=3)  # wrong: "max_epoch"
LoRA(r=8)  # wrong: "r"
clf.predict_probability(["fine"])  # wrong: "predict_probability"
XLMRXLEmbedder("nano").transform(["good"]).embeddings  # wrong: "embeddings"
XLMRXLGenerator("nano").generate(["Once"], max_new_tokens="all")  # wrong: "max_new_tokens"
memory_estimate("nano", quantized=True)  # wrong: "quantized"
"""


@pytest.fixture(scope="module")
def messages(tmp_path_factory: pytest.TempPathFactory) -> dict[int, str]:
    """What mypy says about PROGRAM, by line."""
    folder = tmp_path_factory.mktemp("typing")
    (folder / "mypy.ini").write_text(CONFIG)
    (folder / "program.py").write_text(PROGRAM)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MYPYPATH", str(REPOSITORY))
        arguments = ["--config-file", folder / "mypy.ini", "--cache-dir", folder / "cache", folder / "program.py"]
        found, errors, _ = api.run(list(map(str, arguments)))
    assert not errors
    return {int(line): text for line, text in re.findall(r"program\.py:(\d+): error: (.*)", found)}


def test_mypy_with_wrong_arguments_names_them(messages):
    expected = {
        number: re.search("# wrong: (.*)", line)[1]
        for number, line in enumerate(PROGRAM.splitlines(), start=1)
        if "# wrong: " in line
    }
    for number, name in expected.items():
        assert name in messages.get(number, ""), PROGRAM.splitlines()[number - 1]


def test_mypy_with_a_correct_program_says_nothing(messages):
    assert {
        number: text for number, text in messages.items() if "# wrong" not in PROGRAM.splitlines()[number - 1]
    } == {}


def test_py_typed_is_installed_with_the_package():
    settings = (REPOSITORY / "pyproject.toml").read_text(encoding="utf-8")
    assert re.search(r'package-data\]\nskxlmr = \[.*"py\.typed"', settings)
    assert (Path(skxlmr.__file__).parent / "py.typed").is_file()
