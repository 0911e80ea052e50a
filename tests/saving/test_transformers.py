"""Exported models: transformers computes the same logits as the estimator."""

import json

import numpy as np
import pytest
import torch
import transformers
from scipy.special import softmax
from sentence_transformers import CrossEncoder, SentenceTransformer
from sklearn.exceptions import NotFittedError

import skxlmr
from skxlmr import (
    Bias,
    Float8,
    Full,
    Int8,
    LoRA,
    XLMRXLClassifier,
    XLMRXLEmbedder,
    XLMRXLGenerator,
    XLMRXLMaskedLM,
    XLMRXLRegressor,
)
from skxlmr.checkpoints.resolve import resolve
from skxlmr.model import XLMRobertaXLForSequenceClassification, XLMRobertaXLModel, XLMRobertaXLTokenizer
from skxlmr.runtime.backbone import get_backbone
from skxlmr.tuning import LINEAR_LAYERS

TEXTS = ["good", "bad film", "fine", "poor", "nice words here", "awful", "lovely", "dull"]
LABELS = ["yes", "no"] * 4
EVERYWHERE = tuple(LINEAR_LAYERS)


def classifier(tuning="lora", **parameters):
    settings = {"max_epochs": 2, "learning_rate": 5e-3, "pooling": "cls", "random_state": 0, "batch_size": 4}
    return XLMRXLClassifier("nano", tuning=tuning, device="cpu", **(settings | parameters)).fit(TEXTS, LABELS)


def logits_of(model):
    """Logits of a model of transformers on a padded batch."""
    tokenizer = get_backbone("nano").tokenizer
    batch = tokenizer(TEXTS, padding=True, return_tensors="pt")
    model.eval()
    with torch.no_grad():
        return model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits.numpy()


def theirs(directory, **options):
    return transformers.XLMRobertaXLForSequenceClassification.from_pretrained(directory, **options)


@pytest.mark.parametrize(
    "tuning", [LoRA(rank=3, targets=EVERYWHERE), LoRA(layers=1), Bias(), "head", Full(layers=1), "full"], ids=str
)
def test_export_pretrained_with_each_tuning_equals_transformers(tuning, tmp_path):
    clf = classifier(tuning)
    base = get_backbone("nano").model
    before = {name: value.clone() for name, value in base.state_dict().items()}
    clf.export_pretrained(tmp_path)
    expected = clf._outputs(TEXTS)
    model = theirs(tmp_path)
    np.testing.assert_allclose(logits_of(model), expected, atol=1e-5)
    assert model.config.id2label == {0: "no", 1: "yes"}
    assert model.config.problem_type == "single_label_classification"
    ours = XLMRobertaXLForSequenceClassification.from_pretrained(tmp_path)
    np.testing.assert_allclose(logits_of(ours), expected, atol=1e-5)
    assert all(torch.equal(value, before[name]) for name, value in base.state_dict().items())
    np.testing.assert_array_equal(clf._outputs(TEXTS), expected)
    assert next(clf._finetuned.head.parameters()).device.type == "cpu"


@pytest.mark.parametrize(
    ("labels", "names"),
    [
        (np.array(["2021-05-01", "2022-05-01"], "datetime64[ns]"), ["2021-05-01", "2022-05-01"]),
        (np.array([False, True]), ["False", "True"]),
        (np.array([-1, 10]), ["-1", "10"]),
        (np.array(["", 'é\n"'], object), ["", 'é\n"']),
    ],
    ids=["datetime", "bool", "int", "str"],
)
def test_export_pretrained_with_labels_of_any_dtype_writes_their_names(labels, names, tmp_path):
    clf = XLMRXLClassifier("nano", tuning="head", pooling="cls", max_epochs=1, random_state=0, device="cpu")
    clf.fit(TEXTS, np.resize(labels, len(TEXTS))).export_pretrained(tmp_path)
    written = transformers.AutoConfig.from_pretrained(tmp_path).id2label
    assert [written[i].removesuffix("T00:00:00.000000000") for i in range(2)] == names


def test_export_pretrained_serves_as_checkpoint_of_other_estimator(tmp_path):
    clf = classifier(LoRA(targets=EVERYWHERE))
    clf.export_pretrained(tmp_path)
    head = XLMRXLClassifier(tmp_path, tuning="head", max_epochs=1, random_state=0, device="cpu").fit(TEXTS, LABELS)
    assert head.predict(TEXTS).shape == (8,)
    ids = transformers.XLMRobertaTokenizer.from_pretrained(tmp_path)("good day")["input_ids"]
    assert ids == get_backbone("nano").tokenizer("good day")["input_ids"]


