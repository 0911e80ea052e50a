"""Directories of sentence-transformers: the embedder gives the vectors of `SentenceTransformer.encode`."""

import json
import pickle
import shutil

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Router
from sentence_transformers.sentence_transformer import modules as models

import skxlmr
from skxlmr import XLMRXLClassifier, XLMRXLEmbedder, XLMRXLRegressor
from skxlmr.checkpoints.errors import CheckpointError
from skxlmr.model import XLMRobertaXLModel, XLMRobertaXLTokenizer
from skxlmr.runtime.backbone import get_backbone

TEXTS = ["HELLO World", "hello world", "a longer text, with more words", ""]
WIDTH = 192


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    directory = tmp_path_factory.mktemp("base")
    XLMRobertaXLModel.from_pretrained("nano", add_pooling_layer=False).save_pretrained(directory)
    XLMRobertaXLTokenizer.from_pretrained("nano").save_pretrained(directory)
    return directory


def saved(base, directory, *modules, do_lower_case=False, **options):
    torch.manual_seed(0)
    model = SentenceTransformer(modules=[models.Transformer(str(base)), *modules], device="cpu", **options)
    model.save(str(directory))
    if do_lower_case:
        path = directory / "sentence_bert_config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), "do_lower_case": True}))
    return SentenceTransformer(str(directory), device="cpu")


def assert_equal(directory, model, texts=TEXTS, **parameters):
    embedder = XLMRXLEmbedder(directory, dtype="float32", device="cpu", **parameters).fit(texts)
    np.testing.assert_allclose(embedder.transform(texts), model.encode(texts), atol=1e-5)
    return embedder


@pytest.mark.parametrize(
    "mode",
    ["cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken", ("cls", "mean"), ("max", "lasttoken")],
    ids=str,
)
def test_each_pooling_equals_encode(mode, base, tmp_path):
    model = saved(base, tmp_path, models.Pooling(WIDTH, pooling_mode=mode), models.Normalize())
    embedder = assert_equal(tmp_path, model)
    assert embedder.normalize_
    assert len(embedder.get_feature_names_out()) == model.encode(["a"]).shape[1]


@pytest.mark.parametrize(
    "modules",
    [
        lambda: [models.Dense(WIDTH, 7)],
        lambda: [models.Dense(WIDTH, 7, bias=False, activation_function=torch.nn.GELU()), models.Dropout(0.5)],
        lambda: [models.Normalize(), models.Dense(WIDTH, WIDTH, use_residual=True), models.LayerNorm(WIDTH)],
        lambda: [models.Dense(WIDTH, 7, use_residual=True, activation_function=None), models.Normalize()],
    ],
    ids=["dense", "dropout", "layer norm", "residual"],
)
def test_modules_after_pooling_equal_encode(modules, base, tmp_path):
    model = saved(base, tmp_path / "model", models.Pooling(WIDTH), *modules())
    embedder = assert_equal(tmp_path / "model", model)
    embedder.save(tmp_path / "saved")
    np.testing.assert_array_equal(skxlmr.load(tmp_path / "saved").transform(TEXTS), embedder.transform(TEXTS))
    assert XLMRXLEmbedder(tmp_path / "model", pooling="mean").fit(TEXTS).transform(TEXTS).shape == (4, WIDTH)
    with pytest.raises(ValueError, match="pooling='mean'"):
        XLMRXLEmbedder(tmp_path / "model", objective="classes").fit(TEXTS, [0, 0, 1, 1])


def test_lower_case_and_truncated_vectors_equal_encode(base, tmp_path):
    options = {"truncate_dim": 8, "do_lower_case": True, "prompts": {"q": "Query: "}, "default_prompt_name": "q"}
    model = saved(base, tmp_path, models.Pooling(WIDTH), models.Normalize(), **options)
    assert model.truncate_dim == 8
    embedder = assert_equal(tmp_path, model)
    assert embedder.prompt_ == "Query: "
    first, second, *_ = embedder.transform(TEXTS)
    np.testing.assert_array_equal(first, second)
    assert XLMRXLEmbedder(tmp_path, n_dims=3).fit(TEXTS).transform(TEXTS).shape == (4, 3)


