"""What changes the scores of the next token, on padded batches."""

import torch
from transformers.generation import logits_process as theirs

from skxlmr.model import XLMRobertaXLConfig
from skxlmr.model.reference.logits_processors import (
    Biases,
    ban,
    ban_ngrams,
    favour,
    force,
    only_real_tokens,
    penalise_repetition,
    without_nan,
)

SCORES = torch.randn(2, 9, generator=torch.Generator().manual_seed(0))
IDS = torch.tensor([[1, 1, 4, 5, 4], [4, 5, 1, 4, 5]])
CPU = torch.device("cpu")
REAL = torch.tensor([[0, 0, 1, 1, 1], [1, 1, 1, 1, 1]]).bool()


def test_penalise_repetition_changes_tokens_of_text_but_not_padding():
    got = penalise_repetition(SCORES, IDS, REAL, 1.5)
    for row, seen in enumerate(([4, 5], [1, 4, 5])):
        alone = theirs.RepetitionPenaltyLogitsProcessor(1.5)(IDS[row : row + 1][:, REAL[row]], SCORES[row : row + 1])
        assert torch.equal(got[row : row + 1], alone)
        assert (got[row] != SCORES[row]).nonzero()[:, 0].tolist() == seen
    assert torch.equal(penalise_repetition(SCORES, IDS[:, :0], REAL[:, :0], 2.0), SCORES)


def test_ban_ngrams_bans_what_would_end_one():
    banned = [
        [row.isinf().nonzero()[:, 0].tolist() for row in ban_ngrams(SCORES, IDS, IDS, REAL, size)]
        for size in (1, 2, 3, 6)
    ]
    assert banned == [[[4, 5], [1, 4, 5]], [[5], [1]], [[], [1]], [[], []]]
    for size in (1, 2, 3, 6):
        assert torch.equal(
            ban_ngrams(SCORES, IDS[1:], IDS[1:], REAL[1:], size),
            theirs.NoRepeatNGramLogitsProcessor(size)(IDS[1:], SCORES),
        )


def test_biases_of_minus_infinity_ban_last_token_after_the_others():
    words = [(7,), (4, 6), (1, 4, 5, 8), (4, 5, 1, 4, 5, 2), (8, 3)]
    got = Biases(dict.fromkeys(words, -torch.inf), CPU).add(SCORES, IDS)
    banned = [row.isinf().nonzero()[:, 0].tolist() for row in got]
    assert banned == [[6, 7], [2, 7, 8]]
    assert torch.equal(got, theirs.NoBadWordsLogitsProcessor([list(word) for word in words])(IDS, SCORES))


def test_ban_and_force_take_ids_that_are_none_of_the_vocabulary():
    tokens = torch.tensor([3, -1, 99])
    assert ban(SCORES, tokens).isinf().nonzero()[:, 1].tolist() == [3, 3]
    assert force(SCORES, tokens)[0].tolist() == [0.0 if i == 3 else -torch.inf for i in range(9)]


def test_favour_adds_to_finite_scores():
    scores = torch.tensor([[2.0, -2.0, -torch.inf, 1.0]])
    assert favour(scores, torch.tensor([0, 1, 2]), 1.5).tolist() == [[3.0, -1.0, -torch.inf, 1.0]]


def test_without_nan_keeps_banned_tokens():
    scores = without_nan(torch.tensor([[torch.nan, torch.inf, -torch.inf, 1.0]]))
    assert scores.tolist() == [[0.0, torch.finfo(torch.float32).max, -torch.inf, 1.0]]


def test_add_biases_adds_those_of_all_sequences_that_would_be_completed():
    biases = {(7,): 1.0, (4, 7): 2.0, (5, 4, 7): 4.0, (1, 1, 4, 5, 4, 3): 8.0, (9, 3): 16.0}
    got = Biases(biases, CPU).add(SCORES, IDS) - SCORES
    torch.testing.assert_close(got, torch.tensor([[0, 0, 0, 8.0, 0, 0, 0, 7, 0], [0] * 7 + [1.0, 0]]))
    expected = theirs.SequenceBiasLogitsProcessor({k: v for k, v in biases.items() if max(k) < 9})(IDS, SCORES)
    torch.testing.assert_close(Biases(biases, CPU).add(SCORES, IDS), expected)


def test_only_real_tokens_masks_unused_ids():
    xl = XLMRobertaXLConfig.xl()
    logits = only_real_tokens(torch.zeros(2, xl.vocab_size), xl.real_vocab_size)
    assert logits.isfinite().sum(1).tolist() == [250_002, 250_002]
    assert logits[:, :250_002].eq(0).all()
