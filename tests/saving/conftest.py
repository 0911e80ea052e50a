"""Base models of adapters."""

import pytest
from peft_adapters import FAMILIES, write_base


@pytest.fixture(scope="module")
def bases(tmp_path_factory):
    return {kind: write_base(tmp_path_factory.mktemp(kind) / "base", kind) for kind in FAMILIES}


@pytest.fixture(scope="module")
def base(bases):
    return bases["xlm-roberta-xl"]
