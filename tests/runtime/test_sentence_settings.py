"""How a checkpoint turns a text into a vector, by its own files."""

import json
import shutil

import pytest

from skxlmr.checkpoints.errors import CheckpointError
from skxlmr.checkpoints.resolve import resolve
from skxlmr.runtime.sentence_settings import E5_PROMPTS, SentenceSettings, is_e5, read_sentence_settings


@pytest.fixture
def directory(tmp_path):
    shutil.copytree(resolve("nano").directory, tmp_path / "model")
    return tmp_path / "model"


def write_modules(directory, *kinds):
    modules = [{"type": f"sentence_transformers.models.{kind}", "path": f"{i}_{kind}"} for i, kind in enumerate(kinds)]
    (directory / "modules.json").write_text(json.dumps(modules))


def test_masked_language_model_is_read_by_its_mean():
    assert read_sentence_settings("nano") == SentenceSettings("mean", False, "", False)


def test_e5_small_has_its_own_settings():
    assert read_sentence_settings("e5-small") == SentenceSettings("mean", True, "query: ", True, prompts=E5_PROMPTS)


def test_sentence_model_is_read_by_its_modules_and_prompt(directory):
    write_modules(directory, "Transformer", "Pooling", "Normalize")
    (directory / "1_Pooling").mkdir()
    (directory / "1_Pooling" / "config.json").write_text('{"pooling_mode_cls_token": true}')
    (directory / "config_sentence_transformers.json").write_text(
        '{"prompts": {"q": "search: "}, "default_prompt_name": "q"}'
    )
    prompts = {"query": "", "document": "", "q": "search: "}
    expected = SentenceSettings("cls", True, "search: ", True, max_length=512, prompts=prompts)
    assert read_sentence_settings(directory) == expected


@pytest.mark.parametrize(("kind", "expected"), [("CrossEncoder", False), ("SentenceTransformer", True), (None, True)])
def test_cross_encoder_reads_pairs_together_by_default(directory, kind, expected):
    write_modules(directory, "Transformer")
    content = {"activation_fn": "torch.nn.modules.activation.Sigmoid"} | ({} if kind is None else {"model_type": kind})
    (directory / "config_sentence_transformers.json").write_text(json.dumps(content))
    assert read_sentence_settings(directory).is_sentence_model is expected


def test_unsupported_modules_raise_only_where_their_pooling_is_needed(directory):
    write_modules(directory, "Transformer", "LSTM")
    with pytest.raises(CheckpointError, match="LSTM"):
        read_sentence_settings(directory)
    assert read_sentence_settings(directory, needs_pooling=False).pooling == "mean"


@pytest.mark.parametrize(
    ("model", "expected"),
    [("e5-small", True), ("intfloat/multilingual-e5-large", True), ("multilingual-e5-large-instruct", False)],
)
def test_is_e5_knows_models_with_the_usual_prompts(model, expected):
    assert is_e5(model) is expected
