"""The graphs for serving compute what the estimators return, on padded batches."""

import numpy as np
import pytest
import torch
from scipy.special import softmax

from skxlmr import XLMRXLQA, LoRA, XLMRXLClassifier, XLMRXLEmbedder, XLMRXLRegressor, XLMRXLTagger
from skxlmr.model import XLMRobertaXLModel, XLMRobertaXLTokenizer
from skxlmr.saving.serving.graph import trace

TEXTS = ["good", "bad film", "fine, and a longer text, for which others are padded", "", "很好看", "awful </s> <mask>"]
PAIRS = [list(pair) for pair in zip(TEXTS, TEXTS[::-1], strict=True)]
LABELS = ["yes", "no"] * 3
PLAIN = {"device": "cpu", "dtype": "float32"}
HEAD = {"tuning": "head", "max_epochs": 2, "random_state": 0, **PLAIN}
TOKENS = [["Ada", "lives", "in", "Rome"], ["罗马", "is", "old"], ["I", "saw", "Ada"]]
TAGS = [["B", "O", "O", "B"], ["B", "O", "O"], ["O", "O", "B"]]


def graph_and_tokenizer(estimator):
    served = estimator._served()
    base, tokenizer = served.weights.merged("float32", dequantized=True)
    return served.graph(base, tokenizer).eval(), tokenizer


@torch.no_grad()
def run(estimator, texts):
    """Run the graph of an estimator on texts with their prompts, or on pairs."""
    graph, tokenizer = graph_and_tokenizer(estimator)
    ids = []
    for row in texts:
        parts = [tokenizer.encode_batch([text])[0] for text in ([row] if isinstance(row, str) else row)]
        ids.append(torch.from_numpy(tokenizer.build_inputs(*parts)).long())
    ids = torch.nn.utils.rnn.pad_sequence(ids, batch_first=True, padding_value=1)
    return graph(ids, (ids != 1).long()).numpy()


@pytest.mark.parametrize(
    "parameters",
    [
        {"pooling": "mean", "normalize": True},
        {"pooling": "cls", "n_dims": 50},
        {"pooling": "max", "n_components": 3},
        {"pooling": "first_last_mean", "layer": 2},
        {"pooling": "mean_sqrt_len_tokens", "layer": 0},
        {"pooling": "weightedmean"},
        {"pooling": "lasttoken", "vocabulary": "trim"},
    ],
    ids=str,
)
def test_graph_of_embedder_equals_transform(parameters):
    embedder = XLMRXLEmbedder("nano", prompt="query: ", **parameters, **PLAIN).fit(TEXTS)
    vectors = run(embedder, [f"query: {text}" for text in TEXTS])
    np.testing.assert_allclose(vectors, embedder.transform(TEXTS), atol=2e-5)


@pytest.mark.parametrize("pooling", ["mean", "weightedmean", "cls", "max"])
def test_graph_without_tokens_of_prompt_equals_transform(pooling):
    embedder = XLMRXLEmbedder("nano", prompt="a long query: ", pooling=pooling, **PLAIN).fit(TEXTS)
    embedder._include_prompt = False  # as a directory of sentence-transformers may say
    vectors = run(embedder, [f"a long query: {text}" for text in TEXTS])
    np.testing.assert_allclose(vectors, embedder.transform(TEXTS), atol=2e-5)


@pytest.mark.parametrize("tuning", [LoRA(rank=3), "bias", "full"], ids=str)
def test_graph_of_classifier_with_each_tuning_equals_predict_proba(tuning):
    clf = XLMRXLClassifier("nano", **HEAD | {"tuning": tuning}).fit(TEXTS, LABELS)
    np.testing.assert_allclose(run(clf, TEXTS), clf.predict_proba(TEXTS), atol=2e-5)


@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_graph_of_classifier_with_several_labels_equals_predict_proba(pooling):
    clf = XLMRXLClassifier("nano", pooling=pooling, **HEAD).fit(TEXTS, [["a"], ["a", "b"]] * 3)
    np.testing.assert_allclose(run(clf, TEXTS), clf.predict_proba(TEXTS), atol=2e-5)
    assert clf._served().entries == {"classes": ["a", "b"], "multilabel": True}


def test_graph_of_joint_pairs_equals_predict_proba():
    clf = XLMRXLClassifier("nano", pairs="joint", **HEAD).fit(PAIRS, LABELS)
    np.testing.assert_allclose(run(clf, PAIRS), clf.predict_proba(PAIRS), atol=2e-5)


def test_graph_of_separate_pairs_takes_first_and_second_texts_in_turn():
    reg = XLMRXLRegressor("nano", pairs="separate", **HEAD).fit(PAIRS, np.arange(6.0))
    texts = [text for pair in PAIRS for text in pair]
    np.testing.assert_allclose(run(reg, texts), reg.predict(PAIRS), atol=5e-5)


@pytest.mark.parametrize("y", [np.arange(6.0) * 10 + 100, np.arange(12.0).reshape(6, 2)], ids=["one", "two"])
def test_graph_of_regressor_equals_predict(y):
    reg = XLMRXLRegressor("nano", **HEAD).fit(TEXTS, y)
    np.testing.assert_allclose(run(reg, TEXTS), reg.predict(TEXTS), rtol=1e-6, atol=5e-5)


def test_graph_of_tagger_returns_logits_of_pieces():
    tagger = XLMRXLTagger("nano", aggregation="first", **HEAD).fit(TOKENS, TAGS)
    logits = run(tagger, ["Ada lives in Rome", "I saw Ada"])
    for row, words in enumerate([TOKENS[0], TOKENS[2]]):
        pieces = graph_and_tokenizer(tagger)[1].encode_batch(words)
        firsts = 1 + np.cumsum([0, *map(len, pieces[:-1])])
        expected = tagger.predict_proba([words])[0]
        np.testing.assert_allclose(softmax(logits[row, firsts], axis=1), expected, atol=2e-5)


def test_export_of_what_has_no_graph_names_the_remedy():
    tagger = XLMRXLTagger("nano", aggregation="max", **HEAD).fit(TOKENS, TAGS)
    with pytest.raises(NotImplementedError, match="aggregation='mean'"):
        tagger._served()
    qa = XLMRXLQA("nano", tuning="head", max_epochs=1, **PLAIN)
    qa.fit([["who?", "Ada lives"]], ["Ada"])
    with pytest.raises(NotImplementedError, match="export_pretrained"):
        qa._served()


def test_graph_of_checkpoint_in_8_bits_has_its_weights_in_float32(tmp_path):
    model = XLMRobertaXLModel.from_pretrained("nano", load_in_8bit=True, device="cpu", add_pooling_layer=False)
    model.save_pretrained(tmp_path)
    XLMRobertaXLTokenizer.from_pretrained("nano").save_pretrained(tmp_path)
    embedder = XLMRXLEmbedder(tmp_path, normalize=True, device="cpu").fit(TEXTS)
    assert (run(embedder, TEXTS) * embedder.transform(TEXTS)).sum(axis=1).min() > 0.999


def test_trace_takes_any_number_of_texts_and_tokens():
    clf = XLMRXLClassifier("nano", pairs="separate", **HEAD).fit(PAIRS, LABELS)
    graph, _ = graph_and_tokenizer(clf)
    program = trace(graph).module()
    for n_pairs, length in ((2, 3), (3, 20)):
        ids = torch.randint(4, 100, (2 * n_pairs, length))
        with torch.no_grad():
            torch.testing.assert_close(program(ids, torch.ones_like(ids)), graph(ids, torch.ones_like(ids)))
