"""Pooling, layers, normalisation, PCA and windows of the embedder, and its training."""

import pickle

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import normalize

import skxlmr
from skxlmr import Full, LoRA, XLMRXLEmbedder
from skxlmr.runtime.backbone import get_backbone
from skxlmr.runtime.finetuned import Finetuned
from skxlmr.training import Callback

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


# -- training -----------------------------------------------------------------------------------------------------

GOOD = ["good", "great", "lovely", "fine", "excellent", "superb", "nice", "pleasant"]
BAD = ["bad", "awful", "poor", "dull", "dreadful", "grim", "nasty", "boring"]
PHRASES = [f"a {word} {thing}" for word in GOOD + BAD for thing in ("film", "book")]
FEELINGS = ["good"] * 16 + ["bad"] * 16
PAIRS = [[f"a {one} film", f"a {two} film"] for one, two in zip(GOOD, BAD, strict=True)]
TRAINING = {"objective": "classes", "max_epochs": 2, "random_state": 0, "device": "cpu"}
ENOUGH = {"batch_size": 16, "max_epochs": 10, "learning_rate": 5e-3}  # for the small model to learn something


def train(X=PHRASES, y=FEELINGS, **parameters):
    return XLMRXLEmbedder("nano", **{**TRAINING, **parameters}).fit(X, y)


@pytest.fixture(scope="module")
def trained():
    return train(**ENOUGH)


def separation(vectors):
    """Mean cosine of two texts of a class, minus that of texts of both classes."""
    vectors = normalize(vectors)
    cosines, half = vectors @ vectors.T, len(vectors) // 2
    own = (cosines[:half, :half].mean() + cosines[half:, half:].mean()) / 2
    return own - cosines[:half, half:].mean()


def test_fit_without_objective_ignores_y_and_parameters_of_training():
    skxlmr.set_feature_cache(0)  # compute the vectors anew
    got = XLMRXLEmbedder("nano", tuning="full", max_epochs=3, learning_rate=1.0).fit(TEXTS, "no labels")
    np.testing.assert_array_equal(got.transform(TEXTS), embed())
    skxlmr.set_feature_cache()
    assert not hasattr(got, "_finetuned")
    assert not hasattr(got, "history_")


def test_fit_with_tuning_matters_only_with_objective():
    eight_bit = XLMRXLEmbedder("nano", tuning="full", load_in_8bit=True)
    assert eight_bit.fit(TEXTS).n_features_in_ == 1
    with pytest.raises(ValueError, match="tuning='full' trains every weight"):
        eight_bit.set_params(objective="classes").fit(PHRASES, FEELINGS)


def test_fit_with_classes_separates_them(trained):
    assert separation(trained.transform(PHRASES)) > separation(embed(PHRASES)) + 0.2
    assert trained.n_iter_ == len(trained.history_) == len(trained.loss_curve_) == 10
    assert trained.start_metrics_ is None
    assert trained.loss_curve_[-1] < trained.loss_curve_[0]


def test_fit_transform_equals_fit_and_transform(trained):
    got = clone(trained).fit_transform(PHRASES, FEELINGS)
    np.testing.assert_allclose(got, trained.transform(PHRASES), atol=1e-6)


def test_fit_does_not_depend_on_batch_tokens():
    long = [*PHRASES[:-1], "a boring book, " * 30]
    whole, cut = (train(long, max_length=32, stride=4, batch_tokens=tokens) for tokens in (100_000, 40))
    np.testing.assert_allclose(cut.loss_curve_, whole.loss_curve_, rtol=1e-5)
    np.testing.assert_allclose(cut.transform(long), whole.transform(long), atol=1e-5)


def test_fit_after_out_of_memory_in_micro_batches_gives_the_same_vectors(monkeypatch):
    expected = train().transform(PHRASES)
    embed_batch, sizes = Finetuned.embed, []

    def embed(self, backbone, batch, **kwargs):
        sizes.append(len(batch.windows))
        if len(batch.windows) > 8 and torch.is_grad_enabled():
            raise torch.OutOfMemoryError("too many")
        return embed_batch(self, backbone, batch, **kwargs)

    monkeypatch.setattr(Finetuned, "embed", embed)
    np.testing.assert_allclose(train().transform(PHRASES), expected, atol=1e-5)
    assert max(sizes) > 8


