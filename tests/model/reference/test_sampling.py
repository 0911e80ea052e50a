"""Which tokens sampling leaves out, and how tokens are drawn."""

import pytest
import torch
from transformers.generation import logits_process as theirs

from skxlmr.model.reference.sampling import (
    draw,
    exponential_noise,
    keep_above_eta,
    keep_likeliest,
    keep_probable,
    keep_share_of_entropy,
)

SCORES = 3 * torch.randn(6, 130, generator=torch.Generator().manual_seed(0))
SCORES[1, 5:40] = SCORES[2, 3:] = -torch.inf


def generators(n):
    return [torch.Generator().manual_seed(seed) for seed in range(n)]


def test_keep_likeliest_keeps_top_k_and_top_p():
    logits = torch.log(torch.tensor([[0.5, 0.3, 0.15, 0.05]]))
    assert keep_likeliest(logits, 2, None).isfinite().tolist() == [[True, True, False, False]]
    assert keep_likeliest(logits, None, 0.8).isfinite().tolist() == [[True, True, False, False]]
    assert keep_likeliest(logits, None, 0.81).isfinite().tolist() == [[True, True, True, False]]
    assert keep_likeliest(logits, None, 1e-9).isfinite().tolist() == [[True, False, False, False]]
    assert keep_likeliest(logits, 1, 1e-9, 3).isfinite().tolist() == [[True, True, True, False]]
    shuffled = keep_likeliest(logits[:, [3, 0, 2, 1]], None, 0.8)
    assert shuffled.isfinite().tolist() == [[False, True, False, True]]
    assert keep_likeliest(logits, 99, 1.0).equal(logits)
    assert keep_likeliest(logits, 0, None).equal(logits)


@pytest.mark.parametrize("at_least", [1, 3])
@pytest.mark.parametrize("cutoff", [0.001, 0.05, 0.6])
def test_cutoffs_equal_transformers(cutoff, at_least):
    for ours, reference in ((keep_probable, theirs.EpsilonLogitsWarper), (keep_above_eta, theirs.EtaLogitsWarper)):
        expected = reference(cutoff, min_tokens_to_keep=at_least)(None, SCORES)
        assert torch.equal(ours(SCORES, cutoff, at_least), expected)


@pytest.mark.parametrize("top_h", [0.1, 0.5, 0.9])
def test_share_of_entropy_equals_transformers(top_h):
    assert torch.equal(keep_share_of_entropy(SCORES, top_h), theirs.TopHLogitsWarper(top_h)(None, SCORES))


def test_draws_with_a_generator_for_each_text_do_not_depend_on_the_others():
    probabilities = SCORES.softmax(-1)
    together = draw(probabilities, generators(6))
    for row in range(6):
        assert draw(probabilities[row : row + 1], generators(6)[row : row + 1]) == together[row]
    noise = exponential_noise(SCORES, generators(6))
    assert noise.shape == SCORES.shape
    assert torch.equal(exponential_noise(SCORES[4:5], generators(6)[4:5]), noise[4:5])


def test_draws_with_a_generator_for_each_text_follow_probabilities():
    probabilities = torch.tensor([[0.0, 0.5, 0.3, 0.2, 0.0], [0.1, 0.0, 0.0, 0.0, 0.9]])
    drawn = draw(probabilities.repeat_interleave(4000, 0), generators(2)).view(2, 4000)
    for row in range(2):
        counts = torch.bincount(drawn[row], minlength=5)
        deviations = (4000 * probabilities[row] * (1 - probabilities[row])).sqrt()
        assert ((counts - 4000 * probabilities[row]).abs() <= 5 * deviations).all()
