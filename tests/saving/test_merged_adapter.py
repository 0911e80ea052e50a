"""Adapters of peft that no LoRA makes: the base model of the estimator is merged with them."""

import pickle

import numpy as np
import pytest
import torch
from peft_adapters import CLOSE, SEQUENCES, TEXTS, WARNINGS_OF_PEFT, edit, load, logits_of, make_adapter

import skxlmr
from skxlmr import Head
from skxlmr.checkpoints.errors import CheckpointError
from skxlmr.runtime.backbone import get_backbone

pytestmark = WARNINGS_OF_PEFT

# Adapters that no LoRA makes.
MERGED = {
    "DoRA": {"target_modules": ["query", "value"], "use_dora": True},
    "DoRA everywhere": {"target_modules": "all-linear", "use_dora": True, "use_rslora": True, "bias": "all"},
    "DoRA with patterns": {"target_modules": ["key"], "use_dora": True, "rank_pattern": {"layer.1.*": 3}},
    "LayerNorms": {"target_modules": ["query"], "modules_to_save": ["classifier", "LayerNorm"]},
    "embeddings": {"target_modules": ["query"], "modules_to_save": ["classifier", "word_embeddings"]},
}


@pytest.mark.parametrize(
    ("name", "kind"), [*((name, "xlm-roberta-xl") for name in MERGED), ("DoRA everywhere", "xlm-roberta")]
)
def test_load_of_adapter_that_no_lora_makes_is_merged_and_equals_peft(name, kind, bases, tmp_path):
    model = make_adapter(tmp_path, bases[kind], *SEQUENCES, kind, **{"num_labels": 3, **MERGED[name]})
    clf = load(tmp_path)
    np.testing.assert_allclose(clf._outputs(TEXTS), logits_of(model), **CLOSE)
    assert clf.model == tmp_path
    assert isinstance(clf._finetuned.tuning, Head)
    unchanged = skxlmr.XLMRXLEmbedder(bases[kind], device="cpu", dtype="float32").fit(TEXTS)
    assert unchanged._fitted_backbone().key[0] != clf._base.fingerprint


def test_estimator_on_dora_equals_peft(base, tmp_path):
    model = make_adapter(tmp_path, base, "Model", "FEATURE_EXTRACTION", target_modules="all-linear", use_dora=True)
    with torch.no_grad():
        states = model(**get_backbone("nano").tokenizer(TEXTS[:1], return_tensors="pt")).last_hidden_state
    embedder = skxlmr.XLMRXLEmbedder(tmp_path, pooling="mean", device="cpu", dtype="float32")
    np.testing.assert_allclose(embedder.fit_transform(TEXTS[:1]), states.mean(1), **CLOSE)
    np.testing.assert_allclose(load(tmp_path).transform(TEXTS[:1]), states.mean(1), **CLOSE)


def test_loaded_dora_can_be_saved_exported_and_trained_on(base, tmp_path):
    model = make_adapter(tmp_path / "a", base, *SEQUENCES, **MERGED["DoRA"])
    clf, expected = load(tmp_path / "a"), logits_of(model)
    clf.save(tmp_path / "saved")
    clf.export_pretrained(tmp_path / "whole")
    for again in (skxlmr.load(tmp_path / "saved"), pickle.loads(pickle.dumps(clf)), load(tmp_path / "whole")):
        np.testing.assert_allclose(again._outputs(TEXTS), expected, **CLOSE)
    with pytest.raises(ValueError, match="use export_pretrained"):
        clf.export_adapter(tmp_path / "exported")
    with pytest.raises(ValueError, match=r"is merged into its base model, .* Set base_model_name_or_path"):
        load(tmp_path / "a", model=base)
    clf.set_params(warm_start=True, max_epochs=20, learning_rate=1e-2, random_state=0)
    clf.fit(TEXTS, clf.classes_[[0, 1, 0, 1]])
    assert clf.loss_curve_[-1] < clf.loss_curve_[0]


def test_dora_on_8bit_weights_names_the_base(base, tmp_path):
    make_adapter(tmp_path / "a", base, *SEQUENCES, **MERGED["DoRA"])
    eight = skxlmr.model.XLMRobertaXLModel.from_pretrained(base, add_pooling_layer=False, load_in_8bit=True)
    eight.save_pretrained(tmp_path / "eight")
    get_backbone("nano").tokenizer.save_pretrained(tmp_path / "eight")
    edit(tmp_path / "a", base_model_name_or_path=str(tmp_path / "eight"))
    with pytest.raises(
        CheckpointError, match=r"no adapter can be merged\. Name the model in floating point as its base"
    ):
        load(tmp_path / "a").predict(TEXTS)
