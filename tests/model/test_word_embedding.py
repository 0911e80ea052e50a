"""Word embeddings that are mapped from the cache give the same results as in memory."""

import pytest
import torch
import transformers

from skxlmr import XLMRXLClassifier, XLMRXLMaskedLM
from skxlmr.model import XLMRobertaModel, XLMRobertaXLTokenizer
from skxlmr.model import word_embedding as mapped
from skxlmr.runtime.backbone import release_models

IDS = torch.tensor([[0, 7, 3, 9, 2], [0, 59, 40, 2, 1]])
MASK = (IDS != 1).long()
SHAPE = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}


@pytest.fixture(params=["float16", "bfloat16"])
def checkpoint(request, tmp_path, monkeypatch, own_cache):
    """A 16-bit checkpoint whose small word embedding is mapped, too."""
    tokenizer = XLMRobertaXLTokenizer.from_pretrained("nano")
    monkeypatch.setattr(mapped, "WORTH_MAPPING", 1)
    torch.manual_seed(0)
    config = transformers.XLMRobertaConfig(**SHAPE, vocab_size=tokenizer.vocab_size, initializer_range=0.3)
    model = transformers.XLMRobertaForMaskedLM(config).to(getattr(torch, request.param))
    model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def states(checkpoint, mapped=True, dtype=torch.float64):
    model = XLMRobertaModel.from_pretrained(checkpoint, dtype=dtype, map_word_embedding=mapped, add_pooling_layer=False)
    return model, model(IDS, MASK).last_hidden_state


def test_mapped_word_embedding_equals_transformers(checkpoint, own_cache):
    reference = transformers.XLMRobertaModel.from_pretrained(checkpoint, dtype=torch.float64, add_pooling_layer=False)
    expected = reference.eval()(IDS, MASK).last_hidden_state
    for _ in range(2):  # first written to the cache, then read from it
        model, got = states(checkpoint)
        assert model.embeddings.word.weight.element_size() == 2
        torch.testing.assert_close(got[MASK == 1], expected[MASK == 1], rtol=0, atol=1e-9)
    assert len(list(own_cache.glob("*-words-*.safetensors"))) == 1
    (path,) = own_cache.glob("*-words-*.safetensors")
    path.unlink()  # a mapped file stays readable
    assert torch.equal(model(IDS, MASK).last_hidden_state, got)


def test_map_words_maps_only_16_bits(checkpoint, own_cache):
    whole = XLMRobertaModel.from_pretrained(checkpoint, dtype=torch.float32, add_pooling_layer=False)
    whole.save_pretrained(checkpoint / "wide")
    assert states(checkpoint / "wide")[0].embeddings.word.weight.dtype == torch.float64
    assert not own_cache.exists()


def test_map_words_rebuilds_damaged_file(checkpoint, own_cache):
    _, expected = states(checkpoint)
    (path,) = own_cache.glob("*-words-*.safetensors")
    content = path.read_bytes()
    for damaged in (content[:-100], content[:-1] + bytes([content[-1] ^ 1])):
        path.write_bytes(damaged)
        with pytest.warns(UserWarning, match="damaged and made again"):
            assert torch.equal(states(checkpoint)[1], expected)
        assert path.read_bytes() == content


def test_map_words_without_cache_warns(checkpoint, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("SKXLMR_CACHE", str(tmp_path / "file"))
    with pytest.warns(UserWarning, match=r"held in memory: .*SKXLMR_CACHE chooses another folder"):
        model, got = states(checkpoint)
    assert model.embeddings.word.weight.dtype == torch.float64
    torch.testing.assert_close(got, states(checkpoint, mapped=False)[1], rtol=0, atol=1e-12)


@pytest.mark.parametrize("settings", [{}, {"tuning": "full"}, {"vocabulary": "trim"}], ids=str)
def test_fit_with_mapped_word_embedding_equals_in_memory(settings, checkpoint, monkeypatch):
    texts, labels = ["a wonderful film", "dreadful", "I loved it"], ["good", "bad", "good"]
    parameters = {"max_epochs": 2, "random_state": 0, "device": "cpu", "dtype": "float32", **settings}
    found = []
    for least in (1, 2**40):
        monkeypatch.setattr(mapped, "WORTH_MAPPING", least)
        release_models()
        clf = XLMRXLClassifier(checkpoint, **parameters).fit(texts, labels)
        assert (clf._fitted_backbone().model.embeddings.word.weight.element_size() == 2) == (least == 1)
        found.append(torch.from_numpy(clf.predict_proba(texts)))
        del clf
    torch.testing.assert_close(*found, rtol=0, atol=1e-6)


def test_masked_lm_with_mapped_word_embedding_equals_in_memory(checkpoint, monkeypatch):
    found = []
    for least in (1, 2**40):
        monkeypatch.setattr(mapped, "WORTH_MAPPING", least)
        release_models()
        found.append(XLMRXLMaskedLM(checkpoint, device="cpu", dtype="float32").fill_mask(["a <mask> film"], top_k=3))
    assert found[0].token.tolist() == found[1].token.tolist()
    assert found[0].score.tolist() == pytest.approx(found[1].score.tolist(), rel=1e-5)
