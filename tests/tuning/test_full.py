import torch

from skxlmr import Full, Head, LoRA
from skxlmr.model import XLMRobertaXLModel


def test_full_copies_weights_without_changing_base(config):
    base = XLMRobertaXLModel(config, add_pooling_layer=False)
    assert sorted(Full().copy_weights(base)) == ["embeddings", "layers", "norm"]
    copied = Full(layers=1).copy_weights(base)
    assert sorted(copied) == ["layers", "norm"]
    assert len(copied["layers"]) == 1
    (ours, theirs) = (next(layers[-1].parameters()) for layers in (copied["layers"], base.layers))
    assert torch.equal(ours, theirs)
    with torch.no_grad():
        ours.zero_()
    assert theirs.any()
    assert LoRA().copy_weights(base) is Head().copy_weights(base) is None
