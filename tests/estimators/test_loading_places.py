"""Where `skxlmr.load` finds a model: revisions, folders, variants, caches and tokens."""

import json
import pickle
import re

import numpy as np
import pytest
from hub_server import OLD, REPO, upload
from loaded_checkpoints import NLI, TEXTS, copy_of
from safetensors.torch import load_file, save_file
from sklearn.base import clone

import skxlmr
from skxlmr.checkpoints.errors import CheckpointError, ModelNotFoundError
from skxlmr.model import XLMRobertaForSequenceClassification
from skxlmr.runtime.backbone import _find_on_hub


@pytest.fixture
def directory(make):
    return make("XLMRobertaForSequenceClassification", id2label=NLI)[0]


@pytest.fixture
def other(make):
    return make("XLMRobertaForSequenceClassification", num_labels=4)[0]


def logits(estimator):
    return estimator.decision_function(TEXTS)


def forget():
    """Look for models again, as another process does."""
    _find_on_hub.cache_clear()


def as_fp16(directory, target, with_plain=False):
    """Copy a checkpoint with weights for variant="fp16", perhaps beside others without a variant."""
    copy_of(directory, target)
    (target / "model.safetensors").unlink()
    XLMRobertaForSequenceClassification.from_pretrained(directory).half().save_pretrained(target, variant="fp16")
    if with_plain:
        tensors = load_file(directory / "model.safetensors")
        save_file({name: 2 * tensor for name, tensor in tensors.items()}, target / "model.safetensors")
    (target / "skxlmr.json").unlink()
    return target


def test_load_at_revision_names_it(hub, directory, other, tmp_path):
    upload(hub, directory)
    upload(hub, other, OLD)
    clf = skxlmr.load(REPO, revision="v1")
    assert clf.model == f"{REPO}@v1"
    np.testing.assert_array_equal(logits(clf), logits(skxlmr.load(other)))
    assert skxlmr.load(f"{REPO}@v1", revision="v1").model == f"{REPO}@v1"
    clf.save(tmp_path / "saved")
    forget()
    np.testing.assert_array_equal(logits(skxlmr.load(tmp_path / "saved")), logits(clf))
    with pytest.raises(ModelNotFoundError, match="no revision 'v7' of it"):
        skxlmr.load(REPO, revision="v7")
    for model in (directory, tmp_path / "saved"):
        with pytest.raises(ValueError, match="revision='v1' applies to hub models only"):
            skxlmr.load(model, revision="v1")


def test_load_of_subfolder_on_the_hub_is_found_again(hub, directory, other, tmp_path):
    upload(hub, other)
    upload(hub, directory, subfolder="languages/en")
    clf = skxlmr.load(REPO, subfolder="languages/en", device="cpu")
    expected = logits(skxlmr.load(directory))
    np.testing.assert_array_equal(logits(clf), expected)
    assert all(name.startswith("languages/en/") for name in hub.downloaded)
    clf.save(tmp_path / "saved")
    hub.stop()
    forget()
    for again in (skxlmr.load(tmp_path / "saved"), pickle.loads(pickle.dumps(clf))):
        np.testing.assert_array_equal(logits(again), expected)
    clone(clf).set_params(tuning="head", max_epochs=1).fit(TEXTS, ["a", "b", "a"])


def test_load_of_saved_estimator_in_subfolder(hub, directory, tmp_path):
    clf = skxlmr.load(directory)
    clf.save(tmp_path / "all" / "sentiment")
    upload(hub, tmp_path / "all")
    for model in (REPO, tmp_path / "all"):
        np.testing.assert_array_equal(logits(skxlmr.load(model, subfolder="sentiment")), logits(clf))
    np.testing.assert_array_equal(logits(skxlmr.load(directory.parent, subfolder=directory.name)), logits(clf))
    for subfolder, error, message in (
        ("mood", ModelNotFoundError, "has no subfolder 'mood'"),
        ("../all", ValueError, "must be a path inside the folder of the model"),
    ):
        with pytest.raises(error, match=message):
            skxlmr.load(tmp_path / "all", subfolder=subfolder)
    with pytest.raises(CheckpointError, match=r"There is a model in its folder 'sentiment': give that, as subfolder="):
        skxlmr.load(REPO)


@pytest.mark.parametrize("place", ["local", "hub"])
def test_load_of_variant_reads_its_weights(place, hub, directory, tmp_path):
    fp16 = as_fp16(directory, tmp_path / "fp16", with_plain=True)
    upload(hub, fp16)
    model = {"local": fp16, "hub": REPO}[place]
    clf = skxlmr.load(model, variant="fp16", dtype="float32")
    np.testing.assert_allclose(logits(clf), logits(skxlmr.load(directory, dtype="float32")), atol=1e-2)
    assert np.abs(logits(clf) - logits(skxlmr.load(model))).max() > 0.1
    assert clf.model.endswith("model.fp16.safetensors")
    clf.save(tmp_path / "saved")
    clf.export_pretrained(tmp_path / "exported")
    for again in (skxlmr.load(tmp_path / "saved"), skxlmr.load(clf.model), skxlmr.load(tmp_path / "exported")):
        np.testing.assert_allclose(logits(again.set_params(dtype="float32")), logits(clf), atol=1e-6)
    with pytest.raises(ValueError, match=r"variant='fp16' is for checkpoints, and .*saved holds a saved estimator"):
        skxlmr.load(tmp_path / "saved", variant="fp16")


