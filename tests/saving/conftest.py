"""Base models of adapters; peft is imported where they are used, since releases that lack it run other tests here."""

import pytest


@pytest.fixture(scope="module")
def bases(tmp_path_factory):
    from peft_adapters import FAMILIES, write_base

    return {kind: write_base(tmp_path_factory.mktemp(kind) / "base", kind) for kind in FAMILIES}


@pytest.fixture(scope="module")
def base(bases):
    return bases["xlm-roberta-xl"]
