"""Exported adapters: PEFT computes the same logits as the estimator."""

import json

import numpy as np
import peft
import pytest
import torch
import transformers
from sklearn.exceptions import NotFittedError

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


@pytest.mark.parametrize("tuning", [LoRA(rank=3, alpha=5, targets=EVERYWHERE, dropout=0.1), LoRA(layers=1)], ids=str)
def test_export_adapter_equals_peft(tuning, tmp_path):
    clf = classifier(tuning)
    clf.export_adapter(tmp_path)
    model = load_with_peft(tmp_path)
    np.testing.assert_allclose(logits_of(model), clf._outputs(TEXTS), atol=1e-5)
    np.testing.assert_allclose(logits_of(model.merge_and_unload()), clf._outputs(TEXTS), atol=1e-5)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "nano"


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
