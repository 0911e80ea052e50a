"""Saving models: shards, formats, variants, state dicts and uploads."""

import json
from collections.abc import Iterator

import pytest
import torch
import transformers
from hub_server import MAIN, REPO, Hub
from huggingface_hub.errors import HfHubHTTPError
from tiny_shape import IDS, SHAPE

from skxlmr.checkpoints.errors import CheckpointError
from skxlmr.checkpoints.layout import verify_checkpoint
from skxlmr.model import XLMRobertaXLConfig, XLMRobertaXLForMaskedLM, XLMRobertaXLForSequenceClassification
from skxlmr.model.pretrained import PretrainedModel

SMALL = "6KB"


def new_model(seed: int = 0) -> XLMRobertaXLForMaskedLM:
    torch.manual_seed(seed)
    return XLMRobertaXLForMaskedLM(XLMRobertaXLConfig(**SHAPE)).eval()


def names(directory) -> set[str]:
    return {path.name for path in directory.iterdir()}


def load(directory, **options):
    return XLMRobertaXLForMaskedLM.from_pretrained(directory, **options)


@pytest.mark.parametrize("variant", [None, "fp16"])
@pytest.mark.parametrize("safe", [True, False], ids=["safetensors", "bin"])
@pytest.mark.parametrize("size", ["5GB", SMALL])
def test_save_pretrained_is_read_by_transformers(tmp_path, size, safe, variant):
    model = new_model()
    model.save_pretrained(tmp_path, max_shard_size=size, safe_serialization=safe, variant=variant)
    files = [path for path in tmp_path.iterdir() if path.suffix in (".bin", ".safetensors")]
    assert (len(files) > 1) == (size == SMALL)
    assert all(("fp16" in path.name) == (variant == "fp16") for path in files)
    verify_checkpoint(tmp_path)
    for options in ({}, {"use_safetensors": safe}):
        theirs = transformers.XLMRobertaXLForMaskedLM.from_pretrained(tmp_path, variant=variant, **options).eval()
        assert torch.equal(load(tmp_path, variant=variant, **options)(IDS).logits, model(IDS).logits)
        torch.testing.assert_close(theirs(IDS).logits, model(IDS).logits)
    for path in files:
        if path.suffix == ".bin":
            content = torch.load(path, weights_only=True)
            assert all(type(tensor) is torch.Tensor for tensor in content.values())
            assert path.stat().st_size < 2 * sum(t.nbytes for t in content.values()) + 1024 * len(content)


@pytest.mark.parametrize("variant", [None, "fp16"])
@pytest.mark.parametrize("size", ["5GB", SMALL])
def test_from_pretrained_reads_variant_of_transformers(tmp_path, size, variant):
    reference = transformers.XLMRobertaXLForMaskedLM(transformers.XLMRobertaXLConfig(**SHAPE)).eval()
    reference.save_pretrained(tmp_path, variant=variant, max_shard_size=size)
    torch.testing.assert_close(load(tmp_path, variant=variant)(IDS).logits, reference(IDS).logits)


def test_from_pretrained_missing_variant_names_others(tmp_path):
    new_model().save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match=r"looked for model\.fp16\.safetensors.*There are weights for no variant"):
        load(tmp_path, variant="fp16")
    with pytest.raises(ValueError, match="variant must be up to 40 letters"):
        load(tmp_path, variant="../x")
    (tmp_path / "x").mkdir()
    new_model().save_pretrained(tmp_path / "x", variant="bf16", max_shard_size=SMALL)
    with pytest.raises(CheckpointError, match="There are weights for variant='bf16'"):
        load(tmp_path / "x")
    with pytest.raises(CheckpointError, match=r"looked for pytorch_model\.bin, pytorch_model\.bin\.index\.json"):
        load(tmp_path, use_safetensors=False)


def test_save_pretrained_variants_stay_beside_each_other(tmp_path):
    plain, other = new_model(), new_model(1)
    plain.save_pretrained(tmp_path)
    other.half().save_pretrained(tmp_path, variant="fp16", max_shard_size=SMALL)
    assert torch.equal(load(tmp_path)(IDS).logits, plain(IDS).logits)
    assert load(tmp_path, variant="fp16", dtype="auto").dtype == torch.float16
    other.save_pretrained(tmp_path, variant="fp16")
    assert names(tmp_path) == {"config.json", "model.safetensors", "model.fp16.safetensors", "skxlmr.json"}
    new_model(2).save_pretrained(tmp_path)
    assert load(tmp_path, variant="fp16")(IDS).logits.equal(other.float()(IDS).logits)
    verify_checkpoint(tmp_path)


