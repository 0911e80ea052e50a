"""Prompts by their names: the embedder gives the vectors of `encode_query` and `encode_document`."""

import json
import warnings

import numpy as np
import pandas as pd
import pytest
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Router
from sentence_transformers.sentence_transformer import modules as models
from sklearn.exceptions import NotFittedError

import skxlmr
from skxlmr import XLMRXLEmbedder
from skxlmr.model import XLMRobertaXLModel, XLMRobertaXLTokenizer

TEXTS = ["what is new?", "HELLO world", "a longer text, with more words", ""]
WIDTH = 192
PLAIN = {"device": "cpu", "dtype": "float32"}
PROMPTS = {"query": "Find: ", "document": "Text: ", "similar": "Same as: "}


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    directory = tmp_path_factory.mktemp("base")
    XLMRobertaXLModel.from_pretrained("nano", add_pooling_layer=False).save_pretrained(directory)
    XLMRobertaXLTokenizer.from_pretrained("nano").save_pretrained(directory)
    return directory


def saved(base, directory, prompts, pooling=None, **options):
    """Save a model of sentence-transformers whose file has these prompts and no others; load it."""
    modules = [models.Transformer(str(base)), pooling or models.Pooling(WIDTH)]
    SentenceTransformer(modules=modules, device="cpu", prompts=prompts, **options).save(str(directory))
    path = directory / "config_sentence_transformers.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "prompts": prompts}))
    return SentenceTransformer(str(directory), device="cpu")


def assert_same_methods(embedder, model):
    """Compare the vectors of texts without a task, of queries and of documents."""
    np.testing.assert_allclose(embedder.transform(TEXTS), model.encode(TEXTS), atol=1e-5)
    np.testing.assert_allclose(embedder.encode_query(TEXTS), model.encode_query(TEXTS), atol=1e-5)
    np.testing.assert_allclose(embedder.encode_document(TEXTS), model.encode_document(TEXTS), atol=1e-5)


@pytest.mark.parametrize(
    ("prompts", "options"),
    [
        (PROMPTS, {}),
        (PROMPTS, {"default_prompt_name": "similar"}),
        ({"similar": "Same as: "}, {"default_prompt_name": "similar"}),
        ({"query": "Find: "}, {}),
        ({}, {}),
        (PROMPTS, {"pooling": models.Pooling(WIDTH, include_prompt=False)}),
    ],
    ids=["all", "default", "without query", "query only", "none", "prompt not pooled"],
)
def test_queries_and_documents_equal_sentence_transformers(prompts, options, base, tmp_path):
    model = saved(base, tmp_path, prompts, **options)
    embedder = XLMRXLEmbedder(tmp_path, **PLAIN).fit(TEXTS)
    assert_same_methods(embedder, model)
    for name in prompts:
        expected = model.encode(TEXTS, prompt_name=name)
        np.testing.assert_allclose(embedder.transform(TEXTS, prompt_name=name), expected, atol=1e-5)
        np.testing.assert_allclose(embedder.encode_query(TEXTS, prompt_name=name), expected, atol=1e-5)


def test_passage_prompt_is_not_used_unless_it_is_named_and_a_warning_says_so(base, tmp_path):
    model = saved(base, tmp_path, {"query": "query: ", "passage": "passage: "})
    embedder = XLMRXLEmbedder(tmp_path, **PLAIN).fit(TEXTS)
    with pytest.warns(UserWarning, match="pass prompt_name='passage' to use it"):
        vectors = embedder.encode_document(TEXTS)
    np.testing.assert_allclose(vectors, model.encode_document(TEXTS), atol=1e-5)
    expected = model.encode(TEXTS, prompt_name="passage")
    np.testing.assert_allclose(embedder.encode_document(TEXTS, prompt_name="passage"), expected, atol=1e-5)


def test_e5_has_its_two_prompts():
    embedder = XLMRXLEmbedder("e5-small", **PLAIN).fit(TEXTS)
    by_hand = {prompt: XLMRXLEmbedder("e5-small", prompt=prompt, **PLAIN).fit(TEXTS) for prompt in ("passage: ", None)}
    np.testing.assert_array_equal(embedder.encode_query(TEXTS), embedder.transform(TEXTS))
    np.testing.assert_array_equal(embedder.encode_document(TEXTS), by_hand["passage: "].transform(TEXTS))
    np.testing.assert_array_equal(by_hand[None].encode_query(TEXTS), embedder.transform(TEXTS))
    assert not np.allclose(by_hand[None].transform(TEXTS), embedder.transform(TEXTS))


