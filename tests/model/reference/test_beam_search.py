"""Beam search, compared with transformers, with an exhaustive search, and groups of beams with a loop over lists."""

import itertools
from collections import Counter

import pytest
import torch
from decoders import FAMILIES, decoder_pair, prompts, reference_generate
from parameter_ids import id_without_address

OPTIONS = [
    {},
    {"num_beams": 2, "early_stopping": True},
    {"early_stopping": "never", "length_penalty": 2.0, "num_return_sequences": 4},
    {"early_stopping": "never", "length_penalty": -1.0},
    {"length_penalty": 0.0, "num_return_sequences": 3, "eos_token_id": 11},
    {"length_penalty": -1.0, "early_stopping": True, "num_return_sequences": 2},
    {"repetition_penalty": 1.5, "no_repeat_ngram_size": 2, "bad_words_ids": [[26], [20, 23]], "min_new_tokens": 5},
    {"max_new_tokens": 1, "num_return_sequences": 4},
    {"suppress_tokens": [11, 26], "begin_suppress_tokens": [20, 23], "max_time": 1e9},
    {
        "prefix_allowed_tokens_fn": lambda text, ids: [2, 11, *range(12 + text + len(ids) % 3, 28)],
        "num_return_sequences": 2,
    },
]


@pytest.fixture(scope="module", params=FAMILIES)
def pair(request):
    return decoder_pair(request.param)


@pytest.mark.parametrize("options", OPTIONS, ids=id_without_address)
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


def groups_by_definition(
    model, ids, n_new, num_beams, num_beam_groups, diversity_penalty, ends=(), stops=(), length_penalty=1.0,
    early_stopping=False, repetition_penalty=1.0,
):  # fmt: skip
    """Continue one text, a list, by one forward pass of transformers' model in float64 per group and token.

    Returns pairs of score and text, best first.
    """
    n_each = num_beams // num_beam_groups
    running, ended = [[(0.0, ids)] for _ in range(num_beam_groups)], [[] for _ in range(num_beam_groups)]
    is_open = [True] * num_beam_groups
    for n in range(1, n_new + 1):
        chosen = Counter()
        for g in range(num_beam_groups):
            if not is_open[g]:
                continue
            found = []
            with torch.no_grad():
                logits = model(torch.tensor([text for _, text in running[g]]), use_cache=False).logits[:, -1]
            for (total, text), log_p in zip(running[g], logits.log_softmax(-1).tolist(), strict=True):
                for token, value in enumerate(log_p):
                    score = value - diversity_penalty * chosen[token]
                    score *= repetition_penalty if token in text else 1.0
                    found.append((total + score, [*text, token]))
            found.sort(reverse=True)
            done = [pair for pair in found[:n_each] if pair[1][-1] in (*ends, *stops) or n == n_new]
            ended[g] += [(total / n**length_penalty, text) for total, text in done]
            ended[g] = sorted(ended[g], reverse=True)[:n_each]
            chosen.update([text[-1] for _, text in found if text[-1] not in ends][:n_each])
            running[g] = [(total, text) for total, text in found if text[-1] not in (*ends, *stops)][:n_each]
            if len(ended[g]) == n_each:
                better = running[g][0][0] / n**length_penalty > ended[g][-1][0]
                is_open[g] = better and not early_stopping
    return sorted(itertools.chain(*ended), reverse=True)


@pytest.mark.parametrize(
    "options",
    [
        {"num_beams": 4, "num_beam_groups": 2, "diversity_penalty": 1.5},
        {"num_beams": 3, "num_beam_groups": 3, "diversity_penalty": 0.4, "length_penalty": -0.5},
        {"num_beams": 6, "num_beam_groups": 3, "diversity_penalty": 4.0, "early_stopping": True},
        {"num_beams": 4, "num_beam_groups": 2, "diversity_penalty": 1.0, "repetition_penalty": 1.4},
    ],
    ids=id_without_address,
)
@pytest.mark.parametrize("ends", [[], [2, 11, 17, 20]], ids=["without_ends", "with_ends"])
def test_groups_of_beams_equal_definition(pair, options, ends):
    ours, theirs = pair
    batch, mask = prompts()
    n_each = options["num_beams"]
    got = ours.generate(
        batch, mask, max_new_tokens=6, eos_token_id=ends or -1, num_return_sequences=n_each, output_scores=True,
        return_dict_in_generate=True, **options,
    )  # fmt: skip
    for row in range(3):
        text = batch[row, mask[row] == 1].tolist()
        expected = groups_by_definition(theirs, text, 6, ends=ends, **options)
        scores = got.sequences_scores[n_each * row : n_each * (row + 1)]
        torch.testing.assert_close(scores, torch.tensor([score for score, _ in expected]), atol=1e-5, rtol=0)
        for sequence, (_, wanted) in zip(got.sequences[n_each * row : n_each * (row + 1)], expected, strict=True):
            new = sequence[7:].tolist()
            assert new[: len(wanted) - len(text)] == wanted[len(text) :]
            assert set(new[len(wanted) - len(text) :]) <= {1}


def test_groups_of_beams_with_cache_equal_those_without_and_scores_sum_up(pair):
    ours, _ = pair
    ids, mask = prompts()
    options = {
        "num_beams": 6, "num_beam_groups": 3, "diversity_penalty": 2.0, "num_return_sequences": 6, "max_new_tokens": 5,
        "eos_token_id": -1, "length_penalty": 0.0, "output_scores": True, "return_dict_in_generate": True,
    }  # fmt: skip
    got, expected = ours.generate(ids, mask, **options), ours.generate(ids, mask, use_cache=False, **options)
    assert torch.equal(got.sequences, expected.sequences)
    assert torch.equal(got.beam_indices, expected.beam_indices)
    chosen = [
        scores[rows, new]
        for scores, rows, new in zip(got.scores, got.beam_indices.T, got.sequences[:, 7:].T, strict=True)
    ]
    torch.testing.assert_close(got.sequences_scores, sum(chosen), atol=1e-5, rtol=0)
    assert (got.beam_indices // 2 == got.beam_indices[:, :1] // 2).all()  # a beam stays in its group


def test_groups_with_a_large_penalty_choose_tokens_that_differ(pair):
    ours, _ = pair
    ids, mask = prompts()
    options = {"num_beams": 5, "num_return_sequences": 5, "max_new_tokens": 4, "eos_token_id": -1}
    got = ours.generate(ids, mask, num_beam_groups=5, diversity_penalty=1e4, **options)[:, 7:].unflatten(0, (3, 5))
    assert all(len(set(of_step.tolist())) == 5 for of_text in got for of_step in of_text.T)


def test_criteria_end_groups_of_beams(pair):
    ours, theirs = pair
    ids, mask = prompts((5,))
    options = {"num_beams": 4, "num_beam_groups": 2, "diversity_penalty": 1.5}
    got = ours.generate(
        ids, mask, max_new_tokens=6, eos_token_id=-1, stopping_criteria=lambda ids, scores: ids[:, -1] % 3 == 1,
        **options,
    )  # fmt: skip
    expected = groups_by_definition(theirs, ids[0].tolist(), 6, stops=range(1, 30, 3), **options)
    assert got[0].tolist() == expected[0][1]
