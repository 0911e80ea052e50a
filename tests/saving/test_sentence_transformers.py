"""Exports for sentence-transformers, which computes the same logits, or vectors, as the estimator."""

import pickle
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from sentence_transformers import SentenceTransformer
from sklearn.exceptions import NotFittedError

from skxlmr import Bias, Full, LoRA, XLMRXLClassifier, XLMRXLEmbedder, XLMRXLRegressor, load
from skxlmr.checkpoints.errors import CheckpointError
from skxlmr.checkpoints.resolve import resolve
from skxlmr.checkpoints.sentence_modules import SentenceModules
from skxlmr.runtime.sentence_settings import read_sentence_settings
from skxlmr.saving.merged import FittedWeights
from skxlmr.saving.sentence_transformers import dense_layer, write_sentence_model

TEXTS = ["good", "bad film", "fine", "poor", "nice words here", "awful", "lovely", "dull"]
LABELS = ["yes", "no"] * 4
WEIGHT = np.random.default_rng(0).normal(size=(12, 192)).astype(np.float32)
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
    np.testing.assert_allclose(outputs[:, 0], reg.predict(TEXTS), atol=1e-5)


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


def test_export_for_transformers_replaces_one_for_sentence_transformers_as_a_whole(tmp_path):
    reg = XLMRXLRegressor("nano", prompt="rate: ", tuning="head", **SETTINGS).fit(TEXTS, np.arange(8.0))
    reg.export_pretrained(tmp_path)
    clf = XLMRXLClassifier("nano", pooling="cls", tuning="head", **SETTINGS).fit(TEXTS, LABELS)
    clf.export_pretrained(tmp_path)
    assert not read_sentence_settings(tmp_path).is_sentence_model
    assert read_sentence_settings(tmp_path).prompt == ""


# -- heads that are loaded again ----------------------------------------------------------------------------------

Y = {
    "texts": LABELS,
    "integers": [10, 9] * 4,
    "truth values": [True, False] * 4,
    "whole floats": [1.0, 2.0] * 4,
    "indicator": np.array([[1, 0, 1], [0, 1, 0]] * 4),
    "lists": [["b", "a"], ["c"]] * 4,
}


@pytest.mark.parametrize("kind", Y)
def test_exported_classifier_is_loaded_with_its_labels(kind, tmp_path):
    parameters = {"pooling": "max", "prompt": "rate: "} if kind == "integers" else {}
    clf = XLMRXLClassifier("nano", tuning="head", **SETTINGS, **parameters).fit(TEXTS, Y[kind])
    clf.export_pretrained(tmp_path)
    loaded = load(tmp_path, device="cpu", dtype="float32")
    assert type(loaded) is XLMRXLClassifier
    assert loaded.classes_.tolist() == clf.classes_.tolist()
    assert [*map(type, loaded.classes_.tolist())] == [*map(type, clf.classes_.tolist())]
    np.testing.assert_allclose(loaded.predict_proba(TEXTS), clf.predict_proba(TEXTS), atol=1e-6)
    assert (loaded.multilabel_ is None) == (clf.multilabel_ is None)
    assert (loaded.pooling_, loaded.prompt_) == (clf.pooling_, clf.prompt_)
    pairs = [[text, "good"] for text in TEXTS]
    assert loaded.predict_proba(pairs).shape == clf.predict_proba(TEXTS).shape
    encoded = SentenceTransformer(str(tmp_path), device="cpu").encode(TEXTS)
    np.testing.assert_allclose(encoded, loaded._outputs(TEXTS), atol=1e-5)


@pytest.mark.parametrize("y", [np.arange(8.0), np.arange(16.0).reshape(8, 2)], ids=["one", "two"])
def test_exported_regressor_is_loaded(y, tmp_path):
    reg = XLMRXLRegressor("nano", vocabulary="trim", **SETTINGS).fit(TEXTS, y)
    reg.export_pretrained(tmp_path, dtype="float32")
    loaded = load(tmp_path, device="cpu", dtype="float32")
    assert type(loaded) is XLMRXLRegressor
    np.testing.assert_allclose(loaded.predict(TEXTS), reg.predict(TEXTS), atol=1e-5)


