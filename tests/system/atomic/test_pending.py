from __future__ import annotations

import os
from pathlib import Path

import pytest

from skxlmr.system import atomic
from skxlmr.system.atomic.pending import OBSOLETE, PENDING, recover


def make_pending(directory: Path, **contents: str) -> Path:
    folder = directory / PENDING
    folder.mkdir()
    for name, content in contents.items():
        (folder / name).write_text(content)
    return folder


def test_recover_moves_files_and_removes_obsolete_ones(tmp_path: Path):
    (tmp_path / "config").write_text("old")
    (tmp_path / "shard").write_text("old")
    folder = make_pending(tmp_path, config="new")
    (folder / "sub").mkdir()
    (folder / "sub" / "x").write_text("new")
    (folder / OBSOLETE).write_text("shard\nmissing\n../outside\n")
    assert atomic.is_pending(tmp_path)
    recover(tmp_path)
    assert not atomic.is_pending(tmp_path)
    assert (tmp_path / "config").read_text() == "new"
    assert (tmp_path / "sub" / "x").read_text() == "new"
    assert sorted(os.listdir(tmp_path)) == ["config", "sub"]


def test_recover_without_pending_files_does_nothing(tmp_path: Path):
    recover(tmp_path)
    recover(tmp_path / "missing")
    assert os.listdir(tmp_path) == []


def test_recover_does_not_remove_files_outside(tmp_path: Path):
    (tmp_path / "model").mkdir()
    (tmp_path / "outside").write_text("mine")
    (make_pending(tmp_path / "model") / OBSOLETE).write_text(f"../outside\n{tmp_path / 'outside'}\n..\n")
    recover(tmp_path / "model")
    assert (tmp_path / "outside").read_text() == "mine"


def test_recover_does_not_follow_links(tmp_path: Path):
    """A folder from elsewhere must not write to another one."""
    for name in ("model", "target"):
        (tmp_path / name).mkdir()
    (tmp_path / "model" / "sub").symlink_to(tmp_path / "target")
    folder = make_pending(tmp_path / "model")
    (folder / "sub").mkdir()
    (folder / "sub" / "x").write_text("evil")
    with pytest.raises(OSError, match="is a link"):
        recover(tmp_path / "model")
    assert os.listdir(tmp_path / "target") == []


def test_recover_of_link_raises(tmp_path: Path):
    for name in ("model", "target"):
        (tmp_path / name).mkdir()
    (tmp_path / "target" / "x").write_text("mine")
    (tmp_path / "model" / PENDING).symlink_to(tmp_path / "target")
    with pytest.raises(OSError, match="is a link"):
        recover(tmp_path / "model")
    assert (tmp_path / "target" / "x").exists()
