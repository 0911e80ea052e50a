"""What transformers 4.27.2 tests of text generation, as checks of ours, by the names of its tests.

Of 69 checks, these and those of test_common_checks.py, 61 hold. `NOT_HELD` has those that do not, with the reason;
`python tests/support/reference_table.py` counts them.
There `generate` is compared with the methods that it calls; here with steps of a loop, or with transformers of today.
"""

from __future__ import annotations

import pytest
import torch
from decoders import SHAPE, decoder_pair, reference_generate
from reference_checks import checks_in, run
from transformers.generation import logits_process as theirs_of

from skxlmr.model import GenerateOutput
from skxlmr.model.reference.padded import position_ids_from_input_ids

LENGTH, MAX_LENGTH = 8, 11  # of the texts, and with the new tokens
IDS = torch.randint(4, SHAPE["vocab_size"], (2, LENGTH), generator=torch.Generator().manual_seed(5))
LAYERS, HEADS, WIDTH, VOCABULARY = (
    SHAPE[name] for name in ("num_hidden_layers", "num_attention_heads", "hidden_size", "vocab_size")
)
PROCESSED = {
    "max_length": MAX_LENGTH,
    "min_length": MAX_LENGTH - 1,
    "bad_words_ids": [[1, 0]],
    "no_repeat_ngram_size": 2,
    "repetition_penalty": 1.2,
}
SAMPLED = {"do_sample": True, "top_k": 10, "top_p": 0.7, "temperature": 0.7}
BEAMS = {"num_beams": 2, "length_penalty": 2.0, "early_stopping": False, "eos_token_id": -1}
GROUPS = {**BEAMS, "num_beam_groups": 2, "diversity_penalty": 2.0}
CONTRASTIVE = {"penalty_alpha": 0.6, "top_k": 5}
EVERYTHING = {
    "output_scores": True,
    "output_hidden_states": True,
    "output_attentions": True,
    "return_dict_in_generate": True,
}


@pytest.fixture(scope="module")
def pair():
    ours, theirs = decoder_pair("XLMRobertaXL")
    theirs.set_attn_implementation("eager")  # which returns its probabilities
    return ours, theirs


def by_steps(model, ids, sample=False):
    """Continue texts by one forward pass per token, with the processors of transformers."""
    end = model.config.eos_token_id
    processors = [
        theirs_of.RepetitionPenaltyLogitsProcessor(1.2),
        theirs_of.NoRepeatNGramLogitsProcessor(2),
        theirs_of.NoBadWordsLogitsProcessor([[1, 0]], end),
        theirs_of.MinLengthLogitsProcessor(MAX_LENGTH - 1, end, device="cpu"),
    ]
    if sample:
        processors += [theirs_of.TemperatureLogitsWarper(0.7), theirs_of.TopKLogitsWarper(10)]
        processors += [theirs_of.TopPLogitsWarper(0.7)]
    with torch.no_grad():
        for _ in range(MAX_LENGTH - LENGTH):
            scores = model(ids).logits[:, -1].float()
            for processor in processors:
                scores = processor(ids, scores)
            new = torch.multinomial(scores.softmax(-1), 1) if sample else scores.argmax(-1, keepdim=True)
            ids = torch.cat([ids, torch.where((ids[:, -1:] == end), 1, new)], 1)
    return ids


def assert_complete(outputs, n_rows, use_cache):
    """Compare the shapes of scores, attentions and hidden states with those of the reference, step by step."""
    assert isinstance(outputs, GenerateOutput)
    n_new = outputs.sequences.shape[1] - LENGTH
    assert [scores.shape for scores in outputs.scores] == [(n_rows, VOCABULARY)] * n_new
    lengths = range(LENGTH, LENGTH + n_new)  # of what is known in each step
    read = [1 if use_cache and length > LENGTH else length for length in lengths]
    assert [[part.shape for part in step] for step in outputs.attentions] == [
        [(n_rows, HEADS, new, length)] * LAYERS for new, length in zip(read, lengths, strict=True)
    ]
    assert [[part.shape for part in step] for step in outputs.hidden_states] == [
        [(n_rows, new, WIDTH)] * (LAYERS + 1) for new in read
    ]