@pytest.fixture
def sentence_model(tmp_path):
    """A model of sentence-transformers with a dense layer and normalisation."""
    layer = {"kind": "Dense", "activation": "Tanh", "weight": WEIGHT, "bias": None, "residual": False}
    base = FittedWeights(resolve("nano"), None, None, None)
    model, tokenizer = base.merged("float32")
    write_sentence_model(
        tmp_path / "sentences",
        model,
        SentenceModules("mean", (layer,), True),
        prompts={"fitted": "query: "},
        max_length=32,
        config={},
        other_files=tokenizer.files(),
    )
    return tmp_path / "sentences"


def test_exported_classifier_on_a_sentence_model_goes_on_from_its_head(sentence_model, tmp_path):
    clf = XLMRXLClassifier(sentence_model, tuning="head", pairs="joint", **SETTINGS).fit(TEXTS, LABELS)
    clf.export_pretrained(tmp_path / "exported")
    settings = {name: SETTINGS[name] for name in ("device", "dtype")}
    loaded = load(tmp_path / "exported", **settings)
    np.testing.assert_allclose(loaded.predict_proba(TEXTS), clf.predict_proba(TEXTS), atol=1e-6)
    assert (loaded.prompt_, loaded._normalize, len(loaded._layers), loaded.max_length_) == ("query: ", True, 1, 32)
    np.testing.assert_allclose(loaded._finetuned.head.linear.weight, clf._finetuned.head.linear.weight, rtol=1e-6)
    loaded.save(tmp_path / "saved")
    loaded.export_pretrained(tmp_path / "again")
    for again in (load(tmp_path / "saved"), pickle.loads(pickle.dumps(loaded)), load(tmp_path / "again", **settings)):
        np.testing.assert_allclose(again.predict_proba(TEXTS), clf.predict_proba(TEXTS), atol=1e-6)
    loaded.set_params(warm_start=True, max_epochs=1, learning_rate=1e-6, random_state=0).fit(TEXTS, LABELS)
    np.testing.assert_allclose(loaded.predict_proba(TEXTS), clf.predict_proba(TEXTS), atol=1e-3)
    # What an estimator reads are the vectors below the head, not its outputs.
    vectors = XLMRXLEmbedder(sentence_model, **settings).fit_transform(TEXTS)
    embedder = XLMRXLEmbedder(tmp_path / "exported", **settings)
    np.testing.assert_allclose(embedder.fit_transform(TEXTS), vectors, atol=1e-6)
    new = XLMRXLClassifier(tmp_path / "exported", tuning="head", **SETTINGS).fit(TEXTS, [1, 2, 3, 4] * 2)
    assert new._layers[0]["weight"].shape == WEIGHT.shape


def test_labels_and_problem_type_of_exported_head_can_be_set(tmp_path):
    clf = XLMRXLClassifier("nano", tuning="head", **SETTINGS).fit(TEXTS, LABELS)
    clf.export_pretrained(tmp_path)
    named = load(tmp_path, id2label=["schlecht", "gut"], device="cpu", dtype="float32")
    assert named.classes_.tolist() == ["gut", "schlecht"]
    np.testing.assert_allclose(named.predict_proba(TEXTS)[:, ::-1], clf.predict_proba(TEXTS), atol=1e-6)
    several = load(tmp_path, problem_type="multi_label_classification", device="cpu", dtype="float32")
    np.testing.assert_array_equal(several.predict(TEXTS), clf._outputs(TEXTS) > 0)
    with pytest.raises(CheckpointError, match="head is for pooling='mean', and cannot be used with pooling='cls'"):
        load(tmp_path, pooling="cls")


def test_exports_into_the_directory_of_a_head_leave_none_of_it(tmp_path):
    clf = XLMRXLClassifier("nano", tuning="head", **SETTINGS).fit(TEXTS, LABELS)
    clf.export_pretrained(tmp_path)
    XLMRXLEmbedder("nano", **PLAIN).fit(TEXTS).export_pretrained(tmp_path)
    assert type(load(tmp_path)) is XLMRXLEmbedder
    clf.export_pretrained(tmp_path)
    assert type(load(tmp_path)) is XLMRXLClassifier
    of_first_token = XLMRXLClassifier("nano", tuning="head", pooling="cls", **SETTINGS).fit(TEXTS, [1, 2] * 4)
    of_first_token.export_pretrained(tmp_path)
    assert load(tmp_path).classes_.tolist() == ["1", "2"]
    assert not (tmp_path / "skxlmr_head.json").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            '{"problem_type": "single_label_classification", "classes": ["a"]}',
            "head of 1 classes, but modules.json has",
        ),
        ('{"problem_type": "single_label_classification", "classes": ["a", "a"]}', "not distinct"),
        ("[]", "skxlmr_head.json"),
    ],
)
def test_load_of_damaged_head_file_raises(content, message, exported_head):
    path = exported_head / "skxlmr_head.json"
    original = path.read_bytes()
    path.write_text(content)
    try:
        with pytest.raises(CheckpointError, match=message):
            load(exported_head)
    finally:
        path.write_bytes(original)


