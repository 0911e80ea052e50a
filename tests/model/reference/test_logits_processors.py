"""What changes the scores of the next token, on padded batches."""

import torch
from transformers.generation import logits_process as theirs

from skxlmr.model import XLMRobertaXLConfig
from skxlmr.model.reference.logits_processors import (
    ban_repeated_ngrams,
    ban_words,
    keep_likeliest,
    only_real_tokens,
    penalise_repetition,
)

SCORES = torch.randn(2, 9, generator=torch.Generator().manual_seed(0))
IDS = torch.tensor([[1, 1, 4, 5, 4], [4, 5, 1, 4, 5]])
REAL = torch.tensor([[0, 0, 1, 1, 1], [1, 1, 1, 1, 1]]).bool()


def test_penalise_repetition_changes_tokens_of_text_but_not_padding():
    got = penalise_repetition(SCORES, IDS, REAL, 1.5)
    for row, seen in enumerate(([4, 5], [1, 4, 5])):
        alone = theirs.RepetitionPenaltyLogitsProcessor(1.5)(IDS[row : row + 1][:, REAL[row]], SCORES[row : row + 1])
        assert torch.equal(got[row : row + 1], alone)
        assert (got[row] != SCORES[row]).nonzero()[:, 0].tolist() == seen
    assert torch.equal(penalise_repetition(SCORES, IDS[:, :0], REAL[:, :0], 2.0), SCORES)


def test_ban_repeated_ngrams_bans_what_would_end_one():
    banned = [
        [row.isinf().nonzero()[:, 0].tolist() for row in ban_repeated_ngrams(SCORES, IDS, REAL, size)]
        for size in (1, 2, 3, 6)
    ]
    assert banned == [[[4, 5], [1, 4, 5]], [[5], [1]], [[], [1]], [[], []]]
    for size in (1, 2, 3, 6):
        assert torch.equal(
            ban_repeated_ngrams(SCORES, IDS[1:], REAL[1:], size),
            theirs.NoRepeatNGramLogitsProcessor(size)(IDS[1:], SCORES),
        )


def test_ban_words_bans_last_token_after_the_others():
    words = [[7], [4, 6], [1, 4, 5, 8], [4, 5, 1, 4, 5, 2], [9, 3]]
    banned = [row.isinf().nonzero()[:, 0].tolist() for row in ban_words(SCORES, IDS, words)]
    assert banned == [[6, 7], [2, 7, 8]]
    expected = theirs.NoBadWordsLogitsProcessor(words[:4])(IDS, SCORES)
    assert torch.equal(ban_words(SCORES, IDS, words[:4]), expected)


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


def test_only_real_tokens_masks_unused_ids():
    xl = XLMRobertaXLConfig.xl()
    logits = only_real_tokens(torch.zeros(2, xl.vocab_size), xl.real_vocab_size)
    assert logits.isfinite().sum(1).tolist() == [250_002, 250_002]
    assert logits[:, :250_002].eq(0).all()