def test_file_of_weights_as_model_of_an_estimator(directory, tmp_path):
    fp16 = as_fp16(directory, tmp_path / "fp16")
    settings = {"tuning": "head", "max_epochs": 1, "random_state": 0, "dtype": "float32"}
    with pytest.raises(CheckpointError, match=r"weights for variant='fp16': .* give the file itself as its model"):
        skxlmr.XLMRXLClassifier(fp16, **settings).fit(TEXTS, ["a", "b", "a"])
    clf = skxlmr.XLMRXLClassifier(fp16 / "model.fp16.safetensors", **settings).fit(TEXTS, ["a", "b", "a"])
    clf.save(tmp_path / "saved")
    np.testing.assert_array_equal(logits(skxlmr.load(tmp_path / "saved")), logits(clf))
    with pytest.raises(ModelNotFoundError, match="is a file; give the directory"):
        skxlmr.load(fp16 / "config.json")
    with pytest.raises(ValueError, match="variant or use_safetensors contradicts model="):
        skxlmr.load(fp16 / "model.fp16.safetensors", variant="bf16")
    sharded = tmp_path / "sharded"
    model = XLMRobertaForSequenceClassification.from_pretrained(directory)
    model.save_pretrained(sharded, max_shard_size=20_000, variant="fp32")
    for path in directory.glob("*token*"):
        (sharded / path.name).write_bytes(path.read_bytes())
    clf = skxlmr.load(sharded, variant="fp32")
    assert clf.model.endswith("model.safetensors.index.fp32.json")
    np.testing.assert_array_equal(logits(clf), logits(skxlmr.load(directory)))


def test_token_and_cache_hold_for_later_calls(hub, directory, tmp_path):
    upload(hub, directory)
    cache = tmp_path / "elsewhere"
    clf = skxlmr.load(REPO, token="hf_secret", cache_dir=cache)
    assert hub.authorizations == {"Bearer hf_secret"}
    assert clf.model == REPO
    assert cache.is_dir()
    assert not (tmp_path / "cache").exists()
    n_requests = len(hub.requests)
    expected = logits(clf)
    assert len(hub.requests) == n_requests
    clf.save(tmp_path / "saved")
    assert b"hf_secret" not in b"".join(path.read_bytes() for path in (tmp_path / "saved").iterdir())
    assert b"hf_secret" not in pickle.dumps(clf)
    hub.stop()
    forget()
    offline = skxlmr.load(tmp_path / "saved", cache_dir=cache, local_files_only=True)
    np.testing.assert_array_equal(logits(offline), expected)
    with pytest.raises(ModelNotFoundError, match="is not in the cache, and offline mode is on"):
        skxlmr.load(REPO, cache_dir=tmp_path / "third", local_files_only=True)


def test_adapter_names_the_revision_of_its_base(hub, directory, other, tmp_path):
    upload(hub, other)
    upload(hub, directory, OLD)
    settings = {"pooling": "cls", "tuning": skxlmr.LoRA(rank=2), "max_epochs": 1, "random_state": 0, "device": "cpu"}
    clf = skxlmr.XLMRXLClassifier(f"{REPO}@v1", **settings).fit(TEXTS, ["a", "b", "a"])
    clf.export_adapter(tmp_path / "adapter")
    written = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert (written["base_model_name_or_path"], written["revision"]) == (REPO, "v1")
    hub.authorizations.clear()
    forget()
    loaded = skxlmr.load(tmp_path / "adapter", token="hf_secret", device="cpu")
    assert loaded.model == f"{REPO}@v1"
    np.testing.assert_allclose(logits(loaded), logits(clf), atol=1e-6)
    assert hub.authorizations == {"Bearer hf_secret"}
    upload(hub, tmp_path / "adapter", subfolder="adapters/one")
    forget()
    loaded = skxlmr.load(REPO, subfolder="adapters/one", device="cpu")
    np.testing.assert_allclose(logits(loaded), logits(clf), atol=1e-6)


def test_token_of_saved_estimator_is_for_its_base(hub, directory, tmp_path):
    upload(hub, directory)
    skxlmr.load(REPO).save(tmp_path / "saved")
    hub.authorizations.clear()
    forget()
    assert skxlmr.load(tmp_path / "saved", token="hf_secret").predict(TEXTS).shape == (3,)
    assert hub.authorizations == {"Bearer hf_secret"}