def test_export_pretrained_in_transformers_pipeline_equals_predict_proba(tmp_path):
    clf = classifier(LoRA(targets=EVERYWHERE))
    clf.export_pretrained(tmp_path)
    answers = transformers.pipeline("text-classification", str(tmp_path), top_k=None, device="cpu")(TEXTS)
    for answer, probabilities in zip(answers, clf.predict_proba(TEXTS), strict=True):
        said = {row["label"]: row["score"] for row in answer}
        np.testing.assert_allclose([said[str(label)] for label in clf.classes_], probabilities, atol=1e-5)


NUMBERS = {"one": np.arange(8) * 10.0 + 500, "two": np.stack([np.arange(8) - 1e3, np.arange(8) * 1e4], axis=1)}


def regressor(y, **parameters):
    settings = {"max_epochs": 2, "learning_rate": 5e-3, "random_state": 0, "batch_size": 4, "device": "cpu"}
    return XLMRXLRegressor("nano", **(settings | parameters)).fit(TEXTS, y)


@pytest.mark.parametrize("y", NUMBERS.values(), ids=NUMBERS)
def test_exported_regressor_predicts_in_the_unit_of_its_targets(y, tmp_path):
    reg = regressor(y, pooling="cls")
    expected = reg.predict(TEXTS)
    reg.export_pretrained(tmp_path / "whole")
    reg.export_adapter(tmp_path / "adapter")
    np.testing.assert_allclose(logits_of(theirs(tmp_path / "whole")).reshape(y.shape), expected, rtol=1e-5)
    assert isinstance(CrossEncoder(str(tmp_path / "whole"), device="cpu").activation_fn, torch.nn.Identity)
    for name in ("whole", "adapter"):
        np.testing.assert_allclose(skxlmr.load(tmp_path / name).predict(TEXTS), expected, rtol=1e-5)
    np.testing.assert_array_equal(reg.predict(TEXTS), expected)
    vectors = regressor(y, pooling="mean")
    vectors.export_pretrained(tmp_path / "vectors")
    encoded = SentenceTransformer(str(tmp_path / "vectors"), device="cpu").encode(TEXTS)
    np.testing.assert_allclose(encoded.reshape(y.shape), vectors.predict(TEXTS), rtol=1e-5)


def test_export_of_numbers_too_large_for_a_dtype_raises(tmp_path):
    with pytest.raises(ValueError, match="too large for dtype='float16': export with dtype='float32'"):
        regressor(np.arange(8) * 1e6, pooling="cls").export_pretrained(tmp_path, dtype="float16")


def test_exported_head_is_loaded_with_its_prompt(tmp_path):
    clf = classifier(prompt="query: ")
    clf.export_pretrained(tmp_path / "whole")
    clf.export_adapter(tmp_path / "adapter")
    for name in ("whole", "adapter"):
        loaded = skxlmr.load(tmp_path / name, device="cpu")
        assert loaded.prompt == "query: "
        np.testing.assert_allclose(loaded.decision_function(TEXTS), clf.decision_function(TEXTS), atol=1e-5)
    classifier().export_adapter(tmp_path / "adapter")
    assert skxlmr.load(tmp_path / "adapter").prompt is None


def test_activation_of_cross_encoder_is_exported_and_not_that_of_the_base(tmp_path):
    regressor(NUMBERS["one"], pooling="cls").export_pretrained(tmp_path / "base")
    config = json.loads((tmp_path / "base" / "config.json").read_text())
    config["sentence_transformers"] = {"activation_fn": "torch.nn.modules.activation.Sigmoid"}
    (tmp_path / "base" / "config.json").write_text(json.dumps(config))
    (tmp_path / "base" / "skxlmr.json").unlink()
    loaded = skxlmr.load(tmp_path / "base", device="cpu")
    expected = loaded.predict(TEXTS)
    assert ((expected > 0) & (expected <= 1)).all()
    loaded.export_pretrained(tmp_path / "again")
    np.testing.assert_allclose(skxlmr.load(tmp_path / "again").predict(TEXTS), expected, rtol=1e-5)
    fitted = XLMRXLRegressor(tmp_path / "base", pooling="cls", tuning="head", max_epochs=1, random_state=0)
    fitted.fit(TEXTS, NUMBERS["one"]).export_pretrained(tmp_path / "fitted")
    np.testing.assert_allclose(skxlmr.load(tmp_path / "fitted").predict(TEXTS), fitted.predict(TEXTS), rtol=1e-5)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_export_pretrained_with_dtype_writes_half_precision(dtype, tmp_path):
    clf = classifier()
    clf.export_pretrained(tmp_path, dtype=dtype)
    model = theirs(tmp_path, dtype="auto")
    assert model.dtype == getattr(torch, dtype)
    np.testing.assert_allclose(logits_of(model.float()), clf._outputs(TEXTS), atol=0.02)
    assert {p.dtype for p in clf._finetuned.parameters()} == {torch.float32}
    with pytest.raises(ValueError, match="dtype must be one of"):
        clf.export_pretrained(tmp_path, dtype="int8")