KINDS = [{}, {"max_shard_size": SMALL}, {"safe_serialization": False}]
KINDS += [{"safe_serialization": False, "max_shard_size": SMALL}]


@pytest.mark.parametrize("before", KINDS, ids=str)
@pytest.mark.parametrize("after", KINDS, ids=str)
def test_save_pretrained_removes_files_of_earlier_save(tmp_path, before, after):
    new_model().save_pretrained(tmp_path / "it", **before)
    (tmp_path / "it" / "README.md").write_text("about")
    model = new_model(1)
    model.save_pretrained(tmp_path / "it", **after)
    model.save_pretrained(tmp_path / "fresh", **after)
    assert names(tmp_path / "it") == names(tmp_path / "fresh") | {"README.md"}
    assert torch.equal(load(tmp_path / "it")(IDS).logits, model(IDS).logits)
    theirs = transformers.XLMRobertaXLForMaskedLM.from_pretrained(tmp_path / "it")
    torch.testing.assert_close(theirs(IDS).logits, model(IDS).logits)


def test_save_pretrained_keeps_bin_of_other_program(tmp_path):
    torch.save({"x": torch.ones(1)}, tmp_path / "pytorch_model.bin")
    new_model().save_pretrained(tmp_path)
    assert torch.load(tmp_path / "pytorch_model.bin", weights_only=True).keys() == {"x"}
    new_model().save_pretrained(tmp_path, safe_serialization=False)
    assert torch.load(tmp_path / "pytorch_model.bin", weights_only=True).keys() > {"lm_head.bias"}


def test_save_pretrained_full_disk_keeps_earlier_save(tmp_path, monkeypatch):
    model = new_model()
    model.save_pretrained(tmp_path / "it")
    before = names(tmp_path / "it")

    def full(descriptor, data):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("os.write", full)
        for kind in KINDS:
            with pytest.raises(OSError, match="No space left"):
                new_model(1).save_pretrained(tmp_path / "it", **kind)
    assert names(tmp_path / "it") == before
    assert names(tmp_path) == {"it"}
    assert torch.equal(load(tmp_path / "it")(IDS).logits, model(IDS).logits)


@pytest.mark.parametrize("size", ["5", "big", 0, -1, "0GB", True, "5XB", None, 1.5])
def test_save_pretrained_invalid_shard_size_raises(tmp_path, size):
    with pytest.raises(ValueError, match="max_shard_size must be a number of bytes or a size such as '5GB'"):
        new_model().save_pretrained(tmp_path / "it", max_shard_size=size)
    assert not (tmp_path / "it").exists()


def test_save_pretrained_on_other_process_writes_nothing(tmp_path):
    new_model().save_pretrained(tmp_path / "it", is_main_process=False)
    assert not (tmp_path / "it").exists()


@pytest.mark.parametrize("theirs", [False, True], ids=["our names", "their names"])
def test_state_dict_is_saved_and_loaded(tmp_path, theirs):
    model, other = new_model(), new_model(1)
    state = other.in_their_names(other.state_dict()) if theirs else other.state_dict()
    model.save_pretrained(tmp_path, state_dict=state)
    assert torch.equal(load(tmp_path)(IDS).logits, other(IDS).logits)
    loaded = load(None, config=model.config, state_dict=state)
    assert torch.equal(loaded(IDS).logits, other(IDS).logits)
    loaded.lm_head.bias.data.fill_(1)
    assert not other.lm_head.bias.any()  # it was copied
    assert torch.equal(load(tmp_path, state_dict=model.state_dict())(IDS).logits, model(IDS).logits)


