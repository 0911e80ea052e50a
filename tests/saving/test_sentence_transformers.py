"""Exported heads on pooled vectors: sentence-transformers computes the same logits as the estimator."""

import numpy as np
import pytest
from sentence_transformers import SentenceTransformer

from skxlmr import Bias, Full, LoRA, XLMRXLClassifier, XLMRXLEmbedder, XLMRXLRegressor

TEXTS = ["good", "bad film", "fine", "poor", "nice words here", "awful", "lovely", "dull"]
LABELS = ["yes", "no"] * 4
SETTINGS = {"max_epochs": 2, "random_state": 0, "device": "cpu", "dtype": "float32"}


@pytest.mark.parametrize("tuning", [LoRA(rank=3), Bias(), "head", Full(layers=1)], ids=str)
def test_export_with_each_tuning_equals_sentence_transformers(tuning, tmp_path):
    clf = XLMRXLClassifier("nano", tuning=tuning, **SETTINGS).fit(TEXTS, LABELS)
    clf.export_pretrained(tmp_path)
    model = SentenceTransformer(str(tmp_path), device="cpu")
    np.testing.assert_allclose(model.encode(TEXTS), clf._outputs(TEXTS), atol=1e-5)
    assert model[0].auto_model.config.id2label == {0: "no", 1: "yes"}


@pytest.mark.parametrize("pooling", ["mean", "max"])
def test_export_with_prompt_and_pooling_equals_sentence_transformers(pooling, tmp_path):
    reg = XLMRXLRegressor("nano", pooling=pooling, prompt="rate: ", **SETTINGS).fit(TEXTS, np.arange(8.0))
    reg.export_pretrained(tmp_path)
    outputs = SentenceTransformer(str(tmp_path), device="cpu").encode(TEXTS)
    np.testing.assert_allclose(outputs, reg._outputs(TEXTS), atol=1e-5)


def test_export_of_sentence_embedding_model_keeps_normalisation(tmp_path):
    directory = tmp_path / "sentences"
    XLMRXLClassifier("nano", **SETTINGS).fit(TEXTS, LABELS).export_pretrained(directory)
    modules = (directory / "modules.json").read_text().replace("sentence_transformers.models.Dense", "Normalize")
    (directory / "modules.json").write_text(modules.replace("2_Dense", "2_Normalize"))
    assert XLMRXLEmbedder(directory).fit(TEXTS).normalize_
    clf = XLMRXLClassifier(directory, **SETTINGS).fit(TEXTS, LABELS)
    clf.export_pretrained(tmp_path / "out")
    outputs = SentenceTransformer(str(tmp_path / "out"), device="cpu").encode(TEXTS)
    np.testing.assert_allclose(outputs, clf._outputs(TEXTS), atol=1e-5)


def test_export_of_separate_pairs_names_the_parameter_that_allows_it(tmp_path):
    reg = XLMRXLRegressor("nano", pairs="separate", **SETTINGS)
    reg.fit([[text, "good"] for text in TEXTS], np.arange(8.0))
    with pytest.raises(NotImplementedError, match="pairs='joint'"):
        reg.export_pretrained(tmp_path)
    with pytest.raises(NotImplementedError, match="pairs='joint'"):
        reg.export_adapter(tmp_path)
    assert not list(tmp_path.iterdir())


def test_export_adapter_of_pooled_head_names_the_parameter_that_allows_it(tmp_path):
    clf = XLMRXLClassifier("nano", **SETTINGS).fit(TEXTS, LABELS)
    with pytest.raises(NotImplementedError, match="pooling='cls'"):
        clf.export_adapter(tmp_path)