@pytest.mark.parametrize("how", ["pickle", "save"])
def test_trained_embedder_is_small_and_restores_vectors(trained, how, tmp_path):
    if how == "pickle":
        data = pickle.dumps(trained)
        assert len(data) < 1_000_000
        again = pickle.loads(data)
    else:
        trained.save(tmp_path)
        assert sum(path.stat().st_size for path in tmp_path.iterdir()) < 1_000_000
        again = skxlmr.load(tmp_path)
    np.testing.assert_array_equal(again.transform(PHRASES), trained.transform(PHRASES))
    assert again.loss_curve_ == trained.loss_curve_


def test_fit_that_fails_keeps_earlier_training(trained):
    model = pickle.loads(pickle.dumps(trained))
    with pytest.raises(ValueError, match="y, row 1"):
        model.fit(PHRASES[:2], ["good", None])
    with pytest.raises(FloatingPointError):
        model.set_params(learning_rate=1e30, max_grad_norm=None, warmup=0.0, lr_schedule="constant").fit(
            PHRASES, FEELINGS
        )
    np.testing.assert_array_equal(model.transform(PHRASES), trained.transform(PHRASES))


def test_fit_again_without_objective_forgets_training(trained):
    model = pickle.loads(pickle.dumps(trained)).set_params(objective=None).fit(PHRASES)
    np.testing.assert_array_equal(model.transform(PHRASES), embed(PHRASES))
    assert not hasattr(model, "history_")


def test_fit_with_warm_start_continues(trained):
    model = pickle.loads(pickle.dumps(trained)).set_params(warm_start=True, max_epochs=1).fit(PHRASES, FEELINGS)
    assert model.loss_curve_[0] < trained.loss_curve_[0]
    with pytest.raises(ValueError, match="pooling='mean', now it is 'max'"):
        model.set_params(pooling="max").fit(PHRASES, FEELINGS)


def test_fit_with_early_stopping_keeps_best_epoch():
    model = train(early_stopping=True, validation_fraction=0.25, max_epochs=3, learning_rate=2e-3)
    assert len(model.validation_scores_) == 3
    assert model.best_validation_score_ == max(model.validation_scores_)


def test_fit_resumes_from_checkpoint(tmp_path):
    class Stop(Callback):
        def on_step_end(self, trainer):
            if trainer.step == 3:
                raise RuntimeError("killed")

    expected = train(batch_size=8).transform(PHRASES)
    parameters = {"batch_size": 8, "checkpoint_dir": tmp_path, "checkpoint_steps": 1}
    with pytest.raises(RuntimeError, match="killed"):
        train(callbacks=[Stop()], **parameters)
    np.testing.assert_array_equal(train(**parameters).transform(PHRASES), expected)


@pytest.mark.parametrize("tuning", ["bias", LoRA(rank=2, layers=1), Full(layers=1)], ids=str)
def test_fit_with_other_tunings_changes_vectors(tuning):
    model = train(tuning=tuning, max_epochs=1, learning_rate=1e-3, batch_tokens=60)
    assert abs(model.transform(PHRASES) - embed(PHRASES)).max() > 1e-3


def test_fit_with_trimmed_vocabulary_gives_the_same_vectors(trained):
    model = clone(trained).set_params(vocabulary="trim").fit(PHRASES, FEELINGS)
    np.testing.assert_allclose(model.transform(PHRASES), trained.transform(PHRASES), atol=1e-5)


@pytest.mark.parametrize("pooling", ["max", "cls"])
def test_fit_with_other_poolings_learns(pooling):
    model = train(pooling=pooling, **ENOUGH)
    assert separation(model.transform(PHRASES)) > separation(embed(PHRASES, pooling=pooling)) + 0.1


def test_fit_with_pairs_brings_them_closer():
    first, second = map(list, zip(*PAIRS, strict=True))

    def rank_of_own(model):
        cosines = normalize(model.transform(first)) @ normalize(model.transform(second)).T
        return (cosines > np.diag(cosines)[:, None]).sum(1).mean()

    frozen = XLMRXLEmbedder("nano", device="cpu").fit(first)
    model = train(PAIRS, None, objective="pairs", max_epochs=10, learning_rate=2e-3)
    assert rank_of_own(model) < rank_of_own(frozen)


