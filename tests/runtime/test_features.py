"""Features of the frozen base model are cached, under keys that contain all they depend on."""

import itertools
import os
import subprocess
import sys

import joblib
import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline

import skxlmr
from skxlmr import Full, Int8, LoRA, XLMRXLClassifier, XLMRXLEmbedder
from skxlmr.model import XLMRobertaXLModel
from skxlmr.runtime import feature_cache, features
from skxlmr.runtime.backbone import get_backbone
from skxlmr.runtime.features import frozen_features, frozen_states
from skxlmr.runtime.run import HostBatch

TEXTS = ["good", "bad film", "fine", "poor", "nice words here", "awful", "lovely", "dull", "great", "grim"]
LABELS = ["yes", "no"] * 5


@pytest.fixture(autouse=True)
def empty_cache():
    skxlmr.set_feature_cache()
    feature_cache.clear_features()
    yield
    skxlmr.set_feature_cache()
    feature_cache.clear_features()


@pytest.fixture
def encoded(monkeypatch):
    """Batches that the base model has encoded: first layer and number of windows of each."""
    batches, encode = [], XLMRobertaXLModel.encode

    def counted(self, words, positions, packing, **settings):
        batches.append((settings.get("start", 0), packing.batch_size))
        return encode(self, words, positions, packing, **settings)

    monkeypatch.setattr(XLMRobertaXLModel, "encode", counted)
    return batches


def n_encoded(batches):
    return sum(size for start, size in batches if start == 0)


def test_transform_of_a_known_text_does_not_encode_again(encoded):
    first = XLMRXLEmbedder("nano").fit_transform(TEXTS)
    assert n_encoded(encoded) == len(TEXTS)
    np.testing.assert_array_equal(XLMRXLEmbedder("nano").fit(TEXTS).transform(TEXTS[::-1]), first[::-1])
    assert n_encoded(encoded) == len(TEXTS)
    XLMRXLEmbedder("nano").fit_transform([*TEXTS, "new"])
    assert n_encoded(encoded) == len(TEXTS) + 1
    first[:] = 0  # changing the result must not change the cache
    assert XLMRXLEmbedder("nano").fit_transform(TEXTS).all(axis=1).any()


def test_feature_key_differs_for_every_parameter_that_matters(encoded):
    """With a cache full of other results, each variant gives what it gives with an empty cache."""
    text = ["some longer text about all and nothing, which says what there is to say"]
    variants = [
        {**pooling, **more}
        for pooling in [{"pooling": p} for p in features.POOLINGS] + [{"layer": 1}]
        for more in (
            {}, {"max_length": 8}, {"max_length": 8, "stride": 0}, {"dtype": "bfloat16"},
            {"load_in_8bit": Int8(engine="int_mm")}, {"load_in_8bit": Int8(engine="int_mm", outliers="dynamic")},
        )
    ]  # fmt: skip
    shared = [XLMRXLEmbedder("nano", device="cpu", **variant).fit_transform(text) for variant in variants]
    for variant, vector in zip(variants, shared, strict=True):
        feature_cache.clear_features()
        np.testing.assert_allclose(
            XLMRXLEmbedder("nano", device="cpu", **variant).fit_transform(text), vector, rtol=1e-4, atol=1e-5
        )
    for (a, one), (b, other) in itertools.combinations(zip(variants, shared, strict=True), 2):
        assert not np.array_equal(one, other), f"{a} and {b} give the same: they cannot be told apart here"


def test_feature_key_of_negative_and_positive_layer_is_the_same(encoded):
    XLMRXLEmbedder("nano", layer=-1).fit_transform(TEXTS)
    depth = len(get_backbone("nano").model.layers)
    XLMRXLEmbedder("nano", layer=depth).fit_transform(TEXTS)
    assert n_encoded(encoded) == len(TEXTS)


