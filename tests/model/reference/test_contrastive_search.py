"""Contrastive search, compared with a loop over candidates that follows its definition."""

import pytest
import torch
import torch.nn.functional as F
from decoders import FAMILIES, decoder_pair, prompts

OPTIONS = {"penalty_alpha": 0.6, "top_k": 4}


@pytest.fixture(scope="module", params=FAMILIES)
def pair(request):
    return decoder_pair(request.param)


def by_definition(model, ids, n_new, end=-1, penalty_alpha=0.6, top_k=4):
    """Continue one text, (S,), by two forward passes of transformers' model in float64 per token."""

    def read(texts):
        with torch.no_grad():
            outputs = model(texts, use_cache=False, output_hidden_states=True)
        return outputs.logits[:, -1].softmax(-1), outputs.hidden_states[-1]

    for _ in range(n_new):
        p = read(ids[None])[0][0]
        tokens = p.topk(top_k).indices
        values = {}
        _, all_hidden = read(torch.cat([ids.expand(top_k, -1), tokens[:, None]], 1))
        for token, hidden in zip(tokens, all_hidden, strict=True):
            similarity = max(F.cosine_similarity(hidden[-1], earlier, dim=0) for earlier in hidden[:-1])
            values[token] = (1 - penalty_alpha) * p[token] - penalty_alpha * similarity
        ids = torch.cat([ids, max(values, key=values.get)[None]])
        if ids[-1] == end:
            break
    return ids


@pytest.mark.parametrize("options", [OPTIONS, {"penalty_alpha": 0.2, "top_k": 2}, {"penalty_alpha": 1.0, "top_k": 7}])
def test_contrastive_search_equals_definition(pair, options):
    ours, theirs = pair
    batch, mask = prompts()
    free = ours.generate(batch, mask, max_new_tokens=6, eos_token_id=-1, **options)
    assert not torch.equal(free, ours.generate(batch, mask, max_new_tokens=6, eos_token_id=-1))
    end = int(free[1, 9])
    got = ours.generate(batch, mask, max_new_tokens=6, eos_token_id=end, **options)
    for row in range(3):
        text = batch[row, mask[row] == 1]
        assert torch.equal(free[row, mask[row].argmax() :], by_definition(theirs, text, 6, **options))
        new = by_definition(theirs, text, 6, end, **options)[len(text) :]
        assert torch.equal(got[row, 7 : 7 + len(new)], new)
        assert (got[row, 7 + len(new) :] == 1).all()


def test_contrastive_search_with_cache_equals_without(pair):
    ours, _ = pair
    ids, mask = prompts()
    options = {
        "max_new_tokens": 5, "eos_token_id": -1, "output_scores": True, "output_hidden_states": True,
        "output_attentions": True, "return_dict_in_generate": True, **OPTIONS,
    }  # fmt: skip
    got, expected = ours.generate(ids, mask, **options), ours.generate(ids, mask, use_cache=False, **options)
    assert torch.equal(got.sequences, expected.sequences)
    with torch.no_grad():
        outputs = ours(got.sequences[:, :-1], torch.cat([mask, mask.new_ones(3, 4)], 1), output_hidden_states=True)
    torch.testing.assert_close(torch.stack(got.scores, 1), outputs.logits[:, 6:].float(), rtol=0, atol=1e-5)
    assert [len(got[name]) for name in ("scores", "hidden_states", "attentions")] == [5, 5, 5]
    for step, without in zip(got.hidden_states, expected.hidden_states, strict=True):
        torch.testing.assert_close(step[-1][:, -1], without[-1][:, -1])
    chosen = torch.cat([step[-1] for step in got.hidden_states], 1)
    torch.testing.assert_close(chosen[:, 6:], outputs.hidden_states[-1][:, 6:])


def test_contrastive_search_from_embeddings_equals_that_from_ids(pair):
    ours, _ = pair
    ids, mask = prompts()
    got = ours.generate(inputs_embeds=ours.roberta.embeddings.word(ids).detach(), attention_mask=mask, **OPTIONS)
    assert torch.equal(got, ours.generate(ids, mask, **OPTIONS)[:, 7:])


def test_contrastive_search_never_chooses_a_banned_token(pair):
    """Its hidden state may differ most, if fewer than `top_k` tokens are left."""
    ours, _ = pair
    ids, mask = prompts()
    only = torch.full((30,), -torch.inf).index_fill(0, torch.tensor([9, 12]), 0.0)
    got = ours.generate(
        ids, mask, max_new_tokens=8, penalty_alpha=0.9, top_k=30, logits_processor=lambda ids, scores: scores + only
    )
    assert set(got[:, 7:].flatten().tolist()) == {9, 12}


def test_contrastive_search_puts_tokens_into_streamer(pair):
    ours, _ = pair
    values = []

    class Streamer:
        put = staticmethod(values.append)
        end = staticmethod(lambda: None)

    sequences = ours.generate(*prompts(), max_new_tokens=4, streamer=Streamer(), **OPTIONS)
    assert torch.equal(torch.cat([values[0], torch.stack(values[1:], 1)], 1), sequences)


def test_contrastive_search_reads_the_last_token_too(pair):
    """So there is a position less than for other ways of generation."""
    ours, _ = pair
    ids = torch.tensor([[0, 7]])
    ours.generate(ids, max_new_tokens=56, top_k=2, penalty_alpha=0.5)
    with pytest.raises(ValueError, match="2 tokens and 57 new ones are too many for 58 positions"):
        ours.generate(ids, max_new_tokens=57, top_k=2, penalty_alpha=0.5)
    ours.generate(ids, max_new_tokens=57)