def test_truncation_to_more_dimensions_than_there_are_keeps_all(base, tmp_path):
    model = saved(base, tmp_path / "model", models.Pooling(WIDTH), truncate_dim=1000)
    embedder = assert_equal(tmp_path / "model", model)
    embedder.save(tmp_path / "saved")
    assert skxlmr.load(tmp_path / "saved").transform(TEXTS).shape == (4, WIDTH)


def test_old_layout_is_read_from_outside_and_inside(base, tmp_path):
    model = saved(base, tmp_path, models.Pooling(WIDTH, pooling_mode="cls"), models.Normalize())
    inside = tmp_path / "0_Transformer"
    inside.mkdir()
    for path in list(tmp_path.iterdir()):
        if path.is_file() and path.name not in ("modules.json", "config_sentence_transformers.json", "README.md"):
            shutil.move(path, inside)
    modules = json.loads((tmp_path / "modules.json").read_text())
    modules[0].update(path="0_Transformer", type="sentence_transformers.models.Transformer")
    (tmp_path / "modules.json").write_text(json.dumps(modules))
    (tmp_path / "1_Pooling" / "config.json").write_text(json.dumps({"pooling_mode_cls_token": True}))
    for directory in (tmp_path, inside):
        assert assert_equal(directory, model).pooling_ == "cls"


@pytest.mark.parametrize("mode", ["mean", "cls", "max", ("mean_sqrt_len_tokens", "weightedmean", "lasttoken")], ids=str)
def test_prompt_that_is_left_out_of_the_pooling_equals_encode(mode, base, tmp_path):
    pooling = models.Pooling(WIDTH, pooling_mode=mode, include_prompt=False)
    model = saved(base, tmp_path, pooling, prompts={"q": "Represent this: "}, default_prompt_name="q")
    embedder = assert_equal(tmp_path, model)
    included = XLMRXLEmbedder(tmp_path, pooling="mean", dtype="float32", device="cpu").fit(TEXTS)
    assert included.prompt_ == embedder.prompt_ == "Represent this: "
    assert abs(included.transform(TEXTS) - embedder.transform(TEXTS)[:, :WIDTH]).max() > 1e-3
    trimmed = XLMRXLEmbedder(tmp_path, vocabulary="trim", dtype="float32", device="cpu").fit(TEXTS)
    np.testing.assert_allclose(trimmed.transform(TEXTS), model.encode(TEXTS), atol=1e-5)
    np.testing.assert_allclose(
        XLMRXLEmbedder(tmp_path, prompt="x: ", dtype="float32").fit(TEXTS).transform(TEXTS),
        model.encode(TEXTS, prompt="x: "),
        atol=1e-5,
    )
    np.testing.assert_allclose(
        XLMRXLEmbedder(tmp_path, prompt=None, dtype="float32").fit(TEXTS).transform(TEXTS),
        model.encode(TEXTS, prompt=""),
        atol=1e-5,
    )


def test_prompt_that_is_left_out_counts_in_no_window(base, tmp_path):
    saved(
        base, tmp_path, models.Pooling(WIDTH, include_prompt=False), prompts={"q": "Query: "}, default_prompt_name="q"
    )
    nano, text = get_backbone("nano"), "one of many words in this text " * 9
    embedder = XLMRXLEmbedder(tmp_path, max_length=16, stride=3, device="cpu").fit([text])
    ids, n_prompt = (nano.tokenizer.encode_batch([part])[0] for part in ("Query: " + text, "Query: "))
    total, tokens = 0, 0
    for window in nano.tokenizer.windows(ids, max_length=16, stride=3):
        with torch.no_grad():
            states = nano.model(torch.from_numpy(window.input_ids.astype(np.int64))[None]).last_hidden_state[0].numpy()
        kept = states[1 + max(0, len(n_prompt) - window.start) :]
        total, tokens = total + kept.sum(0), tokens + len(kept)
    np.testing.assert_allclose(embedder.transform([text])[0], total / tokens, atol=1e-5)


