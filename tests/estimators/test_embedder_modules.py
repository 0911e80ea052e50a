"""Directories of sentence-transformers: the embedder gives the vectors of `SentenceTransformer.encode`."""

import json
import shutil

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer import modules as models

import skxlmr
from skxlmr import XLMRXLEmbedder
from skxlmr.checkpoints.errors import CheckpointError
from skxlmr.model import XLMRobertaXLModel, XLMRobertaXLTokenizer

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


def test_prompt_that_is_left_out_of_the_pooling_raises(base, tmp_path):
    model = saved(base, tmp_path, models.Pooling(WIDTH, include_prompt=False))
    assert_equal(tmp_path, model)
    with pytest.raises(CheckpointError, match=r"'Pooling'.*include_prompt=False"):
        XLMRXLEmbedder(tmp_path, prompt="query: ").fit(TEXTS)


@pytest.mark.parametrize(("kind", "place"), [("Router", 0), ("WordWeights", 2), ("CNN", 1)])
def test_other_modules_raise_with_their_name(kind, place, base, tmp_path):
    saved(base, tmp_path, models.Pooling(WIDTH), models.Normalize())
    path = tmp_path / "modules.json"
    modules = json.loads(path.read_text())
    modules.insert(place, {"idx": 2, "name": "2", "path": "2_Other", "type": f"sentence_transformers.models.{kind}"})
    path.write_text(json.dumps(modules))
    with pytest.raises(CheckpointError, match=f"a module '{kind}', which is not supported"):
        XLMRXLEmbedder(tmp_path).fit(TEXTS)
