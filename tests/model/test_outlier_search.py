import pytest
import torch

from skxlmr.checkpoints.resolve import resolve
from skxlmr.model import XLMRobertaXLConfig, XLMRobertaXLModel
from skxlmr.model.outlier_search import calibration_ids, find_outliers
from skxlmr.model.quantized import int8_layers


def test_calibration_ids_with_tokenizer_are_sentences():
    sentences = calibration_ids(resolve("nano"), 9502, 512)
    assert len(sentences) == 36
    assert all(len(ids) <= 12 and ids[0] == 0 and ids[-1] == 2 for ids in sentences)


def test_calibration_ids_without_tokenizer_are_random(tmp_path):
    config = XLMRobertaXLConfig(vocab_size=900, hidden_size=8, num_hidden_layers=1, num_attention_heads=1)
    XLMRobertaXLModel(config).save_pretrained(tmp_path)
    sentences = calibration_ids(resolve(tmp_path), 900, 512)
    assert len(sentences) == 36
    assert all(((ids >= 4) & (ids < 900)).all() for ids in sentences)


def test_find_outliers_is_the_same_for_all_settings(own_cache):
    model = XLMRobertaXLModel.from_pretrained("nano", add_pooling_layer=False, load_in_8bit=True).train()
    layers = int8_layers(model)
    expected = {name: (layer.candidates, layer.outliers) for name, layer in layers.items()}
    for layer in layers.values():
        layer.settings.threshold = 1e6
    find_outliers(model, layers.values(), resolve("nano"))
    assert model.training
    for name, layer in layers.items():
        assert torch.equal(layer.candidates, expected[name][0])
        assert layer.observer is None
        assert not len(layer.outliers)
        layer.settings.threshold = 6.0
        layer.set_candidates(layer.candidates, layer.peaks)
        assert torch.equal(layer.outliers, expected[name][1])


@pytest.mark.parametrize("is_decoder", [False, True])
def test_find_outliers_with_relative_positions_runs(tmp_path, own_cache, is_decoder):
    config = XLMRobertaXLConfig(
        vocab_size=900, hidden_size=64, num_hidden_layers=2, num_attention_heads=4, intermediate_size=128,
        position_embedding_type="relative_key", is_decoder=is_decoder,
    )  # fmt: skip
    XLMRobertaXLModel(config).save_pretrained(tmp_path)
    plain = XLMRobertaXLModel.from_pretrained(tmp_path)
    model = XLMRobertaXLModel.from_pretrained(tmp_path, load_in_8bit=True)
    ids = torch.tensor([[0, 70, 800, 90, 2]])
    assert all(len(layer.candidates) for layer in int8_layers(model).values())
    with torch.no_grad():
        torch.testing.assert_close(model(ids)[0], plain(ids)[0], rtol=0, atol=0.2)
