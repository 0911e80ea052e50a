"""`vocabulary="trim"` keeps the pieces of the training texts and all characters, and changes no other result."""

import gc
import pickle
import weakref

import numpy as np
import pytest
import torch
import transformers
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline

import skxlmr
from skxlmr import (
    XLMRXLQA,
    Full,
    XLMRXLClassifier,
    XLMRXLEmbedder,
    XLMRXLMultipleChoice,
    XLMRXLRegressor,
    XLMRXLTagger,
)
from skxlmr.checkpoints.checkpoint import open_checkpoint
from skxlmr.model import XLMRobertaXLModel
from skxlmr.model.word_embedding import read_words
from skxlmr.runtime.backbone import get_backbone, release_models, trim

TEXTS = ["a wonderful film", "很好看的电影", "dreadful", "I loved every minute of it", "", "un film magnifique 🎬"]
LABELS = ["good", "good", "bad", "good", "bad", "good"]
SAME_WORDS = ["a dreadful film", "film", "I loved film"]  # every piece occurs in TEXTS
OTHER_WORDS = ["good morning to everybody", "质量太差了", "Ein überraschendes Ende"]
SETTINGS = {"max_epochs": 2, "random_state": 0, "device": "cpu"}

CASES = {
    "classifier": (XLMRXLClassifier, TEXTS, LABELS, SAME_WORDS, OTHER_WORDS),
    "pairs": (
        XLMRXLClassifier,
        np.array([TEXTS, TEXTS[::-1]]).T,
        LABELS,
        [["film", "dreadful"]],
        [["good morning", "质量"]],
    ),
    "regressor": (XLMRXLRegressor, TEXTS, [1.0, 2, 3, 4, 5, 6], SAME_WORDS, OTHER_WORDS),
    "tagger": (
        XLMRXLTagger,
        [["a", "wonderful", "film"], ["dreadful"]],
        [["D", "A", "N"], ["A"]],
        [["a", "dreadful", "film"]],
        [["morning", "质量"]],
    ),
    "qa": (
        XLMRXLQA,
        [["what", "a film that I loved"], ["who", "Ann loved it"]],
        ["film", "Ann"],
        [["who", "a film that Ann loved"]],
        [["wohin", "Morgen gehen wir ins Kino"]],
    ),
    "choices": (
        XLMRXLMultipleChoice,
        [["a film", "loved", "dreadful"], ["Ann", "film", "loved"]],
        [0, 1],
        [["film", "dreadful", "loved"]],
        [["morgen", "heute", "gestern"]],
    ),
}


def raw(estimator, X):
    """Outputs of the head for all rows."""
    return np.concatenate([np.atleast_1d(of_row) for of_row in estimator._outputs(X)])


@pytest.mark.parametrize("case", CASES)
def test_predict_with_trim_on_known_words_equals_full_vocabulary(case):
    cls, X, y, same, other = CASES[case]
    whole = cls("nano", **SETTINGS).fit(X, y)
    trimmed = cls("nano", vocabulary="trim", **SETTINGS).fit(X, y)
    for texts in (X, same):
        if case != "qa":
            np.testing.assert_allclose(raw(trimmed, texts), raw(whole, texts), atol=1e-6)
        np.testing.assert_array_equal(trimmed.predict(texts), whole.predict(texts))
    assert len(trimmed.predict(other)) == len(other)
    n_words = len(trimmed._fitted_backbone().model.embeddings.word.weight)
    assert n_words == len(trimmed._fitted_backbone().tokenizer) < len(whole._fitted_backbone().tokenizer)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(trimmed)).predict(other), trimmed.predict(other))


def test_predict_answers_with_trim_returns_substrings_of_contexts():
    _, X, y, _, other = CASES["qa"]
    qa = XLMRXLQA("nano", vocabulary="trim", **SETTINGS).fit(X, y)
    answers = qa.predict_answers(other).to_dict("records")
    assert {found["row"] for found in answers} == {0}
    for found in answers:
        context = other[found["row"]][1]
        assert context[found["start"] : found["end"]] == found["answer"] != ""


def test_tokenize_with_trim_splits_unknown_words_without_unknown_token():
    clf = XLMRXLClassifier("nano", vocabulary="trim", **SETTINGS).fit(TEXTS, LABELS)
    tokenizer = clf._fitted_backbone().tokenizer
    assert tokenizer.tokenize("wonderful") == get_backbone("nano").tokenizer.tokenize("wonderful")
    assert len(tokenizer.tokenize("morning")) > len(get_backbone("nano").tokenizer.tokenize("morning"))
    assert "<unk>" not in tokenizer.tokenize("good morning to everybody")
    assert np.isfinite(clf.predict_proba(OTHER_WORDS)).all()