@pytest.mark.parametrize("tuning", [Full(layers=1), "full"], ids=str)
def test_export_pretrained_with_dtype_leaves_estimator_in_float32(tuning, tmp_path):
    clf = classifier(tuning)
    expected = clf._outputs(TEXTS)
    clf.export_pretrained(tmp_path, dtype="bfloat16")
    assert {p.dtype for p in clf._finetuned.parameters()} == {torch.float32}
    np.testing.assert_array_equal(clf._outputs(TEXTS), expected)
    model = theirs(tmp_path, dtype="auto")
    assert model.dtype == torch.bfloat16
    np.testing.assert_allclose(logits_of(model.float()), expected, atol=0.02)


def copy_of_nano(directory, dtype=torch.float32):
    """Write the bundled checkpoint with transformers."""
    model = transformers.XLMRobertaXLModel.from_pretrained(resolve("nano").directory, add_pooling_layer=False)
    model.to(dtype).save_pretrained(directory)
    get_backbone("nano").tokenizer.save_pretrained(directory)
    return directory


def test_export_pretrained_of_bfloat16_checkpoint_writes_float32(tmp_path):
    """Newer versions of transformers write `dtype`, older ones `torch_dtype`."""
    base = copy_of_nano(tmp_path / "base", torch.bfloat16)
    assert "dtype" in json.loads((base / "config.json").read_text())
    clf = XLMRXLClassifier(base, pooling="cls", max_epochs=1, random_state=0, device="cpu").fit(TEXTS, LABELS)
    clf.export_pretrained(tmp_path / "out")
    model = theirs(tmp_path / "out")
    assert model.dtype == torch.float32
    np.testing.assert_allclose(logits_of(model), clf._outputs(TEXTS), atol=1e-5)


def test_export_into_own_checkpoint_raises(tmp_path):
    base = copy_of_nano(tmp_path / "base")
    clf = XLMRXLClassifier(base, pooling="cls", max_epochs=1, random_state=0, device="cpu").fit(TEXTS, LABELS)
    (tmp_path / "link").symlink_to(base)
    for export in (clf.export_pretrained, clf.export_adapter):
        for directory in (base, tmp_path / "link"):
            with pytest.raises(ValueError, match="holds the checkpoint that this estimator was fitted on"):
                export(directory)
    assert (
        XLMRXLClassifier(base, pooling="cls", max_epochs=1, device="cpu").fit(TEXTS, LABELS)._base.fingerprint
        == clf._base.fingerprint
    )


@pytest.mark.parametrize(
    "load",
    [{"load_in_8bit": True}, {"load_in_8bit": Float8()}, {"load_in_4bit": True}, {"dtype": "bfloat16"}],
    ids=["8bit", "8bit float", "4bit", "bfloat16"],
)
def test_export_pretrained_of_low_precision_backbone_merges_float32_weights(load, tmp_path):
    clf = classifier(init="random", **load)
    clf.export_pretrained(tmp_path)
    np.testing.assert_allclose(logits_of(theirs(tmp_path)), clf._outputs(TEXTS), atol=0.2)
    whole = clf.set_params(load_in_8bit=False, load_in_4bit=False, dtype="float32")
    np.testing.assert_allclose(logits_of(theirs(tmp_path)), whole._outputs(TEXTS), atol=1e-5)


def test_export_pretrained_of_8bit_checkpoint_raises(tmp_path):
    base = XLMRobertaXLModel.from_pretrained("nano", load_in_8bit=Int8(), add_pooling_layer=False)
    base.save_pretrained(tmp_path / "base")
    get_backbone("nano").tokenizer.save_pretrained(tmp_path / "base")
    clf = XLMRXLClassifier(tmp_path / "base", pooling="cls", max_epochs=1, device="cpu").fit(TEXTS, LABELS)
    with pytest.raises(ValueError, match="holds 8-bit weights"):
        clf.export_pretrained(tmp_path / "out")
    clf.export_adapter(tmp_path / "out")


def test_export_pretrained_of_unfitted_estimator_raises(tmp_path):
    with pytest.raises(NotFittedError):
        XLMRXLClassifier("nano").export_pretrained(tmp_path)
    assert not list(tmp_path.iterdir())


