"""`skxlmr.load` of what is on the hub, from a server on this machine."""

import json
import shutil

import numpy as np
import pytest
import sentence_transformers
from hub_server import MAIN, OLD, REPO, upload
from loaded_checkpoints import NLI, TEXTS
from sentence_transformers.sentence_transformer.modules import Dense, Pooling, Transformer

import skxlmr
from skxlmr.checkpoints.errors import CheckpointError
from skxlmr.runtime.backbone import _find_on_hub


def test_load_of_saved_estimator_from_hub(hub, make, tmp_path, monkeypatch):
    directory, _ = make("XLMRobertaForSequenceClassification", id2label=NLI)
    clf = skxlmr.load(directory)
    clf.save(tmp_path / "saved")
    (tmp_path / "saved" / "notes.txt").write_text("mine")
    upload(hub, tmp_path / "saved")
    loaded = skxlmr.load(REPO, batch_tokens=64)
    assert loaded.batch_tokens == 64
    np.testing.assert_allclose(loaded.decision_function(TEXTS), clf.decision_function(TEXTS), atol=1e-6)
    assert "notes.txt" not in hub.downloaded
    with pytest.raises(CheckpointError, match=r"it holds a fitted estimator\. Use skxlmr\.load"):
        skxlmr.XLMRXLClassifier(REPO).fit(TEXTS, [0, 1, 0])
    hub.stop()
    np.testing.assert_array_equal(skxlmr.load(REPO).predict(TEXTS), clf.predict(TEXTS))  # of the cache


def test_load_of_old_sentence_transformers_from_hub(hub, make, tmp_path):
    directory, _ = make("XLMRobertaModel")
    modules = [Transformer(str(directory)), Pooling(16, pooling_mode="cls"), Dense(16, 4)]
    model = sentence_transformers.SentenceTransformer(modules=modules, device="cpu")
    model.save_pretrained(str(tmp_path / "new"))
    old = tmp_path / "old"
    shutil.copytree(tmp_path / "new", old)
    (old / "0_Transformer").mkdir()
    for path in (*old.glob("tokenizer*"), *old.glob("model*"), old / "config.json", old / "sentence_bert_config.json"):
        path.rename(old / "0_Transformer" / path.name)
    listed = json.loads((old / "modules.json").read_text())
    listed[0]["path"] = "0_Transformer"
    (old / "modules.json").write_text(json.dumps(listed))
    upload(hub, old)
    embedder = skxlmr.load(REPO)
    np.testing.assert_allclose(embedder.transform(TEXTS), model.encode(TEXTS), atol=1e-5)
    hub.stop()
    _find_on_hub.cache_clear()
    np.testing.assert_allclose(skxlmr.load(REPO).transform(TEXTS), model.encode(TEXTS), atol=1e-5)  # of the cache


def test_load_from_hub_says_what_is_there_instead(hub):
    for names, message in {
        (
            "sub/config.json",
            "sub/model.safetensors",
        ): r"There is a model in its folder 'sub': give that, as subfolder=",
        ("model.gguf",): r"no config\.json\. model\.gguf, of llama\.cpp, is not read",
        ("config.json", "tf_model.h5"): r"no weights.*tf_model\.h5, of TensorFlow, is not read",
        (
            "config.json",
            "model.fp16.safetensors",
        ): r"variant='fp16': .* give the file itself as its model, .*fp16\.safetensors",
    }.items():
        hub.commits[MAIN] = dict.fromkeys(names, b"{}")
        with pytest.raises(CheckpointError, match=message):
            skxlmr.load(REPO)


def test_load_from_hub_at_revision(hub, make, tmp_path):
    directory, _ = make("XLMRobertaForSequenceClassification", id2label=NLI)
    other, _ = make("XLMRobertaForSequenceClassification", num_labels=1)
    for commit, path in ((MAIN, directory), (OLD, other)):
        hub.commits[commit] = {file.name: file.read_bytes() for file in path.iterdir() if file.is_file()}
    clf = skxlmr.load(REPO)
    assert clf.model == REPO
    np.testing.assert_array_equal(clf.decision_function(TEXTS), skxlmr.load(directory).decision_function(TEXTS))
    reg = skxlmr.load(f"{REPO}@v1")
    assert type(reg) is skxlmr.XLMRXLRegressor
    np.testing.assert_array_equal(reg.predict(TEXTS), skxlmr.load(other).predict(TEXTS))
    clf.save(tmp_path / "saved")
    assert skxlmr.load(tmp_path / "saved").predict(TEXTS).tolist() == clf.predict(TEXTS).tolist()


@pytest.mark.parametrize("subfolder", ["", "heads/mean"])
def test_load_of_exported_head_of_sentence_transformers_from_hub(subfolder, hub, make, tmp_path):
    directory, _ = make("XLMRobertaModel")
    settings = {"tuning": "head", "max_epochs": 1, "random_state": 0, "device": "cpu"}
    clf = skxlmr.XLMRXLClassifier(directory, pooling="max", **settings).fit(TEXTS, [3, 1, 3])
    clf.export_pretrained(tmp_path / "exported")
    upload(hub, tmp_path / "exported", subfolder=subfolder)
    loaded = skxlmr.load(REPO, subfolder=subfolder, device="cpu")
    assert loaded.classes_.tolist() == [1, 3]
    np.testing.assert_allclose(loaded.predict_proba(TEXTS), clf.predict_proba(TEXTS), atol=1e-6)
    hub.stop()
    _find_on_hub.cache_clear()
    loaded.save(tmp_path / "saved")
    for again in (skxlmr.load(REPO, subfolder=subfolder, device="cpu"), skxlmr.load(tmp_path / "saved")):
        np.testing.assert_allclose(again.predict_proba(TEXTS), clf.predict_proba(TEXTS), atol=1e-6)