def test_load_of_head_with_nan_raises(exported_head, tmp_path):
    shutil.copytree(exported_head, tmp_path / "copy")
    (tmp_path / "copy" / "skxlmr.json").unlink()
    path = tmp_path / "copy" / "2_Dense" / "model.safetensors"
    tensors = load_file(path)
    tensors["linear.bias"][0] = torch.nan
    save_file(tensors, path)
    with pytest.raises(CheckpointError, match=r"model\.safetensors: tensor 'linear\.bias' contains NaN or infinity"):
        load(tmp_path / "copy")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("modules.json", r"has a skxlmr_head\.json, but no modules\.json"),
        ("2_Dense/config.json", "no such module at the end"),
        ("config.json", r"is that of the Transformer which modules\.json names"),
    ],
)
def test_load_of_head_with_missing_file_raises(name, message, exported_head, tmp_path):
    shutil.copytree(exported_head, tmp_path / "copy")
    (tmp_path / "copy" / "skxlmr.json").unlink()
    (tmp_path / "copy" / name).unlink()
    with pytest.raises(CheckpointError, match=message):
        load(tmp_path / "copy")


@pytest.fixture(scope="module")
def exported_head(tmp_path_factory):
    directory = tmp_path_factory.mktemp("head")
    XLMRXLClassifier("nano", tuning="head", **SETTINGS).fit(TEXTS, LABELS).export_pretrained(directory)
    return directory


# -- vectors ------------------------------------------------------------------------------------------------------

PLAIN = {"device": "cpu", "dtype": "float32"}


def assert_same_vectors(embedder, directory):
    """Export, and compare with `encode` and with an embedder on the export; return sentence-transformers' model."""
    embedder.export_pretrained(directory)
    expected = embedder.transform(TEXTS)
    model = SentenceTransformer(str(directory), device="cpu")
    np.testing.assert_allclose(model.encode(TEXTS), expected, atol=1e-5)
    np.testing.assert_allclose(model.encode_query(TEXTS), embedder.encode_query(TEXTS), atol=1e-5)
    np.testing.assert_allclose(model.encode_document(TEXTS), embedder.encode_document(TEXTS), atol=1e-5)
    again = XLMRXLEmbedder(directory, **PLAIN).fit(TEXTS)
    np.testing.assert_allclose(again.transform(TEXTS), expected, atol=1e-5)
    assert (again.prompt_, again.max_length_) == (embedder.prompt_, embedder.max_length or embedder.max_length_)
    return model


@pytest.mark.parametrize(
    "parameters",
    [
        {},
        {"normalize": True, "prompt": "query: ", "pooling": "max", "max_length": 16},
        {"n_dims": 9, "normalize": True, "pooling": "weightedmean", "vocabulary": "trim", "prompt": "query: "},
        {"n_components": 3, "n_dims": 50, "layer": 4, "random_state": 0},
    ],
    ids=["plain", "prompt", "n_dims", "pca"],
)
def test_exported_vectors_equal_encode(parameters, tmp_path):
    embedder = XLMRXLEmbedder("nano", **parameters, **PLAIN).fit(TEXTS)
    model = assert_same_vectors(embedder, tmp_path)
    if "prompt" in parameters:
        plain = XLMRXLEmbedder("nano", **{**parameters, "prompt": None}, **PLAIN)
        plain.fit([*TEXTS, "query: "])
        np.testing.assert_allclose(model.encode(TEXTS, prompt=""), plain.transform(TEXTS), atol=1e-5)


