"""Base models with an adapter of peft, given as `model`: they compute what peft computes."""

import json
import shutil

import numpy as np
import peft
import pytest
import safetensors.torch
import torch
import transformers
from peft_adapters import FAMILIES, TEXTS, logits_of, make_adapter, write_base

import skxlmr
from skxlmr import XLMRXLClassifier, XLMRXLEmbedder, memory_estimate
from skxlmr.checkpoints.errors import CheckpointError
from skxlmr.checkpoints.layout import weights_names
from skxlmr.checkpoints.peft_adapter import AdapterConfig, base_name
from skxlmr.checkpoints.resolve import resolve
from skxlmr.model import XLMRobertaXLForSequenceClassification, XLMRobertaXLModel
from skxlmr.runtime.backbone import get_backbone
from skxlmr.runtime.sentence_settings import read_sentence_settings

pytestmark = [
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning"),  # in peft
    pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings=True`:UserWarning"),  # in peft
]
CLOSE = {"rtol": 1e-5, "atol": 1e-5}
FLOAT = {"device": "cpu", "dtype": "float32"}
PATTERNS = {
    "target_modules": ["query", "dense"],
    "layers_to_transform": [0, 2],
    "rank_pattern": {"query": 3},
    "alpha_pattern": {"layer.2.attention.self.query": 5},
    "use_rslora": True,
    "bias": "all",
}


@pytest.fixture(scope="module")
def bases(tmp_path_factory):
    return {kind: write_base(tmp_path_factory.mktemp(kind) / "base", kind, "Model") for kind in FAMILIES}


@pytest.fixture(scope="module")
def base(bases):
    return bases["xlm-roberta-xl"]


@pytest.fixture(scope="module")
def adapter(base, tmp_path_factory):
    """The directory of an adapter of a classifier, and peft's model with it."""
    directory = tmp_path_factory.mktemp("adapter")
    return str(directory), make_adapter(
        directory, base, "ForSequenceClassification", "SEQ_CLS", num_labels=3, **PATTERNS
    )


def states_of(model, texts=TEXTS):
    """Hidden states of the first tokens, by the encoder inside of peft's model."""
    batch = get_backbone("nano").tokenizer(list(texts), padding=True, return_tensors="pt")
    inner = model.base_model.model
    encoder = getattr(inner, inner.base_model_prefix, inner)
    with torch.no_grad():
        return encoder(**batch).last_hidden_state[:, 0].numpy()


def copy_adapter(source, directory):
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        shutil.copy(f"{source}/{name}", directory)


def embed(model, **parameters):
    return XLMRXLEmbedder(model, pooling="cls", **{**FLOAT, **parameters}).fit_transform(TEXTS)


@pytest.mark.parametrize(
    ("kind", "task"),
    [("xlm-roberta-xl", "TOKEN_CLS"), ("xlm-roberta", "FEATURE_EXTRACTION"), ("bert", "TOKEN_CLS")],
)
def test_embeddings_on_adapter_equal_peft(kind, task, bases, tmp_path):
    ending = {"FEATURE_EXTRACTION": "Model", "TOKEN_CLS": "ForTokenClassification"}[task]
    model = make_adapter(tmp_path, bases[kind], ending, task, kind, **PATTERNS)
    np.testing.assert_allclose(embed(tmp_path), states_of(model), **CLOSE)
    assert np.abs(embed(bases[kind]) - states_of(model)).max() > 0.01


def test_model_class_loads_adapter_with_its_head(adapter):
    directory, theirs = adapter
    model, info = XLMRobertaXLForSequenceClassification.from_pretrained(directory, output_loading_info=True)
    assert not info["missing_keys"]
    np.testing.assert_allclose(logits_of(model), logits_of(theirs), **CLOSE)


def test_adapter_on_half_precision_base_is_merged_in_float32(base, tmp_path):
    transformers.XLMRobertaXLModel.from_pretrained(base, dtype=torch.float16).save_pretrained(tmp_path / "half")
    get_backbone("nano").tokenizer.save_pretrained(tmp_path / "half")
    model = make_adapter(tmp_path / "a", str(tmp_path / "half"), "Model", "FEATURE_EXTRACTION", **PATTERNS).float()
    np.testing.assert_allclose(embed(tmp_path / "a"), states_of(model), **CLOSE)


def test_trained_word_embeddings_equal_peft(base, tmp_path):
    model = make_adapter(
        tmp_path, base, "Model", "FEATURE_EXTRACTION", target_modules=["query"], modules_to_save=["word_embeddings"]
    )
    words = model.base_model.model.embeddings.word_embeddings.modules_to_save["default"].weight
    with torch.no_grad():
        words.add_(torch.randn(words.shape, generator=torch.manual_seed(0)) / 10)
    model.save_pretrained(tmp_path)
    np.testing.assert_allclose(embed(tmp_path), states_of(model), **CLOSE)


def test_8bit_weights_of_adapter_are_those_of_merged_model(adapter, base, tmp_path, monkeypatch):
    monkeypatch.setenv("SKXLMR_CACHE", str(tmp_path / "cache"))
    plain = transformers.XLMRobertaXLForSequenceClassification.from_pretrained(base, num_labels=3)
    merged = peft.PeftModel.from_pretrained(plain, adapter[0]).merge_and_unload()
    merged.save_pretrained(tmp_path / "merged")
    get_backbone("nano").tokenizer.save_pretrained(tmp_path / "merged")
    expected = embed(tmp_path / "merged", load_in_8bit=True)
    np.testing.assert_allclose(embed(adapter[0], load_in_8bit=True), expected, atol=2e-3)
    np.testing.assert_allclose(embed(adapter[0], load_in_8bit=True), expected, atol=2e-3)  # from the cache
    assert np.abs(embed(base, load_in_8bit=True) - expected).max() > 0.01


def test_8bit_checkpoint_runs_adapter_beside_it_only(base, tmp_path):
    make_adapter(
        tmp_path / "a", base, "ForSequenceClassification", "SEQ_CLS", target_modules=["query"], bias="lora_only"
    )
    (tmp_path / "a" / "labels.json").write_text('{"problem_type": "single_label_classification"}')
    expected = skxlmr.load(tmp_path / "a", **FLOAT)._outputs(TEXTS)
    XLMRobertaXLModel.from_pretrained(base, load_in_8bit=True, add_pooling_layer=False).save_pretrained(
        tmp_path / "int8"
    )
    get_backbone("nano").tokenizer.save_pretrained(tmp_path / "int8")
    config = json.loads((tmp_path / "a" / "adapter_config.json").read_text())
    config["base_model_name_or_path"] = str(tmp_path / "int8")
    (tmp_path / "a" / "adapter_config.json").write_text(json.dumps(config))
    np.testing.assert_allclose(skxlmr.load(tmp_path / "a", **FLOAT)._outputs(TEXTS), expected, atol=0.05)
    with pytest.raises(
        CheckpointError, match=r"holds 8-bit weights, into which no adapter can be merged\. skxlmr\.load"
    ):
        embed(tmp_path / "a")


def test_classifier_trained_on_adapter_needs_that_adapter(base, tmp_path):
    directory = tmp_path / "a"
    make_adapter(directory, base, "Model", "FEATURE_EXTRACTION", **PATTERNS)
    settings = {"tuning": "lora", "max_epochs": 2, "random_state": 0, "pooling": "cls", **FLOAT}
    clf = XLMRXLClassifier(directory, **settings).fit(TEXTS, ["x", "y"] * 2)
    expected = clf._outputs(TEXTS)
    clf.save(tmp_path / "saved")
    np.testing.assert_array_equal(skxlmr.load(tmp_path / "saved")._outputs(TEXTS), expected)
    clf.export_pretrained(tmp_path / "merged")
    np.testing.assert_allclose(skxlmr.load(tmp_path / "merged", **FLOAT)._outputs(TEXTS), expected, **CLOSE)
    with pytest.raises(ValueError, match="is itself an adapter of peft, which cannot be the base of another"):
        clf.export_adapter(tmp_path / "exported")
    with pytest.raises(ValueError, match="holds the checkpoint that this estimator was fitted on"):
        clf.export_pretrained(directory)
    path = directory / "adapter_model.safetensors"
    tensors = safetensors.torch.load(path.read_bytes())
    next(tensor for name, tensor in tensors.items() if "lora_B" in name).mul_(2)
    safetensors.torch.save_file(tensors, path)
    with pytest.raises(ValueError, match="was fitted on another checkpoint"):
        skxlmr.load(tmp_path / "saved").predict(TEXTS)


def test_fingerprint_depends_on_base_tensors_and_scale(adapter, base, tmp_path):
    files = resolve(adapter[0])
    assert files.base.fingerprint == resolve(base).fingerprint != files.fingerprint
    copy_adapter(adapter[0], tmp_path)
    assert resolve(tmp_path).fingerprint == files.fingerprint
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    (tmp_path / "adapter_config.json").write_text(json.dumps({**config, "lora_dropout": 0.5}))
    assert resolve(tmp_path).fingerprint == files.fingerprint
    (tmp_path / "adapter_config.json").write_text(json.dumps({**config, "lora_alpha": 9}))
    assert resolve(tmp_path).fingerprint != files.fingerprint


def test_adapter_of_another_base_names_the_tensor(adapter, bases, tmp_path):
    copy_adapter(adapter[0], tmp_path)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    config["base_model_name_or_path"] = "nano"
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    with pytest.raises(
        CheckpointError, match=r"the tensor 'base_model.model.roberta.*, 'nano'. If that is the right base"
    ):
        embed(tmp_path)


def test_memory_and_settings_are_those_of_base(adapter, base, tmp_path):
    assert memory_estimate(adapter[0], device="cpu").weights == memory_estimate(base, device="cpu").weights
    assert read_sentence_settings(adapter[0]) == read_sentence_settings(base)
    make_adapter(tmp_path, base, "Model", "FEATURE_EXTRACTION", target_modules=["query"])
    modules = [{"type": "sentence_transformers.models.Transformer", "path": ""}]
    modules.append({"type": "sentence_transformers.models.Pooling", "path": "1_Pooling"})
    (tmp_path / "modules.json").write_text(json.dumps(modules))
    (tmp_path / "1_Pooling").mkdir()
    (tmp_path / "1_Pooling" / "config.json").write_text(json.dumps({"pooling_mode_cls_token": True}))
    assert read_sentence_settings(tmp_path).pooling == "cls"
    embedder = skxlmr.load(tmp_path, **FLOAT)
    np.testing.assert_allclose(embedder.transform(TEXTS), embed(tmp_path), **CLOSE)


def test_base_name_has_the_revision_of_a_hub_model():
    assert base_name(AdapterConfig(base_model_name_or_path="a/b", revision="main")) == "a/b@main"
    assert base_name(AdapterConfig(base_model_name_or_path="nano", revision="main")) == "nano"
    assert base_name(AdapterConfig()) == ""


def test_variant_of_an_adapter_is_that_of_its_base(adapter, base, tmp_path):
    moved = tmp_path / "moved"
    shutil.copytree(base, moved)
    (moved / "model.safetensors").rename(moved / "model.fp32.safetensors")
    copied = shutil.copytree(adapter[0], tmp_path / "copy")
    path = copied / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"base_model_name_or_path": str(moved)}))
    files = resolve(copied, weights_names=weights_names("fp32"))
    assert files.weights == (moved / "model.fp32.safetensors",)
    assert files.fingerprint == resolve(adapter[0]).fingerprint
    with pytest.raises(CheckpointError, match="weights for variant='fp32'"):
        resolve(copied)
