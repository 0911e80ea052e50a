"""What an exception keeps alive by its traceback."""

from __future__ import annotations

import gc
import traceback
import types
import weakref

import pytest
import torch

from skxlmr.system.failed_calls import releasing_local_variables
from skxlmr.system.schema import SchemaError, parse

SOURCE = """
def fails(seen):
    tensor = make()
    seen.append(weakref.ref(tensor))
    raise KeyError("inner")

def outer(seen):
    try:
        fails(seen)
    except KeyError:
        raise ValueError("outer")
"""


@pytest.mark.parametrize(
    ("module", "uses_cuda", "is_released"),
    [("skxlmr.somewhere", True, True), ("skxlmr.somewhere", False, False), ("__main__", True, False)],
)
def test_local_variables_of_the_package_are_released_if_cuda_is_used(monkeypatch, module, uses_cuda, is_released):
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: uses_cuda)
    functions = types.ModuleType(module)
    functions.__dict__.update(make=lambda: torch.ones(3), weakref=weakref)
    exec(SOURCE, functions.__dict__)
    seen: list[weakref.ref] = []
    with pytest.raises(ValueError, match="outer") as caught:
        releasing_local_variables()(functions.outer)(seen)
    assert (seen[0]() is None) == is_released
    text = "".join(traceback.format_exception(caught.value))
    assert "in fails" in text
    assert "KeyError: 'inner'" in text


def test_parse_of_a_union_keeps_nothing_of_its_callers_alive():
    def caller():
        tensor = torch.ones(3)
        parse(int | None, None)
        with pytest.raises(SchemaError):
            parse(int | list[str], [3])
        return weakref.ref(tensor)

    gc.collect()
    gc.disable()
    try:
        assert caller()() is None
    finally:
        gc.enable()
