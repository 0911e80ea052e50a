import logging
import sys

import pytest
import torch

from skxlmr.system.bitsandbytes import bitsandbytes_ops


@pytest.fixture
def _first_call():
    bitsandbytes_ops.cache_clear()
    yield
    bitsandbytes_ops.cache_clear()


@pytest.mark.usefixtures("_first_call")
def test_bitsandbytes_ops_without_package_says_how_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(ImportError, match=r"run `pip install bitsandbytes`.*On a CPU, load_in_8bit=True"):
        bitsandbytes_ops()


@pytest.mark.usefixtures("_first_call")
def test_bitsandbytes_ops_restores_log_level():
    pytest.importorskip("bitsandbytes")
    logger = logging.getLogger("bitsandbytes.backends.cpu.ops")
    level = logger.level
    assert bitsandbytes_ops() is torch.ops.bitsandbytes
    assert logger.level == level