def assert_equal_outputs(ours, theirs):
    """Compare all that both have, of the same model with the same arguments."""
    assert torch.equal(ours.sequences, theirs.sequences)
    for name in ("scores", "attentions", "hidden_states"):
        for a, b in zip(flat(ours[name]), flat(theirs[name]), strict=True):
            torch.testing.assert_close(a, b.to(a.dtype), rtol=0, atol=1e-5)


def flat(values):
    return [part for value in values for part in ([value] if torch.is_tensor(value) else flat(value))]


def theirs_for(pair, **options):
    return reference_generate(pair[1], IDS, torch.ones_like(IDS), **options)


def check_greedy_generate(pair):
    assert torch.equal(pair[0].generate(IDS, **PROCESSED), by_steps(pair[0], IDS))


def check_greedy_generate_dict_outputs(pair, use_cache=False):
    outputs = pair[0].generate(IDS, **PROCESSED, **EVERYTHING, use_cache=use_cache)
    assert torch.equal(outputs.sequences, by_steps(pair[0], IDS))
    assert_complete(outputs, 2, use_cache)
    assert_equal_outputs(outputs, theirs_for(pair, **PROCESSED, **EVERYTHING, use_cache=use_cache))


def check_greedy_generate_dict_outputs_use_cache(pair):
    check_greedy_generate_dict_outputs(pair, use_cache=True)


def check_sample_generate(pair):
    for n_each in (1, 3):
        torch.manual_seed(0)
        got = pair[0].generate(IDS, **PROCESSED, **SAMPLED, num_return_sequences=n_each)
        torch.manual_seed(0)
        assert torch.equal(got, by_steps(pair[0], IDS.repeat_interleave(n_each, 0), sample=True))


def check_sample_generate_dict_output(pair):
    options = {**PROCESSED, **SAMPLED, **EVERYTHING, "num_return_sequences": 2, "use_cache": False}
    torch.manual_seed(0)
    outputs = pair[0].generate(IDS, **options)
    torch.manual_seed(0)
    assert torch.equal(outputs.sequences, by_steps(pair[0], IDS.repeat_interleave(2, 0), sample=True))
    assert_complete(outputs, 4, use_cache=False)


def check_beam_search_generate(pair):
    for n_each in (1, 2):
        options = {**PROCESSED, **BEAMS, "num_return_sequences": n_each}
        assert torch.equal(pair[0].generate(IDS, **options), theirs_for(pair, **options))


def check_beam_search_generate_dict_output(pair, use_cache=False):
    options = {**PROCESSED, **BEAMS, **EVERYTHING, "use_cache": use_cache}
    outputs, expected = pair[0].generate(IDS, **options), theirs_for(pair, **options)
    assert_complete(outputs, 4, use_cache)
    assert_equal_outputs(outputs, expected)
    torch.testing.assert_close(outputs.sequences_scores, expected.sequences_scores.float(), rtol=0, atol=1e-5)
    assert (outputs.sequences_scores < 0).all()
    assert torch.equal(outputs.beam_indices, expected.beam_indices)


def check_beam_search_generate_dict_outputs_use_cache(pair):
    check_beam_search_generate_dict_output(pair, use_cache=True)


def check_beam_sample_generate(pair):
    options = {**SAMPLED, **BEAMS, "max_length": MAX_LENGTH, "num_return_sequences": 2}
    results = []
    for use_cache in (True, False):
        torch.manual_seed(0)
        results.append(pair[0].generate(IDS, **options, use_cache=use_cache))
    assert torch.equal(*results)
    assert results[0].shape == (4, MAX_LENGTH)


def check_beam_sample_generate_dict_output(pair):
    options = {**SAMPLED, **BEAMS, **EVERYTHING, "max_length": MAX_LENGTH, "num_return_sequences": 2}
    outputs = pair[0].generate(IDS, **options, use_cache=False)
    assert_complete(outputs, 4, use_cache=False)
    assert outputs.sequences_scores.shape == (4,)
    assert (outputs.sequences_scores < 0).all()
    new = outputs.sequences[:, LENGTH:]
    chosen = [
        scores[rows, ids] for scores, rows, ids in zip(outputs.scores, outputs.beam_indices.T, new.T, strict=True)
    ]
    torch.testing.assert_close(outputs.sequences_scores, sum(chosen) / 3**2.0)


def check_generate_without_input_ids(pair):
    assert pair[0].generate(max_length=MAX_LENGTH).shape[0] == 1