@pytest.mark.parametrize("tuning", ["lora", "head", Full(layers=1), "full"], ids=str)
def test_trimmed_classifier_survives_pickle_and_save(tuning, tmp_path):
    clf = XLMRXLClassifier("nano", vocabulary="trim", tuning=tuning, **SETTINGS).fit(TEXTS, LABELS)
    expected = clf.predict_proba(TEXTS + OTHER_WORDS)
    clf.save(tmp_path / "saved")
    data = pickle.dumps(clf)
    del clf
    release_models()
    gc.collect()
    for again in (pickle.loads(data), skxlmr.load(tmp_path / "saved")):
        np.testing.assert_array_equal(again.predict_proba(TEXTS + OTHER_WORDS), expected)
        assert not hasattr(clone(again), "classes_")
        assert clone(again).vocabulary == "trim"


def test_trimmed_backbones_share_layers_and_free_full_embedding():
    release_models()
    gc.collect()
    clf = XLMRXLClassifier("nano", vocabulary="trim", **SETTINGS).fit(TEXTS, LABELS)
    watch = weakref.ref(get_backbone("nano", device="cpu").model.embeddings.word)
    release_models()
    gc.collect()
    assert watch() is None
    twin = XLMRXLClassifier("nano", vocabulary="trim", **SETTINGS).fit(OTHER_WORDS, [*LABELS[:2], "bad"])
    one, other = clf._fitted_backbone().model, twin._fitted_backbone().model
    assert one.layers is other.layers
    assert one.embeddings.word is not other.embeddings.word
    gc.collect()
    whole = get_backbone("nano", device="cpu")
    assert whole.model.layers is one.layers
    assert whole.model.config == XLMRobertaXLModel.from_pretrained("nano", add_pooling_layer=False).config
    with open_checkpoint(whole.files) as checkpoint:
        words = checkpoint.read("roberta.embeddings.word_embeddings.weight").float()
    assert torch.equal(whole.model.embeddings.word.weight, words)
    assert torch.equal(other.embeddings.word.weight, words[torch.from_numpy(twin._base.pieces)])
    assert not any(p.requires_grad for p in whole.model.parameters())


def test_read_words_equals_word_embedding_of_model():
    for dtype in ("float32", "bfloat16"):
        words = get_backbone("nano", device="cpu", dtype=dtype).model.embeddings.word.weight
        read = read_words(get_backbone("nano").files, words.dtype)
        assert read.dtype == words.dtype
        assert torch.equal(read, words)
    eight_bit = get_backbone("nano", device="cpu", load_in_8bit=True)
    words = eight_bit.model.embeddings.word.weight
    assert torch.equal(read_words(eight_bit.files, words.dtype), words)
    small = trim(eight_bit, np.array([500, 400, 500]))
    assert torch.equal(small.model.embeddings.word.weight, words[torch.from_numpy(small.pieces)])
    assert {400, 500} <= set(small.pieces)


@pytest.mark.parametrize("precision", [{"load_in_8bit": True}, {"dtype": "bfloat16"}], ids=["8bit", "bfloat16"])
def test_predict_proba_with_trim_in_other_precisions_equals_full_vocabulary(precision):
    parameters = SETTINGS | precision
    whole = XLMRXLClassifier("nano", **parameters).fit(TEXTS, LABELS)
    trimmed = XLMRXLClassifier("nano", vocabulary="trim", **parameters).fit(TEXTS, LABELS)
    np.testing.assert_allclose(trimmed.predict_proba(SAME_WORDS), whole.predict_proba(SAME_WORDS), atol=1e-6)


def test_fit_with_trim_and_unknown_words_in_validation_scores_them():
    clf = XLMRXLClassifier("nano", vocabulary="trim", **SETTINGS)
    clf.fit(TEXTS, LABELS, X_val=OTHER_WORDS, y_val=["good", "bad", "bad"])
    assert clf.validation_scores_[-1] == clf.score(OTHER_WORDS, ["good", "bad", "bad"])


@pytest.mark.parametrize("tuning", ["lora", "full"])
def test_warm_start_with_trim_keeps_original_vocabulary(tuning):
    clf = XLMRXLClassifier("nano", vocabulary="trim", tuning=tuning, warm_start=True, **SETTINGS).fit(TEXTS, LABELS)
    pieces = clf._base.pieces
    clf.fit([*OTHER_WORDS, "film"], ["good", "bad", "bad", "good"])
    np.testing.assert_array_equal(clf._base.pieces, pieces)
    clf.partial_fit(OTHER_WORDS, ["good", "bad", "bad"])
    np.testing.assert_array_equal(clf._base.pieces, pieces)
    clf.set_params(warm_start=False).fit(OTHER_WORDS, ["good", "bad", "bad"])
    assert not np.array_equal(clf._base.pieces, pieces)


