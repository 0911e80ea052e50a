"""The README.md beside models that estimators save and export."""

import os
from pathlib import Path

import numpy as np
import pytest
from huggingface_hub import ModelCard

import skxlmr
from skxlmr import XLMRXLClassifier, XLMRXLEmbedder, XLMRXLRegressor, XLMRXLTagger
from skxlmr.checkpoints.resolve import resolve
from skxlmr.estimators.cards import facts_of

TEXTS = ["a secret text", "bad", "fine", "плохо"] * 5
LABELS = ["yes", "no"] * 10


@pytest.fixture(scope="module")
def classifier() -> XLMRXLClassifier:
    settings = {"pooling": "cls", "max_epochs": 2, "random_state": 0, "early_stopping": True}
    return XLMRXLClassifier("nano", **settings).fit(TEXTS, LABELS)


@pytest.mark.parametrize(
    ("method", "library"), [("save", "skxlmr"), ("export_pretrained", "transformers"), ("export_adapter", "peft")]
)
def test_card_beside_model_says_what_was_learned(classifier, method, library, tmp_path):
    getattr(classifier, method)(tmp_path)
    path = tmp_path / "README.md"
    loaded = ModelCard.load(path)
    assert (loaded.data.library_name, loaded.data.pipeline_tag) == (library, "text-classification")
    assert loaded.data.eval_results[0].metric_value == pytest.approx(classifier.best_validation_score_)
    for said in (
        "| rows | 20 |",
        "Latin, Cyrillic",
        "2: no, yes",
        "| epochs | 2 |",
        "bsd-3-clause",
        "Accuracy on rows",
    ):
        assert said in loaded.text, said
    for private in ("secret", "плохо", str(tmp_path), os.sep + "nano"):
        assert private not in loaded.text
    assert np.array_equal(skxlmr.load(tmp_path).predict(TEXTS), classifier.predict(TEXTS))
    first = path.read_bytes()
    getattr(classifier, method)(tmp_path)
    assert path.read_bytes() == first
    path.write_text("my own", encoding="utf-8")
    getattr(classifier, method)(tmp_path)
    assert path.read_text(encoding="utf-8") == "my own"
    assert np.array_equal(skxlmr.load(tmp_path).predict(TEXTS), classifier.predict(TEXTS))


def test_saving_a_loaded_estimator_keeps_its_card(classifier, tmp_path):
    classifier.save(tmp_path / "a")
    skxlmr.load(tmp_path / "a").save(tmp_path / "b")
    assert (tmp_path / "a" / "README.md").read_bytes() == (tmp_path / "b" / "README.md").read_bytes()


def test_card_of_embedder_and_of_pooled_head_is_for_sentence_transformers(tmp_path):
    XLMRXLEmbedder("nano").fit(TEXTS).export_pretrained(tmp_path / "vectors")
    data = ModelCard.load(tmp_path / "vectors" / "README.md").data
    assert (data.library_name, data.pipeline_tag) == ("sentence-transformers", "sentence-similarity")
    assert data.eval_results is None
    reg = XLMRXLRegressor("nano", tuning="head", max_epochs=1, random_state=0).fit(TEXTS, np.arange(20.0))
    reg.export_pretrained(tmp_path / "head")
    data = ModelCard.load(tmp_path / "head" / "README.md").data
    assert (data.library_name, data.pipeline_tag) == ("sentence-transformers", "text-classification")


def test_card_after_partial_fit_counts_all_rows():
    clf = XLMRXLClassifier("nano", tuning="head", random_state=0)
    clf.partial_fit(["good", "bad"], [0, 1], classes=[0, 1])
    clf.partial_fit(["добро", "зло", "мир"], [0, 1, 0], sample_weight=[1, 1, 0])
    facts = facts_of(clf)
    assert (facts.n_rows, list(facts.scripts), facts.labels) == (4, ["Latin", "Cyrillic"], ["0", "1"])
    assert facts.score is None


def test_card_names_hub_base_and_no_local_path(tmp_path):
    clf = XLMRXLClassifier("nano", tuning="head", max_epochs=1, random_state=0, memory=tmp_path / "cache")
    clf.fit(TEXTS, LABELS)
    for model, base, hub_id, revision, licence in (
        ("intfloat/multilingual-e5-base@v1", *["intfloat/multilingual-e5-base"] * 2, "v1", "mit"),
        ("e5-small", "e5-small", "intfloat/multilingual-e5-small", None, "mit"),
        ("someone/something", *["someone/something"] * 2, None, None),
        (tmp_path, "a local checkpoint", None, None, None),
        (str(tmp_path), "a local checkpoint", None, None, None),
    ):
        facts = facts_of(clf.set_params(model=model))
        assert (facts.base, facts.hub_id, facts.revision, facts.licence) == (base, hub_id, revision, licence)
        assert str(tmp_path) not in repr(facts)
    assert facts.parameters == {"max_epochs": "1", "random_state": "0", "tuning": "'head'"}


def test_licence_of_local_base_is_that_of_its_card(tmp_path):
    clf = XLMRXLClassifier("nano", tuning="head", max_epochs=1, random_state=0).fit(TEXTS, LABELS)
    clf.set_params(model=tmp_path)
    (tmp_path / "README.md").write_text("---\nlicense: apache-2.0\n---\n", encoding="utf-8")
    assert facts_of(clf, Path(tmp_path)).licence == "apache-2.0"
    assert resolve("nano").directory.joinpath("README.md").exists()


def test_metric_of_tagger_and_of_scoring():
    tokens = [["Anna", "is", "here"]] * 6
    entities = XLMRXLTagger("nano", tuning="head", max_epochs=1, random_state=0).fit(tokens, [["B-PER", "O", "O"]] * 6)
    assert facts_of(entities).metric == "F1"
    assert facts_of(entities).scripts == ["Latin"]
    plain = entities.set_params(scheme="plain").fit(tokens, [["NOUN", "VERB", "ADV"]] * 6)
    assert facts_of(plain).metric == "accuracy"
    assert facts_of(plain.set_params(scoring="neg_log_loss")).metric == "neg_log_loss"
    assert facts_of(plain.set_params(scoring=lambda *args: 1.0)).metric == "an own function"
    assert facts_of(plain).parameters["scoring"] == "an object of function"
