"""Exported adapters: PEFT computes the same logits as the estimator."""

import json

import numpy as np
import peft
import pytest
import torch
import transformers
from sklearn.exceptions import NotFittedError

import skxlmr
from skxlmr import LoRA, XLMRXLClassifier
from skxlmr.checkpoints.resolve import resolve
from skxlmr.runtime.backbone import get_backbone
from skxlmr.tuning import LINEAR_LAYERS

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")  # in peft

TEXTS = ["good", "bad film", "fine", "poor", "nice words here", "awful", "lovely", "dull"]
LABELS = ["yes", "no"] * 4
EVERYWHERE = tuple(LINEAR_LAYERS)


def classifier(tuning):
    settings = {"max_epochs": 2, "learning_rate": 5e-3, "pooling": "cls", "random_state": 0, "batch_size": 4}
    return XLMRXLClassifier("nano", tuning=tuning, device="cpu", **settings).fit(TEXTS, LABELS)


def logits_of(model):
    """Logits of a PEFT model on a padded batch."""
    batch = get_backbone("nano").tokenizer(TEXTS, padding=True, return_tensors="pt")
    with torch.no_grad():
        return model.eval()(**batch).logits.numpy()


def load_with_peft(directory):
    """transformers' model of the checkpoint with the exported adapter."""
    base = transformers.XLMRobertaXLForSequenceClassification.from_pretrained(
        resolve("nano").directory, num_labels=2, dtype=torch.float32
    )
    return peft.PeftModel.from_pretrained(base, directory)


TUNINGS = [
    LoRA(rank=3, alpha=5, targets=EVERYWHERE, dropout=0.1),
    LoRA(layers=1),
    LoRA(
        rank=2, rslora=True, rank_pattern={"query": 3, "layers.1.up": 5}, alpha_pattern={"layers.1..*": 2}, layers=None
    ),
    LoRA(targets="all-linear", layers=[0], bias="lora_only"),
    LoRA(targets=["layers.0.query", "down"], layers=None, bias="all"),
]


@pytest.mark.parametrize("tuning", TUNINGS, ids=str)
def test_export_adapter_equals_peft(tuning, tmp_path):
    clf = classifier(tuning)
    clf.export_adapter(tmp_path)
    model = load_with_peft(tmp_path)
    np.testing.assert_allclose(logits_of(model), clf._outputs(TEXTS), atol=1e-5)
    np.testing.assert_allclose(logits_of(model.merge_and_unload()), clf._outputs(TEXTS), atol=1e-5)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "nano"
    again = skxlmr.load(tmp_path, device="cpu")
    np.testing.assert_array_equal(again.predict(TEXTS), clf.predict(TEXTS))
    assert again.classes_.tolist() == ["no", "yes"]
    np.testing.assert_allclose(again._outputs(TEXTS), clf._outputs(TEXTS), atol=1e-5)


def test_export_adapter_writes_options_as_peft_does(tmp_path):
    tuning = LoRA(
        rank=2, rslora=True, targets=("query",), layers=[1], rank_pattern={"query": 4}, alpha_pattern={".*": 3}
    )
    classifier(tuning).export_adapter(tmp_path)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    name = "roberta.encoder.layer.1.attention.self.query"
    expected = {
        "use_rslora": True,
        "rank_pattern": {name: 4},
        "alpha_pattern": {name: 3},
        "layers_to_transform": [1],
        "target_modules": [name],
        "bias": "none",
        "r": 2,
        "lora_alpha": 16,
    }
    assert {key: config[key] for key in expected} == expected


def test_export_adapter_with_numpy_scalars_equals_peft(tmp_path):
    clf = classifier(LoRA(rank=np.int64(3), alpha=np.float32(5)))
    clf.export_adapter(tmp_path)
    np.testing.assert_allclose(logits_of(load_with_peft(tmp_path)), clf._outputs(TEXTS), atol=1e-5)


def test_export_adapter_with_unsupported_tuning_raises(tmp_path):
    with pytest.raises(ValueError, match=r"peft has no format for Bias\(\); use export_pretrained"):
        classifier("bias").export_adapter(tmp_path)
    assert not list(tmp_path.iterdir())


def test_export_adapter_of_unfitted_estimator_raises(tmp_path):
    with pytest.raises(NotFittedError):
        XLMRXLClassifier("nano").export_adapter(tmp_path)
    assert not list(tmp_path.iterdir())