def check_group_beam_search_generate(pair):
    """Numbers are compared in test_beam_search.py: transformers of today has no groups of beams."""
    for n_each in (1, 2):
        sequences = pair[0].generate(IDS, **PROCESSED, **GROUPS, num_return_sequences=n_each)
        assert sequences.shape == (2 * n_each, MAX_LENGTH)
        outputs = pair[0].generate(IDS, **PROCESSED, **GROUPS, **EVERYTHING, num_return_sequences=n_each)
        assert torch.equal(sequences, outputs.sequences)


def check_group_beam_search_generate_dict_output(pair):
    outputs = pair[0].generate(IDS, **PROCESSED, **GROUPS, **EVERYTHING, use_cache=False)
    assert_complete(outputs, 4, use_cache=False)
    assert outputs.sequences_scores.shape == (2,)
    assert (outputs.sequences_scores < 0).all()


def check_constrained_beam_search_generate(pair):
    pair[0].generate(IDS, **PROCESSED, **BEAMS, force_words_ids=[[7, 8]])


def check_constrained_beam_search_generate_dict_output(pair):
    pair[0].generate(IDS, **PROCESSED, **BEAMS, **EVERYTHING, force_words_ids=[[7, 8]])


def check_contrastive_generate(pair):
    """Numbers are compared in test_contrastive_search.py: transformers of today has no contrastive search."""
    sequences = pair[0].generate(IDS, **PROCESSED, **CONTRASTIVE)
    assert sequences.shape == (2, MAX_LENGTH)
    assert torch.equal(sequences[:, :LENGTH], IDS)
    assert not torch.equal(sequences, pair[0].generate(IDS, **PROCESSED))


def check_contrastive_generate_dict_outputs_use_cache(pair):
    outputs = pair[0].generate(IDS, **PROCESSED, **CONTRASTIVE, **EVERYTHING)
    assert_complete(outputs, 2, use_cache=True)
    assert torch.equal(outputs.sequences, pair[0].generate(IDS, **PROCESSED, **CONTRASTIVE))


def check_generate_with_head_masking(pair):
    """The reference has this only for models with an encoder."""
    mask = torch.ones(LAYERS, HEADS)
    mask[0, 1] = mask[1, 0] = 0
    for use_cache in (True, False):
        options = {"max_length": MAX_LENGTH, "eos_token_id": -1, "use_cache": use_cache, "head_mask": mask}
        outputs = pair[0].generate(IDS, **options, **EVERYTHING)
        for step in outputs.attentions:
            assert torch.equal(torch.stack([part.sum((0, 2, 3)) != 0 for part in step]), mask.bool())
        with torch.no_grad():
            logits = pair[0](outputs.sequences[:, :-1], head_mask=mask).logits[:, LENGTH - 1 :]
        torch.testing.assert_close(torch.stack(outputs.scores, 1), logits.float(), rtol=0, atol=1e-5)


def check_left_padding_compatibility(pair):
    padded = torch.cat([torch.ones(2, 1).long(), IDS], 1)
    mask = (padded != 1).long()
    with torch.no_grad():
        alone = pair[0](IDS, torch.ones_like(IDS), position_ids=position_ids_from_input_ids(IDS, 1)).logits
        logits = pair[0](padded, mask, position_ids=position_ids_from_input_ids(padded, 1)).logits
    torch.testing.assert_close(logits[:, -1], alone[:, -1], rtol=0, atol=1e-7)
    assert torch.equal(pair[0].generate(padded, mask)[:, 1:], pair[0].generate(IDS))


CHECKS = checks_in(globals())
CONSTRAINTS = (
    "Words that must occur are not built; transformers 5 has them no longer. A logits_processor can favour them."
)
NOT_HELD = {
    "constrained_beam_search_generate": (TypeError, CONSTRAINTS),
    "constrained_beam_search_generate_dict_output": (TypeError, CONSTRAINTS),
}


@pytest.mark.parametrize("name", CHECKS)
def test_check(name, request, pair):
    run(CHECKS, NOT_HELD, name, request, pair)


def test_table_is_complete():
    assert NOT_HELD.keys() <= CHECKS.keys()
    assert (len(CHECKS), len(CHECKS) - len(NOT_HELD)) == (19, 17)
