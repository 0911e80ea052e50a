"""Fitted estimators that are saved and exported over earlier ones while the user interrupts, or the disk is full."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import skxlmr
from skxlmr import XLMRXLClassifier
from skxlmr.checkpoints.errors import CheckpointError

file_faults = pytest.importorskip("file_faults", reason="needs flock, which Windows lacks", exc_type=ImportError)

TEXTS = ["good", "bad", "fine", "poor", "nice", "awful", "lovely", "dull"]
LABELS = ["yes", "no"] * 4
N_MOMENTS = 5


def fitted(labels: list[str]) -> XLMRXLClassifier:
    return XLMRXLClassifier("nano", pooling="cls", max_epochs=1, random_state=0).fit(TEXTS, labels)


@pytest.fixture(scope="module")
def earlier() -> XLMRXLClassifier:
    return fitted(LABELS)


@pytest.fixture(scope="module")
def later() -> XLMRXLClassifier:
    return fitted(["right", "wrong"] * 4)  # other labels, so that the model card differs, too


def contents(directory: Path) -> dict[str, bytes]:
    return {
        path.relative_to(directory).as_posix(): path.read_bytes() for path in directory.rglob("*") if path.is_file()
    }


def moments(write: Callable[[Path], None], directory: Path) -> range:
    """Numbers of some of the file operations of a write."""
    with file_faults.counted() as counter:
        write(directory)
    return range(2, len(counter.names) + 1, max(1, len(counter.names) // N_MOMENTS))


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the files are moved to their places one by one")
@pytest.mark.parametrize("fault", ["SIGINT after", "ENOSPC"])
@pytest.mark.parametrize("method", ["export_pretrained", "export_adapter"])
def test_interrupted_export_leaves_old_or_new_files(earlier, later, method, fault, tmp_path):
    getattr(earlier, method)(tmp_path / "old")
    numbers = moments(getattr(later, method), tmp_path / "new")
    old, new = contents(tmp_path / "old"), contents(tmp_path / "new")
    for at in numbers:
        directory = tmp_path / str(at)
        shutil.copytree(tmp_path / "old", directory)
        try:
            with file_faults.counted(file_faults.FAULTS[fault], at):
                getattr(later, method)(directory)
        except (KeyboardInterrupt, OSError, CheckpointError):  # the last if the base model cannot be read
            pass
        assert contents(directory) in (old, new)
        getattr(later, method)(directory)
        assert contents(directory) == new
    assert not [path.name for path in tmp_path.iterdir() if path.name.startswith(".")]


@pytest.mark.parametrize("fault", ["SIGINT after", "ENOSPC"])
def test_interrupted_save_leaves_old_or_new_estimator(earlier, later, fault, tmp_path):
    old, new = earlier.predict_proba(TEXTS), later.predict_proba(TEXTS)
    numbers = moments(later.save, tmp_path / "new")
    card_of_new = (tmp_path / "new" / "README.md").read_bytes()
    for at in numbers:
        earlier.save(tmp_path / "saved")
        try:
            with file_faults.counted(file_faults.FAULTS[fault], at):
                later.save(tmp_path / "saved")
        except (KeyboardInterrupt, OSError):
            pass
        found = skxlmr.load(tmp_path / "saved").predict_proba(TEXTS)
        is_new = np.array_equal(found, new)
        assert is_new or np.array_equal(found, old)
        card = tmp_path / "saved" / "README.md"
        assert not card.exists() or (card.read_bytes() == card_of_new) == is_new
        later.save(tmp_path / "saved")
        assert len(list((tmp_path / "saved").iterdir())) == 3
        assert card.read_bytes() == card_of_new
