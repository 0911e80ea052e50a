"""Pooling, layers, normalisation, PCA and windows of the embedder."""

import numpy as np
import pytest
import torch

from skxlmr import XLMRXLEmbedder
from skxlmr.runtime.backbone import get_backbone

TEXTS = ["good morning", "", "早上好", "a somewhat longer sentence, for the sake of raggedness", "good morning"]


def embed(texts=TEXTS, **parameters):
    return XLMRXLEmbedder(model="nano", **parameters).fit_transform(texts)


@pytest.fixture(scope="module")
def states():
    """Hidden states of all layers for each text, from the padded model."""
    nano = get_backbone("nano")
    result = []
    for text in TEXTS:
        ids = nano.tokenizer(text, return_tensors="pt")["input_ids"]
        with torch.no_grad():
            result.append([x[0].numpy() for x in nano.model(ids, output_hidden_states=True).hidden_states])
    return result


@pytest.mark.parametrize("layer", [-1, 0, 2, 4, -2])
@pytest.mark.parametrize("pooling", ["mean", "max", "cls"])
def test_transform_with_pooling_and_layer_equals_padded_model(states, pooling, layer):
    how = {"mean": lambda x: x.mean(0), "max": lambda x: x.max(0), "cls": lambda x: x[0]}[pooling]
    expected = np.stack([how(of_text[layer]) for of_text in states])
    got = embed(pooling=pooling, layer=layer)
    # Only the last layer is normalised: states of lower layers may be large.
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-5 * max(1, abs(expected).max()))
    assert got.dtype == np.float32


def test_transform_with_first_last_mean_averages_first_and_last_layer(states):
    expected = np.stack([((of_text[1] + of_text[-1]) / 2).mean(0) for of_text in states])
    got = embed(pooling="first_last_mean")
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-5 * max(1, abs(expected).max()))


def test_transform_with_normalize_returns_unit_vectors():
    plain, scaled = embed(), embed(normalize=True)
    np.testing.assert_allclose(np.linalg.norm(scaled, axis=1), 1, rtol=1e-6)
    np.testing.assert_allclose(scaled * np.linalg.norm(plain, axis=1, keepdims=True), plain, atol=1e-5)


def test_fit_with_n_components_fits_pca_on_training_texts():
    embedder = XLMRXLEmbedder(model="nano", n_components=2, random_state=0).fit(TEXTS)
    assert embedder.transform(["something new"]).shape == (1, 2)
    assert embedder.get_feature_names_out().tolist() == ["xlmrxlembedder0", "xlmrxlembedder1"]
    plain = embed()
    centred = plain - plain.mean(0)
    expected = np.linalg.svd(centred, full_matrices=False)[1][:2]
    np.testing.assert_allclose(embedder.pca_.singular_values_, expected, rtol=1e-3)
    assert embedder.transform(TEXTS).dtype == np.float32


def test_transform_of_long_text_equals_token_weighted_mean_over_windows():
    nano = get_backbone("nano")
    text = "one of many words in this text " * 30
    got = embed([text], max_length=32, stride=8)[0]
    windows = nano.tokenizer.windows(nano.tokenizer.encode_batch([text])[0], max_length=32, stride=8)
    total, tokens = 0, 0
    with torch.no_grad():
        for window in windows:
            ids = torch.from_numpy(window.input_ids.astype(np.int64))[None]
            total = total + nano.model(ids).last_hidden_state[0].sum(0).numpy()
            tokens += ids.shape[1]
    assert len(windows) > 2
    np.testing.assert_allclose(got, total / tokens, atol=1e-5)


def test_transform_in_bfloat16_is_close_to_float32():
    got = embed(dtype="bfloat16", normalize=True)
    assert got.dtype == np.float32
    assert (got * embed(normalize=True)).sum(1).min() > 0.99


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"layer": 5}, "layer=5, but 'nano' has layers 0 to 4"),
        ({"layer": -6}, "layer=-6"),
        ({"n_components": 6}, "use at most 5"),
        ({"pooling": "median"}, "'pooling' parameter"),
        ({"max_length": 1000}, "at most 512"),
    ],
)
def test_fit_with_invalid_parameters_raises(parameters, message):
    with pytest.raises(ValueError, match=message):
        embed(**parameters)