def test_feature_key_of_another_checkpoint_differs(tmp_path, encoded):
    model = XLMRobertaXLModel.from_pretrained("nano", add_pooling_layer=False)
    backbone = get_backbone("nano")
    vectors = []
    for factor in (1.0, 0.5):
        with torch.no_grad():
            model.layers[0].ffn.up.weight.mul_(factor)
        model.save_pretrained(tmp_path)
        backbone.tokenizer.save_pretrained(tmp_path)
        vectors.append(XLMRXLEmbedder(tmp_path).fit_transform(TEXTS))
    assert np.abs(vectors[0] - vectors[1]).max() > 1e-3


def test_grid_search_over_a_head_encodes_each_text_once(encoded):
    grid = GridSearchCV(
        XLMRXLClassifier("nano", tuning="head", max_epochs=2, random_state=0), {"learning_rate": [1e-3, 1e-2]}, cv=5
    )
    grid.fit(TEXTS, LABELS)
    assert n_encoded(encoded) == len(TEXTS)
    pipeline = make_pipeline(XLMRXLEmbedder("nano"), LogisticRegression())
    GridSearchCV(pipeline, {"logisticregression__C": [1, 10]}, cv=2).fit(TEXTS, LABELS)
    assert n_encoded(encoded) == len(TEXTS), "the same features serve both"


def test_fit_without_feature_cache_gives_the_same_result(encoded):
    clf = XLMRXLClassifier("nano", tuning="head", max_epochs=3, random_state=0)
    kept = clf.fit(TEXTS, LABELS).predict_proba(TEXTS)
    skxlmr.set_feature_cache(0)
    np.testing.assert_allclose(clf.fit(TEXTS, LABELS).predict_proba(TEXTS), kept, atol=1e-6)
    once, uncached = len(TEXTS), 5 * len(TEXTS)  # to start, to judge before and after, to train, to predict
    assert n_encoded(encoded) == once + uncached


def test_fit_of_upper_layers_runs_the_lower_ones_once(encoded):
    clf = XLMRXLClassifier("nano", tuning=LoRA(rank=2, layers=1), max_epochs=3, random_state=0, batch_size=4)
    clf.fit(TEXTS, LABELS)
    assert n_encoded(encoded) == len(TEXTS), "in the first epoch"
    clf.set_params(tuning__rank=4).fit(TEXTS[:8], LABELS[:8]).predict(TEXTS)
    assert n_encoded(encoded) == len(TEXTS), "the next candidate uses the cache"
    clf.predict(["new"])
    clf.predict(["new"])
    assert n_encoded(encoded) == len(TEXTS) + 2, "prediction adds nothing"


@pytest.mark.parametrize("tuning", [LoRA(rank=2, layers=2), Full(layers=1)], ids=str)
@pytest.mark.parametrize("load", [{}, {"dtype": "bfloat16"}, {"load_in_8bit": True}], ids=str)
def test_fit_with_cached_states_has_the_same_losses(tuning, load):
    if load.get("load_in_8bit") and isinstance(tuning, Full):
        load = {"dtype": "float16"}
    settings = {"max_epochs": 4, "random_state": 0, "batch_size": 4, "learning_rate": 1e-3, "device": "cpu", **load}
    clf = XLMRXLClassifier("nano", tuning=tuning, **settings)
    with_cache = clf.fit(TEXTS, LABELS).loss_curve_
    skxlmr.set_feature_cache(0)
    assert clf.fit(TEXTS, LABELS).loss_curve_ == pytest.approx(with_cache, abs=1e-5)


def test_frozen_states_with_a_partly_cached_batch_equal_uncached_ones():
    backbone = get_backbone("nano")
    windows = [np.array([0, 9, 2], np.int32), np.array([0, 5, 6, 7, 2], np.int32), np.array([0, 8, 8, 2], np.int32)]

    def states_of(windows, keep=None):
        return frozen_states(backbone, HostBatch.of(windows, backbone.model).to(backbone.model.device), 2, keep)

    expected = states_of(windows)
    states_of(windows[1:2], feature_cache.Keep())
    states = states_of(windows, feature_cache.Keep())
    torch.testing.assert_close(states, expected, rtol=1e-5, atol=1e-5)
    again = states_of(windows[::-1])
    torch.testing.assert_close(torch.cat(again.split([4, 5, 3])[::-1]), expected, rtol=1e-5, atol=1e-5)