def test_objective_trains_and_reads_without_the_prompt(base, tmp_path):
    saved(
        base, tmp_path, models.Pooling(WIDTH, include_prompt=False), prompts={"q": "Query: "}, default_prompt_name="q"
    )
    pairs = [["a cat", "the cats"], ["a dog", "the dogs"], ["rain", "wet outside"], ["sun", "warm"]]
    embedder = XLMRXLEmbedder(
        tmp_path, objective="pairs", tuning="full", max_epochs=1, max_length=8, dtype="float32", random_state=0
    ).fit(pairs)
    embedder.set_params(max_length=None).export_pretrained(tmp_path / "out")
    texts = [text for pair in pairs for text in pair]
    got = SentenceTransformer(str(tmp_path / "out"), device="cpu").encode(texts)
    np.testing.assert_allclose(got, embedder.transform(texts), atol=1e-5)


@pytest.mark.parametrize("written_by", ["new", "old"])
def test_windows_have_the_length_that_the_model_was_trained_with(written_by, base, tmp_path):
    model = saved(base, tmp_path, models.Pooling(WIDTH))
    if written_by == "new":
        model.max_seq_length = 24
        model.save(str(tmp_path))
        assert "max_seq_length" not in (tmp_path / "sentence_bert_config.json").read_text()
    else:
        (tmp_path / "sentence_bert_config.json").write_text('{"max_seq_length": 24}')
        model = SentenceTransformer(str(tmp_path), device="cpu")
    assert model.max_seq_length == 24
    long = "one of many words in this text " * 9
    assert assert_equal(tmp_path, model).max_length_ == 24
    with pytest.warns(UserWarning, match="cut at 24 tokens"):
        assert_equal(tmp_path, model, [*TEXTS, long], truncation=True)
    settings = {"dtype": "float32", "device": "cpu"}
    windows = XLMRXLEmbedder(tmp_path, **settings).fit([long]).transform([long])
    np.testing.assert_array_equal(
        windows, XLMRXLEmbedder(tmp_path, max_length=24, **settings).fit([long]).transform([long])
    )
    whole = XLMRXLEmbedder(tmp_path, max_length=512, **settings).fit([long])
    np.testing.assert_allclose(
        whole.transform([long]), XLMRXLEmbedder(base, **settings).fit([long]).transform([long]), atol=1e-5
    )
    assert abs(whole.transform([long]) - windows).max() > 1e-3


def test_router_whose_routes_share_a_transformer_is_read_by_its_default_route(base, tmp_path):
    transformer, mean = models.Transformer(str(base)), models.Pooling(WIDTH)
    router = Router.for_query_document([transformer, mean], [transformer, models.Pooling(WIDTH, "cls")])
    SentenceTransformer(modules=[router, models.Normalize()], device="cpu").save(str(tmp_path))
    model = SentenceTransformer(str(tmp_path), device="cpu")
    assert assert_equal(tmp_path, model).pooling_ == "cls"
    inside = tmp_path / "query_0_Transformer"
    assert assert_equal(inside, model).normalize_
    queries = XLMRXLEmbedder(inside, pooling="mean", dtype="float32", device="cpu").fit(TEXTS)
    np.testing.assert_allclose(queries.transform(TEXTS), model.encode_query(TEXTS), atol=1e-5)


def test_router_without_default_route_or_transformer_raises_and_says_what_to_do(base, tmp_path):
    transformer = models.Transformer(str(base))
    router = Router(
        {"query": [transformer, models.Pooling(WIDTH)], "passage": [transformer, models.Pooling(WIDTH, "max")]},
        allow_empty_key=False,
    )
    SentenceTransformer(modules=[router], device="cpu").save(str(tmp_path))
    with pytest.raises(CheckpointError, match=r"holds a Router.*Give the folder of one of its transformers"):
        XLMRXLEmbedder(tmp_path).fit(TEXTS)
    inside = XLMRXLEmbedder(tmp_path / "query_0_Transformer", dtype="float32", device="cpu").fit(TEXTS)
    expected = SentenceTransformer(str(tmp_path), device="cpu").encode(TEXTS, task="query")
    np.testing.assert_allclose(inside.transform(TEXTS), expected, atol=1e-5)
    path = tmp_path / "router_config.json"
    config = json.loads(path.read_text())
    config["parameters"]["default_route"] = "elsewhere"
    path.write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="no modules of the route 'elsewhere'"):
        XLMRXLEmbedder(tmp_path).fit(TEXTS)


