import gc
import shutil
import threading

import numpy as np
import pytest
import torch
import transformers
from hub_server import MAIN, REPO, Hub

from skxlmr import XLMRXLEmbedder
from skxlmr.checkpoints.errors import CheckpointError
from skxlmr.checkpoints.resolve import resolve
from skxlmr.model import BertConfig, BertModel, XLMRobertaXLModel, XLMRobertaXLTokenizer
from skxlmr.runtime.backbone import _find_on_hub, get_backbone, release_models


def test_get_backbone_of_the_same_checkpoint_loads_once(tmp_path):
    first = get_backbone("nano")
    assert get_backbone("nano") is first
    copy = shutil.copytree(resolve("nano").directory, tmp_path / "copy")
    assert get_backbone(copy) is first, "the content decides, not the path"
    assert get_backbone("nano", dtype="bfloat16") is not first
    assert not any(p.requires_grad for p in first.model.parameters())
    assert not first.model.training


def test_get_backbone_in_threads_loads_once():
    release_models()
    gc.collect()
    found = []
    threads = [threading.Thread(target=lambda: found.append(get_backbone("nano"))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({id(backbone) for backbone in found}) == 1


def test_release_models_frees_the_cached_base_model():
    identity = id(get_backbone("nano", dtype="float16").model)
    kept = get_backbone("nano", dtype="float16")
    assert id(kept.model) == identity, "the latest one stays cached without references"
    import weakref

    watch = weakref.ref(kept)
    del kept
    release_models()
    gc.collect()
    assert watch() is None


def test_get_backbone_of_a_hub_model_asks_the_hub_once(tmp_path, monkeypatch):
    server = Hub()
    server.commits[MAIN] = {file.name: file.read_bytes() for file in resolve("nano").directory.iterdir()}
    monkeypatch.setenv("HF_ENDPOINT", server.endpoint)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_PROGRESS_BARS", True)
    _find_on_hub.cache_clear()  # other tests have a model of this name
    try:
        vectors = XLMRXLEmbedder(model=REPO).fit_transform(["good morning"])
        requests = len(server.requests)
        assert requests > 0
        XLMRXLEmbedder(model=REPO, pooling="max").fit(["good morning"])
    finally:
        server.stop()
        _find_on_hub.cache_clear()
    assert len(server.requests) == requests
    assert (vectors == XLMRXLEmbedder(model="nano").fit_transform(["good morning"])).all()


def test_get_backbone_without_a_tokenizer_loads_no_weights(tmp_path, monkeypatch):
    copy = shutil.copytree(resolve("nano").directory, tmp_path / "copy")
    (copy / "sentencepiece.bpe.model").unlink()
    (copy / "skxlmr.json").unlink(missing_ok=True)
    monkeypatch.setattr(XLMRobertaXLModel, "from_pretrained", pytest.fail)
    with pytest.raises(
        FileNotFoundError, match=r"copy.*has no sentencepiece\.bpe\.model.*Copy one of them from the model"
    ):
        get_backbone(copy)


def test_get_backbone_with_the_tokenizer_of_another_model_raises(tmp_path):
    shape = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    for vocab_size, fits in ((9_501, True), (9_500, False)):  # nano's tokenizer has 9,502 ids, with <mask>
        BertModel(BertConfig(vocab_size=vocab_size, **shape)).save_pretrained(tmp_path)
        shutil.copy(resolve("nano").tokenizer, tmp_path)
        if fits:
            assert get_backbone(tmp_path).tokenizer.vocab_size == 9_502
        else:
            with pytest.raises(CheckpointError, match="tokenizer has 9502 ids, its model 9500"):
                get_backbone(tmp_path)


def test_base_with_added_tokens_equals_transformers(tmp_path):
    XLMRobertaXLTokenizer.from_pretrained("nano").save_pretrained(tmp_path)
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path)
    tokenizer.add_tokens(["covid19", transformers.AddedToken("[E1]", lstrip=True, special=True)])
    shape = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    config = transformers.XLMRobertaConfig(vocab_size=len(tokenizer), max_position_embeddings=130, **shape)
    torch.manual_seed(0)
    model = transformers.XLMRobertaModel(config).eval()
    tokenizer.save_pretrained(tmp_path)
    model.save_pretrained(tmp_path)
    texts = ["covid19 spreads", "Paris [E1] and </s", "plain"]
    with torch.no_grad():
        expected = np.vstack([model(**tokenizer(t, return_tensors="pt")).last_hidden_state.mean(1) for t in texts])
    for vocabulary in ("full", "trim"):
        embedder = XLMRXLEmbedder(tmp_path, pooling="mean", dtype="float32", vocabulary=vocabulary)
        np.testing.assert_allclose(embedder.fit(texts).transform(texts), expected, atol=1e-5)
    model.resize_token_embeddings(len(tokenizer) - 1)
    model.save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match="its tokenizer has 9504 ids, its model 9503"):
        get_backbone(tmp_path)