def test_memory_folder_serves_other_processes(tmp_path):
    program = (
        "import sys, numpy, skxlmr\n"
        "from skxlmr.model import XLMRobertaXLModel\n"
        "if sys.argv[3] == 'known': XLMRobertaXLModel.encode = None\n"
        "vectors = skxlmr.XLMRXLEmbedder('nano', memory=sys.argv[1]).fit_transform(['one', 'two', 'three'])\n"
        "numpy.save(sys.argv[2], vectors)\n"
    )
    for i, state in enumerate(["new", "known"]):
        subprocess.run(
            [sys.executable, "-W", "error", "-c", program, str(tmp_path / "memory"), str(tmp_path / f"{i}.npy"), state],
            check=True, env=os.environ, timeout=300,
        )  # fmt: skip
    np.testing.assert_array_equal(*(np.load(tmp_path / f"{i}.npy") for i in range(2)))


def test_memory_object_and_folder_share_features(tmp_path, encoded):
    clf = XLMRXLClassifier(
        "nano", tuning="head", max_epochs=1, random_state=0, memory=joblib.Memory(str(tmp_path), verbose=0)
    )
    expected = clf.fit(TEXTS, LABELS).predict_proba(TEXTS)
    feature_cache.clear_features()
    for folder in (str(tmp_path), tmp_path):
        found = clf.set_params(memory=folder).fit(TEXTS, LABELS).predict_proba(TEXTS)
        np.testing.assert_array_equal(found, expected)
        feature_cache.clear_features()
    assert n_encoded(encoded) == len(TEXTS)


def test_memory_with_a_damaged_file_computes_it_again(tmp_path, encoded):
    expected = XLMRXLEmbedder("nano", memory=tmp_path).fit_transform(TEXTS)
    for path in sorted(tmp_path.rglob("output.pkl"))[:3]:
        path.write_bytes(path.read_bytes()[:20])
    for n_again in (3, 0):
        feature_cache.clear_features()
        encoded.clear()
        vectors = XLMRXLEmbedder("nano", memory=tmp_path).fit_transform(TEXTS)
        np.testing.assert_allclose(vectors, expected, atol=1e-5)
        assert n_encoded(encoded) == n_again


def test_frozen_features_of_equal_windows_are_equal():
    backbone = get_backbone("nano")
    one = frozen_features(backbone, [np.array([0, 9, 2], np.int32)] * 2, "mean", batch_tokens=100)
    assert one.shape == (2, backbone.model.config.hidden_size)
    np.testing.assert_array_equal(one[0], one[1])


def test_memory_whose_files_were_removed_computes_them_again(tmp_path, encoded):
    expected = XLMRXLEmbedder("nano", memory=tmp_path).fit_transform(TEXTS)
    for path in tmp_path.rglob("output.pkl"):
        path.unlink()
    feature_cache.clear_features()
    np.testing.assert_array_equal(XLMRXLEmbedder("nano", memory=tmp_path).fit_transform(TEXTS), expected)
    assert n_encoded(encoded) == 2 * len(TEXTS)


@pytest.mark.parametrize("in_the_way", ["joblib", "joblib/skxlmr"])
def test_memory_that_cannot_be_written_warns_and_computes(in_the_way, tmp_path):
    expected = XLMRXLEmbedder("nano").fit_transform(TEXTS)
    feature_cache.clear_features()
    (tmp_path / in_the_way).parent.mkdir(exist_ok=True)
    (tmp_path / in_the_way).write_text("a file in the place of the folder")
    with pytest.warns(UserWarning, match="not kept on disk: .*another folder by the parameter memory"):
        vectors = XLMRXLEmbedder("nano", memory=tmp_path).fit_transform(TEXTS)
    np.testing.assert_array_equal(vectors, expected)
