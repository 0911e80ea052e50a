"""Beam search, compared with transformers and with an exhaustive search."""

import pytest
import torch
from decoders import FAMILIES, decoder_pair, prompts, reference_generate

OPTIONS = [
    {},
    {"num_beams": 2, "early_stopping": True},
    {"early_stopping": "never", "length_penalty": 2.0, "num_return_sequences": 4},
    {"early_stopping": "never", "length_penalty": -1.0},
    {"length_penalty": 0.0, "num_return_sequences": 3, "eos_token_id": 11},
    {"length_penalty": -1.0, "early_stopping": True, "num_return_sequences": 2},
    {"repetition_penalty": 1.5, "no_repeat_ngram_size": 2, "bad_words_ids": [[26], [20, 23]], "min_new_tokens": 5},
    {"max_new_tokens": 1, "num_return_sequences": 4},
]


@pytest.fixture(scope="module", params=FAMILIES)
def pair(request):
    return decoder_pair(request.param)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_beam_search_equals_transformers(pair, options):
    ours, theirs = pair
    options = {
        "num_beams": 4, "max_new_tokens": 11, "eos_token_id": [2, 11, 17], "output_scores": True,
        "return_dict_in_generate": True,
    } | options  # fmt: skip
    batch, mask = prompts()
    for ids, ones in ((batch, mask), (batch[1:2], mask[1:2])):
        got, expected = ours.generate(ids, ones, **options), reference_generate(theirs, ids, ones, **options)
        assert torch.equal(got.sequences, expected.sequences)
        assert torch.equal(got.beam_indices, expected.beam_indices.long())
        torch.testing.assert_close(got.sequences_scores, expected.sequences_scores, atol=1e-5, rtol=0)
        assert len(got.scores) == len(expected.scores)
        for ours_of_step, theirs_of_step in zip(got.scores, expected.scores, strict=True):
            torch.testing.assert_close(ours_of_step, theirs_of_step, atol=1e-4, rtol=0)
    assert list(got) == ["sequences", "sequences_scores", "scores", "beam_indices"]


def test_beam_search_as_wide_as_the_vocabulary_finds_the_most_probable(pair):
    ours, _ = pair
    ids = torch.tensor([[0, 7, 9]])
    two = torch.cartesian_prod(torch.arange(30), torch.arange(30))  # (900, 2)
    with torch.no_grad():
        log_p = ours(torch.cat([ids.expand(900, -1), two], 1)).logits.float().log_softmax(-1)
    total = log_p[:, 2:4].gather(2, two[..., None]).sum((1, 2))
    best = total.topk(5)
    got = ours.generate(
        ids, num_beams=30, num_return_sequences=5, max_new_tokens=2, length_penalty=0.0, eos_token_id=-1,
        output_scores=True, return_dict_in_generate=True,
    )  # fmt: skip
    assert torch.equal(got.sequences[:, 3:], two[best.indices])
    torch.testing.assert_close(got.sequences_scores, best.values, atol=1e-5, rtol=0)


def test_beam_search_with_cache_equals_without_and_does_not_depend_on_batch(pair):
    ours, _ = pair
    ids, mask = prompts()
    options = {"num_beams": 3, "max_new_tokens": 9, "num_return_sequences": 2, "eos_token_id": [2, 11]}
    together = ours.generate(ids, mask, **options)
    assert torch.equal(together, ours.generate(ids, mask, use_cache=False, **options))
    for row, length in enumerate((4, 7, 2)):
        alone = ours.generate(ids[row : row + 1, -length:], **options)[:, length:]
        of_row = together[2 * row : 2 * row + 2, 7:]
        assert torch.equal(of_row[:, : alone.shape[1]], alone)
        assert (of_row[:, alone.shape[1] :] == 1).all()


def test_beam_search_with_stopping_criterion_equals_transformers(pair):
    ours, theirs = pair
    ids, mask = prompts()
    options = {"num_beams": 3, "max_new_tokens": 9, "stopping_criteria": [lambda ids, scores: ids[:, -1] % 5 == 1]}
    got = ours.generate(ids, mask, **options)
    assert torch.equal(got, reference_generate(theirs, ids, mask, **options))
    at_once = ours.generate(ids, mask, num_beams=3, stopping_criteria=lambda ids, scores: True)
    assert torch.equal(at_once, ours.generate(ids, mask, num_beams=3, max_new_tokens=1))


def test_sampled_beams_are_drawn_without_replacement_by_probability(pair):
    """With one new token, the two beams are the first two draws."""
    ours, _ = pair
    n_texts, ids = 3000, torch.tensor([[0, 7, 9]])
    p = (ours(ids).logits[0, -1] / 3).softmax(-1).detach()
    first_or_second = p + torch.stack([p[i] * (p / (1 - p) * (torch.arange(30) != i)).sum() for i in range(30)])
    got = ours.generate(
        ids.expand(n_texts, -1), num_beams=2, num_return_sequences=2, max_new_tokens=1, do_sample=True,
        logits_processor=lambda ids, scores: (scores / 3).log_softmax(-1), generator=torch.Generator().manual_seed(0),
    )  # fmt: skip
    assert (got[::2, 3] != got[1::2, 3]).all()
    counts = torch.bincount(got[:, 3], minlength=30)
    deviation = (n_texts * first_or_second * (1 - first_or_second)).sqrt()
    assert ((counts - n_texts * first_or_second).abs() < 5 * deviation + 1).all()


def test_sampled_beams_among_top_k_keep_two_tokens_as_in_transformers(pair):
    ours, theirs = pair
    ids, mask = prompts()
    options = {
        "num_beams": 2, "do_sample": True, "top_k": 1, "max_new_tokens": 1, "output_scores": True,
        "return_dict_in_generate": True,
    }  # fmt: skip
    got = ours.generate(ids, mask, generator=torch.Generator().manual_seed(0), **options)
    kept = reference_generate(theirs, ids, mask, **options | {"num_return_sequences": 2}).scores[0]
    torch.testing.assert_close(got.scores[0], kept, atol=1e-5, rtol=0)
    assert (got.scores[0].isfinite().sum(1) == 2).all()