def test_state_dict_that_does_not_fit_raises(tmp_path):
    model = new_model()
    state = {**model.state_dict(), "other": torch.ones(1), "lm_head.bias": torch.ones(3)}
    del state["lm_head.norm.bias"]
    message = (
        r"lm_head\.layer_norm\.bias is missing; other is not a weight.*lm_head\.bias has shape \(3,\), not \(60,\)"
    )
    with pytest.raises(ValueError, match=message):
        model.save_pretrained(tmp_path / "it", state_dict=state)
    assert not (tmp_path / "it").exists()
    for options, message in (
        ({"state_dict": state}, "without a model needs a config"),
        ({"config": model.config}, "needs a config and a state_dict"),
        ({"config": model.config, "state_dict": state, "load_in_8bit": True}, "load files, and no state_dict"),
    ):
        with pytest.raises(ValueError, match=message):
            load(None, **options)
    with pytest.raises(TypeError, match="must map names to tensors"):
        load(None, config=model.config, state_dict={"x": 1})


def test_mismatched_num_labels_suggests_option(tmp_path):
    XLMRobertaXLForSequenceClassification(XLMRobertaXLConfig(**SHAPE, num_labels=3)).save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match="Give ignore_mismatched_sizes=True to start the head from random"):
        XLMRobertaXLForSequenceClassification.from_pretrained(tmp_path, num_labels=5)
    with pytest.raises(CheckpointError) as caught:
        XLMRobertaXLForSequenceClassification.from_pretrained(tmp_path, intermediate_size=24)
    assert "ignore_mismatched_sizes" not in str(caught.value)


@pytest.fixture
def hub(monkeypatch) -> Iterator[Hub]:
    server = Hub()
    monkeypatch.setenv("HF_ENDPOINT", server.endpoint)
    constants = "huggingface_hub.constants."  # it reads the variable when it is imported
    monkeypatch.setattr(constants + "ENDPOINT", server.endpoint)
    url = f"{server.endpoint}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    monkeypatch.setattr(constants + "HUGGINGFACE_CO_URL_TEMPLATE", url)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_PROGRESS_BARS", True)
    yield server
    server.stop()


def test_push_to_hub_uploads_what_from_pretrained_loads(hub, tmp_path):
    model = new_model()
    hub.commits[MAIN] = {
        "README.md": b"about",
        "model-00001-of-00009.safetensors": b"old",
        "model.fp16.safetensors": b"",
    }
    info = model.push_to_hub(REPO, max_shard_size=SMALL, private=True, token="hf_secret")
    assert info.commit_url.endswith(f"{REPO}/commit/{MAIN}")
    assert (hub.message, hub.created["name"]) == ("Upload XLMRobertaXLForMaskedLM", "name")
    assert hub.created.get("private") is True or hub.created.get("visibility") == "private"
    assert hub.authorizations - {None} == {"Bearer hf_secret"}
    present = hub.commits[MAIN].keys()
    assert {"config.json", "model.safetensors.index.json", "README.md", "model.fp16.safetensors"} <= present
    assert not {"model-00001-of-00009.safetensors", "skxlmr.json"} & present
    loaded = load(REPO, cache_dir=tmp_path)
    assert torch.equal(loaded(IDS).logits, model(IDS).logits)
    assert loaded.name_or_path == REPO
    new_model(1).push_to_hub(REPO, variant="bf16", commit_message="Smaller", token="hf_secret")
    assert hub.message == "Smaller"
    options = {"variant": "bf16", "cache_dir": tmp_path / "other"}  # the server has only one commit, which is cached
    assert load(REPO, **options)(IDS).logits.equal(new_model(1)(IDS).logits)
    assert "model.safetensors.index.json" in hub.commits[MAIN]
    hub.stop()
    assert load(REPO, **options, local_files_only=True)(IDS).logits.equal(new_model(1)(IDS).logits)


def test_push_to_hub_to_branch_or_pull_request(hub):
    hub.commits[MAIN] = {"README.md": b"about"}
    model: PretrainedModel = new_model()
    model.push_to_hub(REPO, revision="new", token=False)
    assert hub.commits[MAIN] == {"README.md": b"about"}
    assert {"README.md", "config.json", "model.safetensors"} == hub.commits[hub.branches["new"]].keys()
    info = model.push_to_hub(REPO, create_pr=True, token=False)
    assert info.pr_url.endswith("/discussions/1")
    assert hub.commits[MAIN] == {"README.md": b"about"}
    model.config.push_to_hub(REPO, token=False)
    assert hub.message == "Upload config"
    assert json.loads(hub.commits[MAIN]["config.json"])["hidden_size"] == 16
    hub.gated = True
    with pytest.raises(HfHubHTTPError):
        model.push_to_hub(REPO, token=False)
