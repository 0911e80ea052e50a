"""Combinations of what changes the scores of the next token, compared with transformers."""

import pytest
import torch
from decoders import FAMILIES, decoder_pair, prompts, reference_generate
from parameter_ids import id_without_address
from random_generation import random_options

OUTPUTS = {"return_dict_in_generate": True, "output_scores": True, "output_logits": True}
LENGTHS = [(4, 7, 2), (1,), (6,), (1, 1)]


@pytest.fixture(scope="module")
def pairs():
    return [decoder_pair(family) for family in FAMILIES]


def both(pair, ids, mask, **options):
    """Run both with the same random numbers."""
    torch.manual_seed(0)
    ours = pair[0].generate(ids, mask, **options)
    torch.manual_seed(0)
    return ours, reference_generate(pair[1], ids, mask, **options)


@pytest.mark.parametrize("mode", ["greedy", "beams", "sampling"])
@pytest.mark.parametrize("seed", range(16))
def test_random_combinations_equal_transformers(pairs, seed, mode):
    ids, mask = prompts(LENGTHS[seed % 4])
    got, expected = both(pairs[seed % 2], ids, mask, **random_options(f"{seed}-{mode}", mode), **OUTPUTS)
    assert torch.equal(got.sequences, expected.sequences)
    if mode == "beams":
        torch.testing.assert_close(got.sequences_scores, expected.sequences_scores, atol=1e-4, rtol=0)
        return
    for name in ("scores", "logits"):
        for step, (ours, theirs) in enumerate(zip(got[name], expected[name], strict=True)):
            running = got.sequences[:, ids.shape[1] + step] != 1
            kept = torch.arange(30) != 1  # padding counts for the encoder_repetition_penalty there
            torch.testing.assert_close(ours[running][:, kept], theirs[running][:, kept].float(), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    "options",
    [
        {"sequence_bias": {(11,): 3.0, (26, 26): -9.0}},
        {"sequence_bias": [[[11], 3.0], [[26, 26], -9.0]]},
        {"encoder_repetition_penalty": 6.0},
        {"encoder_no_repeat_ngram_size": 1},
        {"forced_eos_token_id": 21},
        {"forced_bos_token_id": 9, "begin_suppress_tokens": [23, 20]},
        {"exponential_decay_length_penalty": (2, 1.9)},
        {"begin_suppress_tokens": [26, 20]},
    ],
    ids=id_without_address,
)
def test_option_alone_equals_transformers_and_changes_the_result(pairs, options):
    ids, mask = prompts((1, 1)) if "forced_bos_token_id" in options else prompts((6, 6))
    for beams in ({}, {"num_beams": 3}):
        got, expected = both(pairs[0], ids, mask, max_new_tokens=9, **options, **beams)
        assert torch.equal(got, expected)
        assert not torch.equal(got, pairs[0][0].generate(ids, mask, max_new_tokens=9, **beams))


@pytest.mark.parametrize(
    "options",
    [{"top_h": 0.4}, {"epsilon_cutoff": 0.05}, {"eta_cutoff": 0.2}, {"eta_cutoff": 0.2, "epsilon_cutoff": 0.03}],
    ids=id_without_address,
)
@pytest.mark.parametrize("beams", [{}, {"num_beams": 3}], ids=id_without_address)
def test_sampling_probabilities_equal_transformers(pairs, options, beams):
    """In the first step, which is not random."""
    ids, mask = prompts()
    got, expected = both(pairs[0], ids, mask, do_sample=True, max_new_tokens=1, **options, **beams, **OUTPUTS)
    torch.testing.assert_close(got.scores[0], expected.scores[0], atol=1e-5, rtol=0)
    assert got.scores[0].isinf().any()


def test_renormalised_scores_are_log_probabilities(pairs):
    ids, mask = prompts()
    options = {"suppress_tokens": [26, 23], "max_new_tokens": 2, "renormalize_logits": True, **OUTPUTS}
    for scores in pairs[0][0].generate(ids, mask, **options).scores:
        torch.testing.assert_close(scores.exp().sum(-1), torch.ones(3))


def test_values_that_are_not_numbers_are_removed(pairs):
    ids, mask = prompts()
    broken = {"logits_processor": lambda ids, scores: scores}
    model = pairs[0][0]
    bias = model.lm_head.bias
    before = bias.detach().clone()
    with torch.no_grad():
        bias[20], bias[21] = torch.nan, -torch.inf
    try:
        options = {"max_new_tokens": 3, "remove_invalid_values": True, "suppress_tokens": [5], **OUTPUTS}
        got = model.generate(ids, mask, **options, **broken)
    finally:
        with torch.no_grad():
            bias.copy_(before)
    assert all(scores[:, 20].eq(0).all() and scores[:, [5, 21]].eq(-torch.inf).all() for scores in got.scores)
    assert all(logits[:, 20].isnan().all() for logits in got.logits)


def test_bad_words_do_not_ban_the_end_of_a_text(pairs):
    ids, mask = prompts()
    options = {"max_new_tokens": 12, "eos_token_id": [2, 11]}
    got, expected = both(pairs[0], ids, mask, bad_words_ids=[[2], [11], [26]], **options)
    assert torch.equal(got, expected)
    assert (got[:, 7:] == 11).any()
    assert not (got[:, 7:] == 26).any()


def test_min_new_tokens_replaces_min_length(pairs):
    ids, mask = prompts()
    options = {"max_new_tokens": 12, "eos_token_id": [2, 11], "min_length": 19, "min_new_tokens": 2}
    got, expected = both(pairs[0], ids, mask, **options)
    assert torch.equal(got, expected)
    assert not torch.equal(got, pairs[0][0].generate(ids, mask, **{**options, "min_new_tokens": 0}))