@pytest.mark.parametrize(("kind", "place"), [("WordWeights", 2), ("CNN", 1)])
def test_other_modules_raise_with_their_name(kind, place, base, tmp_path):
    saved(base, tmp_path, models.Pooling(WIDTH), models.Normalize())
    path = tmp_path / "modules.json"
    modules = json.loads(path.read_text())
    modules.insert(place, {"idx": 2, "name": "2", "path": "2_Other", "type": f"sentence_transformers.models.{kind}"})
    path.write_text(json.dumps(modules))
    with pytest.raises(CheckpointError, match=f"a module '{kind}', which is not supported"):
        XLMRXLEmbedder(tmp_path).fit(TEXTS)


def head_on(directory, vectors, **parameters):
    """Fit a head on a directory; return its logits, and those of its weights on vectors."""
    clf = XLMRXLClassifier(directory, tuning="head", dtype="float32", device="cpu", random_state=0, **parameters)
    clf.fit(TEXTS, ["a", "a", "b", "b"])
    head = clf._finetuned.head
    if head.normalize:
        vectors = vectors * vectors.shape[1] ** 0.5
    return clf, vectors @ head.linear.weight.detach().numpy().T + head.linear.bias.detach().numpy()


@pytest.mark.parametrize(
    ("pooling", "modules", "options"),
    [
        ("lasttoken", lambda: [models.Normalize()], {}),
        ("weightedmean", lambda: [models.Dense(WIDTH, 7), models.Normalize()], {}),
        (("cls", "mean"), lambda: [models.Dense(2 * WIDTH, 7), models.LayerNorm(7)], {}),
        ("cls", lambda: [models.Dense(WIDTH, 7)], {}),
        (("mean", "cls"), lambda: [models.Normalize()], {"truncate_dim": 5}),
    ],
    ids=["last token", "dense", "layer norm", "cls", "truncated"],
)
def test_head_reads_the_vectors_of_encode_and_is_exported(pooling, modules, options, base, tmp_path):
    model = saved(base, tmp_path / "model", models.Pooling(WIDTH, pooling_mode=pooling), *modules(), **options)
    clf, expected = head_on(tmp_path / "model", model.encode(TEXTS))
    np.testing.assert_allclose(clf._outputs(TEXTS), expected, atol=2e-5)
    clf.save(tmp_path / "saved")
    for other in (pickle.loads(pickle.dumps(clf)), skxlmr.load(tmp_path / "saved")):
        np.testing.assert_array_equal(other.predict_proba(TEXTS), clf.predict_proba(TEXTS))
    clf.export_pretrained(tmp_path / "out")
    exported = SentenceTransformer(str(tmp_path / "out"), device="cpu").encode(TEXTS)
    np.testing.assert_allclose(exported, clf._outputs(TEXTS), atol=2e-5)


def test_head_on_dense_layers_with_lora_and_separate_pairs(base, tmp_path):
    saved(base, tmp_path / "model", models.Pooling(WIDTH), models.Dense(WIDTH, 7), models.Normalize())
    settings = {"dtype": "float32", "device": "cpu", "random_state": 0, "max_epochs": 1, "warm_start": True}
    clf = XLMRXLClassifier(tmp_path / "model", **settings).fit(TEXTS, ["a", "a", "b", "b"])
    assert clf._finetuned.head.linear.in_features == 7
    assert clf.fit(TEXTS, ["a", "a", "b", "b"]).n_iter_ == 1
    clf.export_pretrained(tmp_path / "out")
    exported = SentenceTransformer(str(tmp_path / "out"), device="cpu").encode(TEXTS)
    np.testing.assert_allclose(exported, clf._outputs(TEXTS), atol=2e-5)
    pairs = [[text, "hello"] for text in TEXTS]
    reg = XLMRXLRegressor(tmp_path / "model", **settings).fit(pairs, [0.0, 1.0, 2.0, 3.0])
    assert reg.pairs_ == "separate"
    assert reg._finetuned.head.linear.in_features == 4 * 7


