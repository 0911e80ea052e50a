"""Directories and parameters that `skxlmr.load` takes or refuses."""

import shutil

import numpy as np
import pandas as pd
import pytest
from loaded_checkpoints import NLI, TEXTS, copy_of

import skxlmr
from skxlmr.checkpoints.errors import CheckpointError, ModelNotFoundError
from skxlmr.checkpoints.resolve import BUNDLED


def without_keys(directory, target, *beginnings, **changes):
    """Copy a checkpoint without the tensors whose keys begin so."""
    from safetensors.torch import load_file, save_file

    copy_of(directory, target, **changes)
    tensors = load_file(target / "model.safetensors")
    kept = {key: value for key, value in tensors.items() if not key.startswith(beginnings)}
    save_file(kept, target / "model.safetensors")
    return target


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"architectures": ["XLMRobertaForTokenClassification"]}, r"lack the head.*classifier\.weight.*another head"),
        ({"architectures": ["XLMRobertaForQuestionAnswering"]}, r"lack the head.*qa_outputs\.bias"),
        ({"architectures": ["XLMRobertaForMaskedLM"]}, r"lack the head.*lm_head\.bias"),
        ({"architectures": ["XLMRobertaModel"]}, "a model without a head, but the weights have one: classifier"),
        ({"architectures": None}, "'architectures' is None, so it is not known.*ForSequenceClassification"),
        ({"architectures": ["MyModel"]}, "'architectures' is .'MyModel'., so it is not known"),
        ({"architectures": "XLMRobertaModel"}, "so it is not known what the model was trained for"),
        ({"architectures": [["x"]]}, "so it is not known what the model was trained for"),
        ({"id2label": {"0": "a", "1": "a", "2": "b"}}, "id2label has the name 'a' for 2 outputs"),
        ({"id2label": {"0": "a", "1": "c", "7": "b"}}, r"id2label has the numbers \[0, 1, 7\]"),
        (
            {"id2label": {str(i): "a" * 10**6 * (i == 5) + str(i) for i in range(99)}},
            "names in id2label are too long: 'a",
        ),
        ({"id2label": {"0": "a", "1": "b"}}, r"(?s)classifier\.out_proj\.weight: file has \(3, 16\).*Correct id2label"),
        ({"id2label": {"a": "x", "1": "b"}}, "config.json: id2label must map the numbers of the outputs.* key 'a'"),
        ({"model_type": None}, "model_type is None.* Old files lack it: set it"),
    ],
    ids=lambda value: str(value)[:60],
)
def test_load_of_contradictory_checkpoint_raises(changes, message, make, tmp_path):
    directory, _ = make("XLMRobertaForSequenceClassification", id2label=NLI)
    with pytest.raises(CheckpointError, match=message):
        skxlmr.load(copy_of(directory, tmp_path / "changed", **changes))


def test_load_of_checkpoint_without_its_head_raises(make, tmp_path):
    directory, _ = make("XLMRobertaForSequenceClassification", id2label=NLI)
    bare = without_keys(directory, tmp_path / "bare", "classifier.")
    with pytest.raises(CheckpointError, match=r"lack the head of such a model.*as its `model`, and call fit"):
        skxlmr.load(bare)
    partly = without_keys(directory, tmp_path / "partly", "classifier.dense.")
    with pytest.raises(CheckpointError, match=r"lack the head.*classifier\.dense\.bias"):
        skxlmr.load(partly)
    encoder = without_keys(directory, tmp_path / "encoder", "classifier.", architectures=None)
    assert type(skxlmr.load(encoder)) is skxlmr.XLMRXLEmbedder


def test_load_with_unsuitable_parameters_raises(make, tmp_path):
    directory, _ = make("XLMRobertaForSequenceClassification", id2label=NLI)
    with pytest.raises(ValueError, match=r"Invalid parameter 'epochs'.*Did you mean 'max_epochs'"):
        skxlmr.load(directory, epochs=3)
    with pytest.raises(ValueError, match="'pooling' parameter of XLMRXLClassifier must be a str"):
        skxlmr.load(directory, pooling="median")
    with pytest.raises(CheckpointError, match="head is for pooling='cls', and cannot be used with pooling='mean'"):
        skxlmr.load(directory, pooling="mean")
    with pytest.raises(ValueError, match="is another one than the checkpoint"):
        skxlmr.load(directory, model="nano")
    assert skxlmr.load(directory, tuning__rank=2, prompt="the ").get_params()["tuning__rank"] == 2
    prompted, plain = skxlmr.load(directory, prompt="the "), skxlmr.load(directory)
    expected = plain.decision_function(["the city"])
    np.testing.assert_array_equal(prompted.decision_function(["city"]), expected)


def test_load_of_saved_estimator_sets_parameters(make, tmp_path):
    directory, _ = make("XLMRobertaForSequenceClassification", id2label=NLI)
    moved = copy_of(directory, tmp_path / "moved")
    clf = skxlmr.load(directory)
    clf.save(tmp_path / "saved")
    loaded = skxlmr.load(tmp_path / "saved", model=moved, batch_tokens=64, tuning__rank=3)
    assert (loaded.model, loaded.batch_tokens, loaded.tuning.rank) == (moved, 64, 3)
    np.testing.assert_allclose(loaded.decision_function(TEXTS), clf.decision_function(TEXTS), atol=1e-6)
    with pytest.raises(ValueError, match="Invalid parameter 'epochs'"):
        skxlmr.load(tmp_path / "saved", epochs=3)
    with pytest.raises(ValueError, match="'batch_tokens' parameter of XLMRXLClassifier must be") as caught:
        skxlmr.load(tmp_path / "saved", batch_tokens=0)
    assert "damaged" not in str(caught.value)


def test_load_of_directory_with_neither_says_what_is_there(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"It is empty; expected is one of: estimator\.json .*config\.json"):
        skxlmr.load(tmp_path)
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(FileNotFoundError, match=r"It has notes\.txt; expected is one of"):
        skxlmr.load(tmp_path)
    with pytest.raises(ModelNotFoundError, match=r"is not a directory\. Check the path"):
        skxlmr.load(tmp_path / "nowhere")
    (tmp_path / "model.gguf").write_bytes(b"GGUF")
    with pytest.raises(
        FileNotFoundError, match=r"model\.gguf, of llama\.cpp, is not read: take the model in safetensors"
    ):
        skxlmr.load(tmp_path)
    with pytest.raises(ModelNotFoundError, match=r"is a file; give the directory.* of llama\.cpp, is not read"):
        skxlmr.load(tmp_path / "model.gguf")
    shutil.copytree(BUNDLED["nano"], tmp_path / "checkpoint-5")
    with pytest.raises(FileNotFoundError, match=r"There is a model in its folder 'checkpoint-5': give that\."):
        skxlmr.load(tmp_path)
    with pytest.raises(CheckpointError, match=r"no config\.json.*There is a model in its folder 'checkpoint-5'"):
        skxlmr.XLMRXLClassifier(tmp_path).fit(TEXTS, [0, 1, 0])


def test_load_of_bundled_model_returns_masked_language_model():
    lm = skxlmr.load("nano")
    assert type(lm) is skxlmr.XLMRXLMaskedLM
    text = ["The film was very <mask>."]
    pd.testing.assert_frame_equal(lm.fill_mask(text), skxlmr.XLMRXLMaskedLM("nano").fill_mask(text))
