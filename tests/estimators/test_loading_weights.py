"""Weights that `skxlmr.load` reads: in 8 and 16 bits, in shards, and with other names of the tensors."""

import shutil

import numpy as np
import pytest
import torch
from loaded_checkpoints import NLI, PAIRS, TEXTS, copy_of, logits_of

import skxlmr
from skxlmr.checkpoints.errors import CheckpointError


def test_load_in_8bit_quantises_the_base_only(make):
    directory, _ = make("XLMRobertaXLForSequenceClassification", id2label=NLI)
    exact = skxlmr.load(directory)
    clf = skxlmr.load(directory, load_in_8bit=True, device="cpu")
    assert clf.get_params()["load_in_8bit"] is True
    difference = np.abs(clf.decision_function(PAIRS) - exact.decision_function(PAIRS)).max()
    assert 0 < difference < 0.2
    for name, value in exact._finetuned.state_dict().items():
        assert torch.equal(value, clf._finetuned.state_dict()[name])


def test_load_of_half_precision_and_shards(make, oracle, tmp_path):
    directory, model = make("XLMRobertaForSequenceClassification", id2label=NLI)
    half = type(model).from_pretrained(directory).to(torch.float16)
    half.save_pretrained(tmp_path / "half", max_shard_size="10KB")
    assert len(list((tmp_path / "half").glob("model-*.safetensors"))) > 1
    shutil.copy(directory / "sentencepiece.bpe.model", tmp_path / "half")
    clf = skxlmr.load(tmp_path / "half")
    expected = logits_of(half.float(), oracle, TEXTS).logits.numpy()[:, [2, 1, 0]]
    np.testing.assert_allclose(clf.decision_function(TEXTS), expected, atol=1e-5)
    assert next(clf._finetuned.parameters()).dtype == torch.float32


def renamed(directory, target, rename):
    """Copy a checkpoint with other keys of its tensors."""
    from safetensors.torch import load_file, save_file

    copy_of(directory, target)
    save_file(
        {rename(key): value for key, value in load_file(target / "model.safetensors").items()},
        target / "model.safetensors",
    )
    return target


def test_load_of_old_names_of_layer_norms_equals_transformers(make, oracle, tmp_path):
    directory, model = make("BertForSequenceClassification", id2label=NLI)
    old = {"LayerNorm.weight": "LayerNorm.gamma", "LayerNorm.bias": "LayerNorm.beta"}
    path = renamed(
        directory,
        tmp_path / "old",
        lambda key: key.replace("LayerNorm.weight", old["LayerNorm.weight"]).replace(
            "LayerNorm.bias", old["LayerNorm.bias"]
        ),
    )
    theirs = type(model).from_pretrained(path).eval()
    expected = logits_of(theirs, oracle, TEXTS).logits.numpy()
    np.testing.assert_allclose(expected, logits_of(model, oracle, TEXTS).logits.numpy())
    np.testing.assert_allclose(skxlmr.load(path).decision_function(TEXTS), expected[:, [2, 1, 0]], atol=1e-5)


def test_load_of_keys_with_a_prefix_names_them(make, tmp_path):
    directory, _ = make("XLMRobertaForSequenceClassification", id2label=NLI)
    path = renamed(directory, tmp_path / "wrapped", lambda key: f"module.{key}")
    with pytest.raises(
        CheckpointError, match=r"have other names, such as 'module\.classifier\.dense\.bias'\. Rename them"
    ):
        skxlmr.load(path)


@pytest.mark.parametrize("end", ["qweight", "weight.absmax", "weight_packed", "weight_scale_inv", "W_q"])
def test_load_of_packed_weights_names_the_tensor(end, make, tmp_path):
    directory, _ = make("XLMRobertaForSequenceClassification", id2label=NLI)
    layer = "roberta.encoder.layer.0.attention.self.query."
    path = renamed(directory, tmp_path / "packed", lambda key: layer + end if key == f"{layer}weight" else key)
    with pytest.raises(CheckpointError, match=rf"query\.{end}' is of weights that .* has packed.*load_in_8bit=True"):
        skxlmr.load(path)