def test_head_leaves_the_prompt_out_where_the_model_does(base, tmp_path):
    options = {"prompts": {"q": "Query: "}, "default_prompt_name": "q"}
    model = saved(base, tmp_path / "model", models.Pooling(WIDTH, "cls", include_prompt=False), **options)
    clf, expected = head_on(tmp_path / "model", model.encode(TEXTS))
    np.testing.assert_allclose(clf._outputs(TEXTS), expected, atol=2e-5)
    clf.export_pretrained(tmp_path / "out")
    exported = SentenceTransformer(str(tmp_path / "out"), device="cpu").encode(TEXTS)
    np.testing.assert_allclose(exported, expected, atol=2e-5)


def test_estimators_of_earlier_versions_have_no_layers_and_windows_of_512(base, tmp_path):
    saved(base, tmp_path / "model", models.Pooling(WIDTH), models.Normalize())
    clf, _ = head_on(tmp_path / "model", np.zeros((4, WIDTH)))
    embedder = XLMRXLEmbedder(tmp_path / "model", dtype="float32").fit(TEXTS)
    expected = clf.predict_proba(TEXTS), embedder.transform(TEXTS)
    for estimator, names in ((clf, ("_layers", "_include_prompt")), (embedder, ("_after_pooling", "_include_prompt"))):
        for name in (*names, "max_length_"):
            delattr(estimator, name)
        estimator.save(tmp_path / type(estimator).__name__)
    clf, embedder = (skxlmr.load(tmp_path / type(estimator).__name__) for estimator in (clf, embedder))
    np.testing.assert_array_equal(clf.predict_proba(TEXTS), expected[0])
    np.testing.assert_array_equal(embedder.transform(TEXTS), expected[1])
    assert clf._task().windows.default(clf._fitted_backbone()) == 512


def test_damaged_layers_of_saved_estimators_raise(base, tmp_path):
    saved(base, tmp_path / "model", models.Pooling(WIDTH), models.Dense(WIDTH, 7))
    clf, _ = head_on(tmp_path / "model", np.zeros((4, 7)))
    embedder = XLMRXLEmbedder(tmp_path / "model", dtype="float32").fit(TEXTS)
    whole = clf._layers[0]
    for change, message in (
        ({"kind": "Exec"}, "layer 0.kind must be"),
        ({"activation": "Module"}, "layer 0.activation must be"),
        ({"weight": np.zeros((7, WIDTH))}, "layer 0.weight must be a matrix of float32"),
        ({"weight": np.zeros((6, WIDTH), np.float32)}, "shapes do not fit together"),
        ({"residual": True}, "shapes do not fit together"),
    ):
        clf._layers = embedder._after_pooling = ({**whole, **change},)
        for estimator in (clf, embedder):
            estimator.save(tmp_path / "saved")
            with pytest.raises(CheckpointError, match=message):
                skxlmr.load(tmp_path / "saved")


def test_layers_that_do_not_fit_raise(base, tmp_path):
    saved(base, tmp_path, models.Pooling(WIDTH), models.Dense(WIDTH, 7))
    path = tmp_path / "1_Pooling" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "pooling_mode": ["cls", "mean"]}))
    for estimator in (XLMRXLEmbedder(tmp_path), XLMRXLClassifier(tmp_path, tuning="head")):
        with pytest.raises(ValueError, match="a Dense, takes vectors of 192 dimensions, but these have 384"):
            estimator.fit(TEXTS, [0, 0, 1, 1])