def test_export_with_changed_checkpoint_raises(tmp_path):
    clf = classifier()
    base = XLMRobertaXLModel.from_pretrained("nano", add_pooling_layer=False)
    base.norm.weight.data.mul_(2)
    base.save_pretrained(tmp_path / "base")
    get_backbone("nano").tokenizer.save_pretrained(tmp_path / "base")
    clf.model = str(tmp_path / "base")
    for export in (clf.export_pretrained, clf.export_adapter):
        with pytest.raises(ValueError, match="fitted on another checkpoint"):
            export(tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_export_pretrained_on_decoder_checkpoint_writes_encoder(tmp_path):
    XLMRXLGenerator("nano", tuning="head", max_epochs=1, device="cpu").fit(TEXTS).export_pretrained(tmp_path / "base")
    settings = {"tuning": "head", "max_epochs": 1, "random_state": 0, "device": "cpu"}
    clf = XLMRXLClassifier(tmp_path / "base", pooling="cls", **settings).fit(TEXTS, LABELS)
    clf.export_pretrained(tmp_path / "classifier")
    np.testing.assert_allclose(softmax(logits_of(theirs(tmp_path / "classifier")), 1), clf.predict_proba(TEXTS), 1e-4)
    lm = XLMRXLMaskedLM(tmp_path / "base", **settings).fit(TEXTS)
    lm.export_pretrained(tmp_path / "lm")
    model = transformers.XLMRobertaXLForMaskedLM.from_pretrained(tmp_path / "lm").eval()
    ids = torch.tensor([get_backbone("nano").tokenizer("A <mask> film.")["input_ids"]])
    with torch.no_grad():
        best = model(ids).logits.softmax(-1)[ids == ids.max()].max().item()  # the mask token has the highest id
    assert lm.fill_mask(["A <mask> film."], top_k=1).score[0] == pytest.approx(best, rel=1e-4)


@pytest.mark.parametrize("vocabulary", ["full", "trim"])
def test_export_pretrained_with_added_tokens_equals_transformers(vocabulary, tmp_path):
    base, out = tmp_path / "base", tmp_path / "out"
    XLMRobertaXLTokenizer.from_pretrained("nano").save_pretrained(base)
    tokenizer = transformers.AutoTokenizer.from_pretrained(base)
    tokenizer.add_tokens(["covid19", transformers.AddedToken("[E1]", lstrip=True, special=True)])
    shape = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    torch.manual_seed(0)
    transformers.XLMRobertaModel(transformers.XLMRobertaConfig(vocab_size=len(tokenizer), **shape)).save_pretrained(
        base
    )
    tokenizer.save_pretrained(base)
    texts = ["covid19 spreads", "Paris [E1] is", "good covid19[E1]", "bad"] * 2
    clf = XLMRXLClassifier(base, pooling="cls", max_epochs=2, dtype="float32", vocabulary=vocabulary, random_state=0)
    clf.fit(texts, LABELS).export_pretrained(out)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(out).eval()
    batch = transformers.AutoTokenizer.from_pretrained(out)(texts, padding=True, return_tensors="pt")
    with torch.no_grad():
        np.testing.assert_allclose(model(**batch).logits, clf._outputs(texts), atol=1e-5)
    clf.save(tmp_path / "saved")
    np.testing.assert_array_equal(skxlmr.load(tmp_path / "saved").predict_proba(texts), clf.predict_proba(texts))


def test_export_beside_a_model_of_another_kind_raises(tmp_path):
    settings = {"max_epochs": 1, "random_state": 0, "device": "cpu", "pooling": "cls", "tuning": LoRA(rank=2)}
    clf = XLMRXLClassifier("nano", **settings).fit(["good", "bad"], ["yes", "no"])
    embedder = XLMRXLEmbedder("nano", device="cpu").fit(["good"])
    clf.save(tmp_path / "saved")
    clf.export_adapter(tmp_path / "adapter")
    clf.export_pretrained(tmp_path / "whole")
    for write, directory, what in (
        (clf.export_pretrained, "saved", r"a saved estimator \(estimator\.json\)"),
        (clf.export_adapter, "saved", "a saved estimator"),
        (embedder.export_pretrained, "saved", "a saved estimator"),
        (clf.export_pretrained, "adapter", r"an adapter of peft \(adapter_config\.json\)"),
        (embedder.export_pretrained, "adapter", "an adapter of peft"),
        (clf.export_adapter, "whole", r"a whole model \(model\.safetensors\)"),
    ):
        before = sorted((tmp_path / directory).iterdir())
        with pytest.raises(FileExistsError, match=f"holds {what}.* export to another directory"):
            write(tmp_path / directory)
        assert sorted((tmp_path / directory).iterdir()) == before
