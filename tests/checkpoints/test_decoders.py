from contextlib import closing

import pytest
import torch
from safetensors.torch import save_file

from skxlmr.checkpoints.decoders import bias_names, own_decoders, tied_to
from skxlmr.checkpoints.formats import open_weights

WORDS = "roberta.embeddings.word_embeddings.weight"


def own_of(path, **changes):
    """Which decoders of a checkpoint with these changes are their own; None leaves a tensor out."""
    torch.manual_seed(0)
    words, bias = torch.randn(3000, 16), torch.randn(3000)
    tensors = {WORDS: words, "lm_head.bias": bias, "lm_head.decoder.weight": words, "lm_head.decoder.bias": bias}
    tensors |= {name.replace("__", "."): tensor for name, tensor in changes.items()}
    save_file({name: t.clone() for name, t in tensors.items() if t is not None}, path / "model.safetensors")
    with closing(open_weights(path / "model.safetensors")) as file:
        return own_decoders(dict.fromkeys(file.tensors, file))


def test_own_decoders_are_those_that_differ(tmp_path):
    assert own_of(tmp_path) == []
    assert own_of(tmp_path, lm_head__decoder__weight=torch.randn(3000, 16)) == ["lm_head.decoder.weight"]
    assert own_of(tmp_path, lm_head__decoder__weight=torch.randn(3000, 8)) == ["lm_head.decoder.weight"]
    assert own_of(tmp_path, lm_head__decoder__bias=torch.zeros(3000)) == ["lm_head.decoder.bias"]


def test_decoders_that_nothing_can_be_tied_to_are_not_compared(tmp_path):
    assert own_of(tmp_path, lm_head__bias=None) == []
    assert own_of(tmp_path, **{WORDS: None}) == []


@pytest.mark.parametrize("head", ["lm_head", "cls.predictions"])
def test_bias_of_the_decoder_comes_first(head):
    names = [f"{head}.bias", f"{head}.decoder.weight", f"{head}.decoder.bias", WORDS]
    assert bias_names(names) == {f"{head}.bias": f"{head}.decoder.bias"}
    assert bias_names(names[:2]) == {}
    assert tied_to(names[1], names) == WORDS
    assert tied_to(names[2], names) == names[0]