def test_fit_with_numbers_of_pairs_orders_their_cosines():
    X = [["a good film", f"a {word} film"] for word in GOOD[1:] + BAD]
    y = [5.0] * 7 + [-5.0] * 8

    model = train(X, y, objective="pairs", max_epochs=20, learning_rate=5e-3, normalize=True)
    one, two = np.split(model.transform(X), 2, axis=1)
    cosines = (one * two).sum(1)
    assert cosines[:7].min() > cosines[7:].max()


def test_transform_of_pairs_puts_vectors_side_by_side():
    model = train(PAIRS, None, objective="pairs", max_epochs=1, n_components=3, prompt="query: ")
    first, second = (model.transform([row[i] for row in PAIRS]) for i in (0, 1))
    both = model.transform(PAIRS)
    np.testing.assert_allclose(both, np.hstack([first, second]), atol=1e-5)
    np.testing.assert_allclose(clone(model).fit_transform(PAIRS), both, atol=1e-5)
    assert both.shape == (len(PAIRS), 6)
    assert len(model.get_feature_names_out()) == 6
    assert model.n_features_in_ == 2


def test_fit_with_classes_of_pairs_reads_them_together():
    model = train(PAIRS * 2, ["a", "b"] * 8, max_epochs=1)
    assert model.transform(PAIRS).shape == (len(PAIRS), 192)
    with pytest.raises(ValueError, match="features"):
        model.transform(PHRASES)


def test_transform_with_n_dims_returns_first_dimensions():
    plain = embed()
    np.testing.assert_array_equal(embed(n_dims=10), plain[:, :10])
    np.testing.assert_allclose(embed(n_dims=10, normalize=True), normalize(plain[:, :10]), atol=1e-6)
    reduced = XLMRXLEmbedder("nano", n_dims=10, n_components=2).fit(TEXTS)
    expected = PCA(2).fit(plain[:, :10])
    np.testing.assert_allclose(abs(reduced.pca_.components_), abs(expected.components_), atol=1e-3)
    assert len(XLMRXLEmbedder("nano", n_dims=10).fit(TEXTS).get_feature_names_out()) == 10


def test_fit_with_matryoshka_dims_improves_truncated_vectors():
    model = train(matryoshka_dims=(8,), **ENOUGH)
    assert separation(model.transform(PHRASES)[:, :8]) > separation(embed(PHRASES)[:, :8]) + 0.2
    assert model.transform(PHRASES).shape == (32, 192)
    assert train(n_dims=8).transform(PHRASES).shape == (32, 8)


def test_grid_search_over_tuning_and_objective_sets_parameters():
    pipeline = make_pipeline(XLMRXLEmbedder("nano", **{**TRAINING, "max_epochs": 1}), LogisticRegression())
    grid = {"xlmrxlembedder__tuning__rank": [1, 2]}
    search = GridSearchCV(pipeline, grid, cv=2).fit(PHRASES, FEELINGS)
    assert search.best_estimator_[0].tuning.rank in (1, 2)
    assert search.predict(PHRASES).shape == (32,)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"pooling": "first_last_mean"}, "use pooling='mean'"),
        ({"layer": 2}, r"use layer=-1 \(it is 2\)"),
        ({"scoring": "accuracy"}, "minus the loss"),
        ({"tuning": "head"}, "tuning='head' trains nothing here"),
        ({"n_dims": 193}, "n_dims=193, but the vectors of 'nano' have 192 dimensions"),
        ({"matryoshka_dims": (8, 193)}, "integers from 1 to 192, got 193"),
        ({"matryoshka_dims": (8, 2.5)}, "got 2.5"),
        ({"matryoshka_dims": (8,), "objective": None}, "matryoshka_dims needs an objective"),
        ({"objective": "pairs"}, "needs two columns of texts"),
        ({"objective": "triplets"}, "'objective' parameter"),
    ],
)
def test_fit_with_parameters_that_do_not_go_together_raises(parameters, message):
    with pytest.raises(ValueError, match=message):
        train(**parameters)


def test_fit_with_classes_without_y_raises():
    with pytest.raises(ValueError, match="objective='classes' requires y to be passed"):
        train(y=None)