def test_environment_variables_of_the_hub(hub, directory, monkeypatch):
    upload(hub, directory)
    monkeypatch.setenv("HF_TOKEN", "hf_of_environment")
    expected = logits(skxlmr.load(REPO))
    assert hub.authorizations == {"Bearer hf_of_environment"}
    forget()
    hub.authorizations.clear()
    skxlmr.load(REPO, token=False)
    assert hub.authorizations == {None}
    forget()
    hub.requests.clear()
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    np.testing.assert_array_equal(logits(skxlmr.load(REPO)), expected)
    assert hub.requests == []


def test_refused_model_is_loaded_from_the_cache(hub, directory):
    upload(hub, directory)
    expected = logits(skxlmr.load(REPO, token="hf_valid"))
    hub.refusal = (401, "", "Invalid credentials in Authorization header")
    forget()
    np.testing.assert_array_equal(logits(skxlmr.load(REPO, token="hf_expired")), expected)
    with pytest.raises(ModelNotFoundError, match=r"refuses the token that was sent for 'organisation/name' at"):
        skxlmr.load(REPO, revision="v1")


@pytest.mark.parametrize("model", ["~nobody-of-this-name/x", "nul\0byte", ""])
def test_load_of_impossible_path_raises(model):
    with pytest.raises(ModelNotFoundError, match="There is no model"):
        skxlmr.load(model)


@pytest.mark.parametrize(
    ("model", "hint"),
    [
        ("https://huggingface.co/organisation/name/tree/main", "Did you mean 'organisation/name'?"),
        ("huggingface.co/organisation/name", "Did you mean 'organisation/name'?"),
        ("hf://organisation/name", "Did you mean 'organisation/name'?"),
        (" organisation/name", "Did you mean 'organisation/name'?"),
        ("organisation/name@", "Did you mean 'organisation/name'?"),
        ("organisation/name/en", "use skxlmr.load('organisation/name', subfolder='en')"),
    ],
)
def test_load_of_written_otherwise_id_of_the_hub_says_the_id(model, hint, monkeypatch):
    monkeypatch.setattr("skxlmr.checkpoints.hub.fetch", pytest.fail)
    with pytest.raises(ModelNotFoundError, match=re.escape(hint)):
        skxlmr.load(model)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"revision": 5}, TypeError, "revision must be a branch, tag or commit, or None, got a value of type int"),
        ({"revision": ""}, ValueError, "revision is an empty string: give a branch, tag or commit, or None"),
        ({"token": 5}, TypeError, "token must be a token of the hub"),
        ({"token": ""}, ValueError, "token is an empty string"),
        ({"cache_dir": 5}, TypeError, "cache_dir must be a directory"),
        ({"cache_dir": ""}, ValueError, "cache_dir is an empty string"),
        ({"subfolder": None}, TypeError, "subfolder must be a str"),
        ({"variant": "../x"}, ValueError, "variant must be up to 40 letters"),
        ({"id2label": {1: "a", 2: "b", 3: "c"}}, ValueError, r"numbers from 0 to 2, got \[1, 2, 3\]"),
        ({"id2label": [1, 2, 3]}, ValueError, "id2label must map numbers to texts, and has 1 for 0"),
        ({"id2label": 5}, ValueError, "id2label must be a dict or a list of names"),
        ({"trust_remote_code": True}, ValueError, "no parameter 'trust_remote_code': code of a model is never run"),
        ({"torch_dtype": "float16"}, ValueError, "no parameter 'torch_dtype': its name is 'dtype'"),
        ({"variants": "fp16"}, ValueError, "no parameter 'variants'. Did you mean 'variant'"),
        ({"epochs": 3}, ValueError, "Invalid parameter 'epochs'.* Did you mean 'max_epochs'"),
    ],
    ids=lambda value: str(value)[:40] if isinstance(value, dict) else "",
)
def test_load_with_invalid_option_raises(options, error, message, hub, directory):
    upload(hub, directory)
    with pytest.raises(error, match=message):
        skxlmr.load(REPO, **options)


def test_load_of_other_type_raises():
    for model in (None, 3, b"nano"):
        with pytest.raises(TypeError, match="directory must be a str or a path, not"):
            skxlmr.load(model)


def test_options_of_labels_are_for_heads_that_have_some(make, tmp_path):
    tagger, _ = make("XLMRobertaForTokenClassification", id2label={0: "O", 1: "B-X", 2: "I-X"})
    named = skxlmr.load(tagger, id2label=["O", "B-Y", "I-Y"])
    assert sorted(named.classes_) == ["B-Y", "I-Y", "O"]
    with pytest.raises(ValueError, match="problem_type='regression' is for models of sequences, not for tagging"):
        skxlmr.load(tagger, problem_type="regression")
    with pytest.raises(ValueError, match="id2label is for classifiers and taggers, not for masked language modeling"):
        skxlmr.load("nano", id2label=["a", "b"])
    named.save(tmp_path / "saved")
    with pytest.raises(ValueError, match=r"id2label=.* is for checkpoints"):
        skxlmr.load(tmp_path / "saved", id2label=["O", "B-Y", "I-Y"])
