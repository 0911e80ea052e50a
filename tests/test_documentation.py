"""Examples in the documentation that are shown, but not run when it is built, name what is there."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
from pathlib import Path

import pytest

import skxlmr

DOCS = Path(__file__).resolve().parents[1] / "docs"
PAGES = sorted(page for folder in ("start", "guide", "reference") for page in (DOCS / folder).glob("*.md"))


def blocks() -> list[tuple[str, str]]:
    """Return the name of the page and the code of each block of Python that is not run."""
    return [
        (page.name, code)
        for page in PAGES
        for code in re.findall(r"^```python\n(.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    ]


@pytest.mark.skipif(not PAGES, reason="the documentation is not in this copy")
def test_blocks_of_python_name_functions_and_parameters_that_exist():
    calls = 0
    for page, code in blocks():
        for node in ast.walk(ast.parse(code)):
            if isinstance(node, ast.ImportFrom) and node.module.partition(".")[0] == "skxlmr":
                module = importlib.import_module(node.module)
                for alias in node.names:
                    assert hasattr(module, alias.name), f"{page}: from {node.module} import {alias.name}"
            name = getattr(node, "func", None)
            name = name.id if isinstance(name, ast.Name) else getattr(name, "attr", "")
            if isinstance(node, ast.Call) and name in skxlmr.__all__:
                parameters = inspect.signature(getattr(skxlmr, name)).parameters
                unknown = {keyword.arg for keyword in node.keywords} - parameters.keys()
                if not any(each.kind is each.VAR_KEYWORD for each in parameters.values()):
                    assert not unknown, f"{page}: {name} has no {unknown}"
                calls += 1
    assert calls > 20