def test_unknown_name_raises_and_lists_the_names(base, tmp_path):
    saved(base, tmp_path, PROMPTS)
    embedder = XLMRXLEmbedder(tmp_path, **PLAIN).fit(TEXTS)
    for method in (embedder.transform, embedder.encode_query, embedder.encode_document):
        with pytest.raises(ValueError, match=r"prompt_name='other'.*'document', 'query', 'similar'"):
            method(TEXTS, prompt_name="other")
        with pytest.raises(TypeError, match="prompt_name must be a str"):
            method(TEXTS, prompt_name=1)
    with pytest.raises(ValueError, match="no named prompts"):
        XLMRXLEmbedder("nano").fit(TEXTS).transform(TEXTS, prompt_name="query")
    with pytest.raises(NotFittedError):
        XLMRXLEmbedder("nano").encode_query(TEXTS)


def test_model_without_named_prompts_reads_all_texts_with_its_prompt():
    embedder = XLMRXLEmbedder("nano", prompt="find: ", **PLAIN).fit(TEXTS)
    assert embedder.prompts_ == {}
    np.testing.assert_array_equal(embedder.encode_document(TEXTS), embedder.transform(TEXTS))


def test_trained_model_reads_queries_and_documents_as_in_training(base, tmp_path):
    saved(base, tmp_path / "model", PROMPTS)
    embedder = XLMRXLEmbedder(
        tmp_path / "model", objective="pairs", prompt="x: ", max_epochs=1, random_state=0, **PLAIN
    )
    embedder.fit([["a", "b"], ["c", "d"]] * 4)
    np.testing.assert_array_equal(embedder.encode_query(TEXTS), embedder.transform(TEXTS))
    np.testing.assert_array_equal(embedder.encode_document(TEXTS), embedder.transform(TEXTS))


def test_names_of_columns_are_those_of_any_frame():
    embedder = XLMRXLEmbedder("nano", **PLAIN).fit(pd.DataFrame({"document": TEXTS}))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        vectors = embedder.encode_query(pd.DataFrame({"question": TEXTS}))
    np.testing.assert_array_equal(vectors, embedder.encode_query(TEXTS))
    with pytest.raises(ValueError, match="2 features"):
        embedder.encode_query([["a", "b"]])


@pytest.mark.parametrize("prompt", ["auto", None])
def test_save_and_export_keep_the_prompts(prompt, base, tmp_path):
    saved(base, tmp_path / "model", PROMPTS, default_prompt_name="similar")
    embedder = XLMRXLEmbedder(tmp_path / "model", prompt=prompt, **PLAIN).fit(TEXTS)
    embedder.save(tmp_path / "saved")
    loaded = skxlmr.load(tmp_path / "saved")
    assert loaded.prompts_ == embedder.prompts_
    np.testing.assert_array_equal(loaded.encode_query(TEXTS), embedder.encode_query(TEXTS))
    embedder.export_pretrained(tmp_path / "exported")
    assert_same_methods(embedder, SentenceTransformer(str(tmp_path / "exported"), device="cpu"))
    again = XLMRXLEmbedder(tmp_path / "exported", **PLAIN).fit(TEXTS)
    np.testing.assert_allclose(again.encode_document(TEXTS), embedder.encode_document(TEXTS), atol=1e-5)
    np.testing.assert_allclose(
        again.transform(TEXTS, prompt_name="similar"), embedder.transform(TEXTS, prompt_name="similar"), atol=1e-5
    )


def test_estimator_of_an_earlier_version_finds_the_prompts_of_its_model():
    embedder = XLMRXLEmbedder("e5-small", **PLAIN).fit(TEXTS)
    expected = embedder.encode_document(TEXTS)
    del embedder.prompts_
    np.testing.assert_array_equal(embedder.encode_document(TEXTS), expected)


def test_trimmed_vocabulary_keeps_the_pieces_of_all_prompts():
    trimmed = XLMRXLEmbedder("e5-small", vocabulary="trim", **PLAIN).fit(TEXTS)
    whole = XLMRXLEmbedder("e5-small", **PLAIN).fit(TEXTS)
    np.testing.assert_allclose(trimmed.encode_document(TEXTS), whole.encode_document(TEXTS), atol=1e-5)


def test_router_with_modules_for_a_task_raises_for_that_task_only(base, tmp_path):
    transformer = models.Transformer(str(base))
    router = Router.for_query_document(
        [transformer, models.Pooling(WIDTH)], [transformer, models.Pooling(WIDTH, "cls")], default_route="document"
    )
    SentenceTransformer(modules=[router], device="cpu").save(str(tmp_path))
    model = SentenceTransformer(str(tmp_path), device="cpu")
    embedder = XLMRXLEmbedder(tmp_path, **PLAIN).fit(TEXTS)
    np.testing.assert_allclose(embedder.encode_document(TEXTS), model.encode_document(TEXTS), atol=1e-5)
    with pytest.raises(NotImplementedError, match=r"Router.*task 'query'"):
        embedder.encode_query(TEXTS)
