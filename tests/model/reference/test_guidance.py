"""Classifier-free guidance, compared with transformers and with a loop of forward passes."""

import pytest
import torch
from decoders import decoder_pair, prompts, reference_generate
from parameter_ids import id_without_address

GUIDED = {"guidance_scale": 1.8, "max_new_tokens": 9}
NEGATIVE = torch.tensor([[5, 6, 8, 12], [4, 20, 9, 3], [7, 7, 15, 22]])


@pytest.fixture(scope="module")
def pair():
    return decoder_pair("XLMRobertaXL")


@pytest.mark.parametrize("negative", [{}, {"negative_prompt_ids": NEGATIVE}], ids=["last_token", "prompts"])
@pytest.mark.parametrize(
    "options", [{}, {"do_sample": True, "top_k": 9}, {"repetition_penalty": 1.4}], ids=id_without_address
)
def test_guidance_equals_transformers(pair, negative, options):
    ids, mask = prompts()
    torch.manual_seed(0)
    got = pair[0].generate(ids, mask, **GUIDED, **negative, **options)
    torch.manual_seed(0)
    assert torch.equal(got, reference_generate(pair[1], ids, mask, **GUIDED, **negative, **options))
    assert not torch.equal(got, pair[0].generate(ids, mask, max_new_tokens=9, **options))


def guided_log_probability(model, ids, negative, n_new):
    """Return the sum of the guided log-probabilities of the last tokens of a text, by one forward pass each."""
    with torch.no_grad():
        new = ids[-n_new:]
        text, other = (
            model(torch.cat([prompt, new])[None]).logits[0, len(prompt) - 1 : -1].float().log_softmax(-1)
            for prompt in (ids[:-n_new], negative)
        )
    return (1.8 * (text - other) + other).gather(1, new[:, None]).sum()


@pytest.mark.parametrize("groups", [{}, {"num_beam_groups": 2, "diversity_penalty": 1e-9}], ids=["beams", "groups"])
def test_beams_are_scored_by_guided_probabilities(pair, groups):
    """In transformers the states after the negative prompts do not follow the beams."""
    ids, mask = prompts((5, 5, 5))
    options = {"num_beams": 4, "num_return_sequences": 4, "length_penalty": 0.0, "eos_token_id": -1, **groups}
    got = pair[0].generate(
        ids, mask, negative_prompt_ids=NEGATIVE, **GUIDED, **options, output_scores=True, return_dict_in_generate=True
    )
    for row in range(12):
        expected = guided_log_probability(pair[0], got.sequences[row], NEGATIVE[row // 4], 9)
        torch.testing.assert_close(got.sequences_scores[row], expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    "options",
    [{}, {"num_beams": 3}, {"penalty_alpha": 0.5, "top_k": 4}],
    ids=id_without_address,
)
def test_guidance_does_not_depend_on_padding_cache_or_batch(pair, options):
    model, (ids, mask) = pair[0], prompts()
    padded = torch.cat([torch.ones(3, 2).long(), NEGATIVE], 1)
    expected = model.generate(ids, mask, negative_prompt_ids=NEGATIVE, **GUIDED, **options)
    given = {"negative_prompt_ids": padded, "negative_prompt_attention_mask": (padded != 1).long()}
    for more in ({}, {"use_cache": False}):
        assert torch.equal(model.generate(ids, mask, **given, **GUIDED, **options, **more), expected)
    alone = model.generate(ids[1:2], negative_prompt_ids=NEGATIVE[1:2], **GUIDED, **options)
    assert torch.equal(alone[0], expected[1, : alone.shape[1]])


def test_embeddings_are_guided_by_their_last_token(pair):
    ids = torch.tensor([[0, 7, 9]])
    embeddings = pair[0].roberta.embeddings.word(ids).detach()
    assert torch.equal(pair[0].generate(inputs_embeds=embeddings, **GUIDED), pair[0].generate(ids, **GUIDED)[:, 3:])


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"negative_prompt_ids": NEGATIVE}, "must have one for each of 1 texts, has 3"),
        ({"negative_prompt_ids": NEGATIVE[:1], "guidance_scale": 1.0}, "give a guidance_scale other than 1"),
        ({"negative_prompt_ids": torch.tensor([[5, 1]])}, "Row 0 of negative_prompt_ids ends in padding"),
        ({"negative_prompt_ids": torch.tensor([5, 6])}, "negative_prompt_ids must have shape"),
        ({"negative_prompt_ids": torch.full((1, 55), 5)}, "55 tokens and 9 new ones are too many"),
        ({"negative_prompt_attention_mask": torch.ones(1, 4)}, "is that of negative_prompt_ids: give these"),
        (
            {"negative_prompt_ids": NEGATIVE[:1], "negative_prompt_attention_mask": torch.ones(1, 3)},
            r"negative_prompt_attention_mask must have shape \(1, 4\), got \(1, 3\)",
        ),
    ],
    ids=id_without_address,
)
def test_negative_prompts_that_do_not_fit_raise(pair, given, message):
    with pytest.raises(ValueError, match=message):
        pair[0].generate(torch.tensor([[0, 7, 9]]), **{**GUIDED, **given})