def test_embedder_with_trim_equals_full_vocabulary():
    whole = XLMRXLEmbedder("nano", prompt="query: ").fit(TEXTS)
    for extra in ({}, {"n_components": 2, "random_state": 0}):
        trimmed = XLMRXLEmbedder("nano", prompt="query: ", vocabulary="trim", **extra).fit(TEXTS)
        vectors = trimmed.transform(TEXTS)
        assert len(trimmed._fitted_backbone().tokenizer) < len(whole._fitted_backbone().tokenizer)
        np.testing.assert_allclose(trimmed.fit_transform(TEXTS), vectors, atol=1e-6)
        if not extra:
            np.testing.assert_allclose(trimmed.transform(SAME_WORDS), whole.transform(SAME_WORDS), atol=1e-6)
    pipeline = make_pipeline(XLMRXLEmbedder("nano", vocabulary="trim"), LogisticRegression())
    X, y = TEXTS * 4, LABELS * 4
    search = GridSearchCV(pipeline, {"xlmrxlembedder__vocabulary": ["full", "trim"]}, cv=2).fit(X, y)
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()


@pytest.mark.parametrize("tuning", ["lora", "full"])
def test_export_pretrained_with_trim_equals_transformers(tuning, tmp_path):
    clf = XLMRXLClassifier("nano", vocabulary="trim", tuning=tuning, pooling="cls", dtype="float32", **SETTINGS).fit(
        TEXTS, LABELS
    )
    clf.export_pretrained(tmp_path)
    theirs = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path).eval()
    assert theirs.config.vocab_size == len(clf._base.pieces)
    tokenizer = skxlmr.model.XLMRobertaXLTokenizer.from_directory(tmp_path)
    for text in [*TEXTS, *OTHER_WORDS]:
        ids = torch.tensor([tokenizer(text)["input_ids"]])
        with torch.no_grad():
            expected = theirs(ids).logits.softmax(-1).numpy()
        np.testing.assert_allclose(clf.predict_proba([text]), expected, atol=1e-5)
    again = XLMRXLClassifier(tmp_path, **SETTINGS).fit(TEXTS, LABELS)
    assert len(again.predict(OTHER_WORDS)) == len(OTHER_WORDS)


def test_checkpointing_with_trim_resumes_killed_fit(tmp_path):
    class Kill(skxlmr.training.Callback):
        def on_epoch_end(self, trainer):
            raise KeyError("killed")

    parameters = {"vocabulary": "trim", "checkpoint_dir": tmp_path, **SETTINGS}
    with pytest.raises(KeyError):
        XLMRXLClassifier("nano", callbacks=[Kill()], **parameters).fit(TEXTS, LABELS)
    (folder,) = (path for path in tmp_path.iterdir() if path.is_dir())
    resumed = XLMRXLClassifier("nano", **parameters).fit(TEXTS, LABELS)
    assert not folder.exists()
    straight = XLMRXLClassifier("nano", vocabulary="trim", **SETTINGS).fit(TEXTS, LABELS)
    np.testing.assert_array_equal(resumed.predict_proba(TEXTS), straight.predict_proba(TEXTS))


@pytest.mark.parametrize(("text", "max_length"), [("Maid in Manhattan", 6), ("reasonable", 4), ("greaseballs", 4)])
def test_transform_with_trim_of_truncated_word_equals_full_vocabulary(text, max_length):
    texts = [text, "we read on"]  # without its end, the word would be segmented differently
    settings = {"model": "nano", "device": "cpu", "max_length": max_length, "truncation": True}
    vectors = []
    for vocabulary in ("full", "trim"):
        embedder = XLMRXLEmbedder(**settings, vocabulary=vocabulary)
        with pytest.warns(UserWarning, match="were cut"):
            vectors.append(embedder.fit_transform(texts))
        with pytest.warns(UserWarning, match="were cut"):
            vectors.append(embedder.transform(texts))
    for other in vectors[1:]:
        np.testing.assert_allclose(other, vectors[0], atol=1e-5)


def test_fit_with_trim_and_truncation_warns_once():
    with pytest.warns(UserWarning, match="1 of 2 distinct texts were cut") as told:
        XLMRXLClassifier("nano", vocabulary="trim", truncation=True, max_length=8, **SETTINGS).fit(
            ["word " * 20, "film"], LABELS[1:3]
        )
    assert len(told) == 1
