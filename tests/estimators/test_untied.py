"""Estimators on language models whose decoder is not the word embedding."""

import numpy as np
import pytest
import torch
import transformers
from loaded_checkpoints import TEXTS, again

import skxlmr
from skxlmr import XLMRXLMaskedLM
from skxlmr.hardware.footprint import num_learned
from skxlmr.tuning import Full, LoRA

TEXT = "the <mask> is wide"


def probabilities(model, oracle, text=TEXT):
    """Probabilities of the pieces at the mask, by transformers."""
    ids = oracle(text, return_tensors="pt")["input_ids"]
    with torch.no_grad():
        logits = model(input_ids=ids).logits[0, ids[0].tolist().index(oracle.mask_token_id)]
    return logits.softmax(-1)


def likeliest(probabilities, oracle):
    """The three likeliest pieces that are not special tokens."""
    return [i for i in probabilities.argsort(descending=True).tolist() if i not in oracle.all_special_ids][:3]


@pytest.mark.parametrize("name", ["XLMRobertaXLForMaskedLM", "BertForMaskedLM"])
def test_fill_mask_of_untied_checkpoint_equals_transformers(name, make, oracle, tmp_path):
    directory, model = make(name, tie_word_embeddings=False)
    expected = probabilities(model, oracle)
    lm = skxlmr.load(directory)
    lm.export_pretrained(tmp_path / "exported")
    for estimator in (lm, XLMRXLMaskedLM(directory), skxlmr.load(tmp_path / "exported"), *again(lm, tmp_path)):
        found = estimator.fill_mask([TEXT], top_k=3)
        np.testing.assert_allclose(found["score"], expected[likeliest(expected, oracle)].numpy(), atol=1e-5)
    exported = type(model).from_pretrained(tmp_path / "exported").eval()
    torch.testing.assert_close(probabilities(exported, oracle), expected, rtol=0, atol=1e-5)


def test_generate_of_untied_checkpoint_equals_transformers(make, oracle, tmp_path):
    directory, model = make("XLMRobertaXLForCausalLM", is_decoder=True, tie_word_embeddings=False)
    ids = oracle(TEXTS[0], return_tensors="pt")["input_ids"]
    with torch.no_grad():
        of_next = model(input_ids=ids).logits[0, :-1].log_softmax(-1)
    expected = of_next.gather(1, ids[0, 1:, None])[:-1].sum().item()
    generator = skxlmr.load(directory)
    for estimator in (generator, *again(generator, tmp_path)):
        np.testing.assert_allclose(estimator.log_likelihood(TEXTS[:1]), [expected], rtol=1e-5)
        assert estimator.generate(TEXTS[:1], max_new_tokens=2).shape == (1,)
    eight = skxlmr.load(directory, load_in_8bit=True, device="cpu")
    np.testing.assert_allclose(eight.log_likelihood(TEXTS[:1]), [expected], rtol=0.05)


@pytest.mark.parametrize("tuning", [Full(), Full(layers=1), LoRA()], ids=str)
def test_decoder_is_trained_where_word_embeddings_are(tuning, make, oracle, tmp_path):
    directory, _ = make("XLMRobertaForMaskedLM", tie_word_embeddings=False)
    before = skxlmr.load(directory)._finetuned.head.state_dict()
    lm = XLMRXLMaskedLM(directory, tuning=tuning, max_epochs=1, learning_rate=1e-2, random_state=0).fit(TEXTS)
    head = lm._finetuned.head
    changed = {name for name, tensor in head.state_dict().items() if not torch.equal(tensor, before[name])}
    assert changed == before.keys() - (set() if tuning.layers is None and tuning.trains_base else {"decoder"})
    learned = sum(p.numel() for name, p in lm._finetuned.named_parameters() if name != "head.decoder")
    learned += head.decoder.numel() * ("decoder" in changed)
    assert num_learned(lm._finetuned.config, tuning, "masked") == pytest.approx(learned, rel=0.02)  # unused LayerNorms
    lm.export_pretrained(tmp_path / "exported")
    exported = transformers.XLMRobertaForMaskedLM.from_pretrained(tmp_path / "exported").eval()
    expected = probabilities(exported, oracle)
    found = lm.fill_mask([TEXT], top_k=3)["score"]
    np.testing.assert_allclose(found, expected[likeliest(expected, oracle)].numpy(), atol=1e-5)
