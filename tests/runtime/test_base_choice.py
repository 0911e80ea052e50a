"""The base model of an estimator: which one its parameters choose, and which one it was fitted on."""

import copy
import pickle
import shutil

import numpy as np
import pytest
import torch

from skxlmr.checkpoints.errors import ModelNotFoundError
from skxlmr.checkpoints.resolve import resolve
from skxlmr.columns import check_text_column
from skxlmr.model import XLMRobertaXLModel
from skxlmr.runtime.backbone import get_backbone, release_models
from skxlmr.runtime.base_choice import BaseChoice, FittedBase, load_base, load_trimmed

TEXTS = ["good morning", "bad evening", "fine"]


@pytest.fixture
def loads(monkeypatch):
    """The calls of `get_backbone`."""
    calls = []
    monkeypatch.setattr(
        "skxlmr.runtime.base_choice.get_backbone", lambda *a, **k: calls.append((a, k)) or get_backbone(*a, **k)
    )
    return calls


def test_load_base_passes_parameters_to_pool(loads):
    backbone = load_base(BaseChoice("nano", dtype="bfloat16", load_in_8bit=False, device="cpu", batch_tokens=7))
    assert backbone is get_backbone("nano", dtype="bfloat16", load_in_8bit=False, device="cpu")
    ((args, settings),) = loads
    assert args == ("nano",)
    assert settings == {
        "load_in_8bit": False, "load_in_4bit": False, "dtype": "bfloat16", "device": "cpu",
        "tuning": None, "batch_tokens": 7, "whole": True, "processes": None,
            "language_model": None, "trains": True, "weights": True,
    }  # fmt: skip


@pytest.mark.parametrize("at_once", [1, 10_000])
def test_load_trimmed_keeps_pieces_of_column(at_once, monkeypatch):
    monkeypatch.setattr("skxlmr.runtime.base_choice.TEXTS_AT_ONCE", at_once)
    choice = BaseChoice("nano", device="cpu")
    whole, trimmed = load_base(choice), load_trimmed(choice, check_text_column(TEXTS))
    needed = np.unique(np.concatenate(whole.tokenizer.encode_batch(TEXTS)))
    assert np.isin(needed, trimmed.pieces).all()
    assert len(trimmed.pieces) < whole.tokenizer.vocab_size
    restored = [trimmed.pieces[ids] for ids in trimmed.tokenizer.encode_batch(TEXTS)]
    for ids, expected in zip(restored, whole.tokenizer.encode_batch(TEXTS), strict=True):
        np.testing.assert_array_equal(ids, expected)


def test_fitted_base_of_loaded_model_does_not_load_again(loads):
    choice = BaseChoice("nano", device="cpu")
    backbone = get_backbone("nano", device="cpu")
    base = FittedBase.of(backbone, choice)
    assert base.load(choice) is backbone
    assert base.load(BaseChoice("nano", device="cpu", batch_tokens=9, random_state=1)) is backbone
    assert not loads


@pytest.mark.parametrize("change", [{"dtype": "bfloat16"}, {"load_in_8bit": True}], ids=str)
def test_fitted_base_with_other_parameters_loads_again(change, loads):
    base = FittedBase.of(get_backbone("nano", device="cpu"), BaseChoice("nano", device="cpu"))
    changed = BaseChoice("nano", device="cpu", **change)
    assert base.load(changed) is get_backbone("nano", device="cpu", **change)
    assert base.load(changed) is base.load(changed)
    assert len(loads) == 1


@pytest.mark.parametrize("duplicate", [lambda base: pickle.loads(pickle.dumps(base)), copy.deepcopy, copy.copy])
def test_fitted_base_copies_without_weights_and_loads_again(duplicate, loads):
    choice = BaseChoice("nano", device="cpu")
    backbone = get_backbone("nano", device="cpu")
    base = FittedBase.of(backbone, choice)
    assert len(pickle.dumps(base)) < 1000
    again = duplicate(base)
    assert (again.fingerprint, again.pieces) == (backbone.fingerprint, None)
    assert not loads
    assert again.load(choice) is backbone
    assert len(loads) == 1


def test_fitted_base_of_trimmed_model_restores_its_pieces():
    choice = BaseChoice("nano", device="cpu")
    trimmed = load_trimmed(choice, check_text_column(TEXTS))
    dump, pieces = pickle.dumps(FittedBase.of(trimmed, choice)), trimmed.pieces
    words = trimmed.model.embeddings.word.weight.clone()
    del trimmed
    release_models()
    backbone = pickle.loads(dump).load(choice)
    np.testing.assert_array_equal(backbone.pieces, pieces)
    assert torch.equal(backbone.model.embeddings.word.weight, words)


def test_fitted_base_with_moved_checkpoint_loads_it(tmp_path):
    first = shutil.copytree(resolve("nano").directory, tmp_path / "first")
    base = FittedBase(get_backbone(first, device="cpu", dtype="float16").fingerprint)
    moved = first.rename(tmp_path / "moved")
    assert base.load(BaseChoice(moved, device="cpu", dtype="float16")).files.directory.exists()
    with pytest.raises(ModelNotFoundError):
        base.load(BaseChoice(first, device="cpu"))


def test_fitted_base_with_other_checkpoint_raises_and_keeps_loaded_model(tmp_path):
    choice = BaseChoice("nano", device="cpu")
    backbone = get_backbone("nano", device="cpu")
    model = XLMRobertaXLModel.from_pretrained("nano", add_pooling_layer=False)
    model.norm.weight.data.mul_(2)
    model.save_pretrained(tmp_path)
    backbone.tokenizer.save_pretrained(tmp_path)
    base = FittedBase.of(backbone, choice)
    with pytest.raises(ValueError, match=f"This BaseChoice was fitted on another checkpoint than model='{tmp_path}'"):
        base.load(BaseChoice(tmp_path, device="cpu"))
    assert base.load(choice) is backbone
    base.check(backbone.fingerprint, choice)
    with pytest.raises(ValueError, match="fit again"):
        base.check("0" * 64, choice)