@pytest.mark.parametrize(
    ("objective", "tuning"), [("classes", LoRA(rank=3)), ("classes", Full(layers=1)), ("pairs", Bias())], ids=str
)
def test_exported_vectors_have_what_was_trained_merged_into_the_weights(objective, tuning, tmp_path):
    X, y = (TEXTS, LABELS) if objective == "classes" else ([[text, text[::-1]] for text in TEXTS], None)
    settings = {**SETTINGS, "learning_rate": 5e-3, "normalize": True, "prompt": "query: ", "n_components": 4}
    embedder = XLMRXLEmbedder("nano", objective=objective, tuning=tuning, **settings).fit(X, y)
    assert_same_vectors(embedder, tmp_path)
    embedder.export_pretrained(tmp_path, dtype="bfloat16")
    half = XLMRXLEmbedder(tmp_path, **PLAIN).fit(TEXTS).transform(TEXTS)
    np.testing.assert_allclose(half, embedder.transform(TEXTS), atol=0.1)


def test_exported_vectors_of_a_sentence_model_keep_its_modules(tmp_path):
    modules = SentenceModules("cls+mean", (dense_layer(np.eye(6, 384) + 0.01, np.arange(6)),), True, False)
    base, tokenizer = FittedWeights(resolve("nano"), None, None, None).merged("float32")
    write_sentence_model(
        tmp_path / "model",
        base,
        modules,
        prompts={"fitted": "q: "},
        max_length=20,
        config={},
        other_files=tokenizer.files(),
    )
    settings = tmp_path / "model" / "sentence_bert_config.json"
    settings.write_text(settings.read_text().replace("false", "true"))  # do_lower_case
    texts = [text.title() for text in TEXTS]
    first, model = XLMRXLEmbedder(tmp_path / "model", **PLAIN), SentenceTransformer(str(tmp_path / "model"))
    np.testing.assert_allclose(first.fit(texts).transform(texts), model.encode(texts), atol=1e-5)
    assert_same_vectors(first, tmp_path / "out")
    np.testing.assert_allclose(
        SentenceTransformer(str(tmp_path / "out"), device="cpu").encode(texts), model.encode(texts), atol=1e-5
    )


def test_long_texts_of_an_export_are_cut_at_max_length(tmp_path):
    embedder = XLMRXLEmbedder("nano", max_length=16, truncation=True, **PLAIN).fit(TEXTS)
    embedder.export_pretrained(tmp_path)
    long = ["one of many words in this text " * 9]
    with pytest.warns(UserWarning, match="cut at 16 tokens"):
        expected = embedder.transform(long)
    np.testing.assert_allclose(SentenceTransformer(str(tmp_path), device="cpu").encode(long), expected, atol=1e-5)


@pytest.mark.parametrize(
    ("parameters", "X", "message"),
    [
        ({"layer": 2}, TEXTS, "not layer=2. Fit with layer=-1"),
        ({"pooling": "first_last_mean"}, TEXTS, "Fit with pooling='mean'"),
        ({}, [[text, "x"] for text in TEXTS], "two texts that are read together.*objective='pairs'"),
    ],
)
def test_export_of_vectors_that_sentence_transformers_cannot_read_raises(parameters, X, message, tmp_path):
    embedder = XLMRXLEmbedder("nano", **parameters, **PLAIN).fit(X)
    with pytest.raises(NotImplementedError, match=message):
        embedder.export_pretrained(tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_export_of_vectors_refuses_its_own_checkpoint_unknown_dtypes_and_unfitted_estimators(tmp_path):
    with pytest.raises(NotFittedError):
        XLMRXLEmbedder("nano").export_pretrained(tmp_path)
    embedder = XLMRXLEmbedder("nano", **PLAIN).fit(TEXTS)
    with pytest.raises(ValueError, match="dtype must be one of"):
        embedder.export_pretrained(tmp_path, dtype="int8")
    embedder.export_pretrained(tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
    own = XLMRXLEmbedder(tmp_path, **PLAIN).fit(TEXTS)
    with pytest.raises(ValueError, match="Export to another directory"):
        own.export_pretrained(tmp_path)
    assert before == {path: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
    XLMRXLEmbedder("nano", objective="classes", **{**SETTINGS, "max_epochs": 1}).fit(TEXTS, LABELS).export_pretrained(
        tmp_path
    )
    with pytest.raises(ValueError, match="was fitted on another checkpoint"):
        own.export_pretrained(tmp_path / "out")
