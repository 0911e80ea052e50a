import pytest
import torch
from padded_batches import batch, build

from skxlmr.model import XLMRobertaXLConfig
from skxlmr.model.reference.generation import keep_likeliest, only_real_tokens


@pytest.fixture(scope="module")
def model():
    return build("ForCausalLM", is_decoder=True)


@pytest.mark.parametrize("sampling", [{}, {"do_sample": True, "temperature": 0.7, "top_k": 9, "top_p": 0.9}])
def test_generate_with_cache_equals_without(model, sampling):
    ids, mask = batch((5, 12, 3), left=True)
    results = []
    for use_cache in (True, False):
        generator = torch.Generator().manual_seed(0)
        results.append(
            model.generate(ids, mask, max_new_tokens=15, use_cache=use_cache, generator=generator, **sampling)
        )
    assert torch.equal(*results)
    assert torch.equal(results[0][:, :12], ids)


def test_generate_is_independent_of_batch(model):
    ids, _ = batch((5, 12, 3), left=True)
    together = model.generate(ids, max_new_tokens=8)
    for row, length in enumerate((5, 12, 3)):
        alone = model.generate(ids[row : row + 1, -length:], max_new_tokens=8)[0, length:]
        assert torch.equal(together[row, 12 : 12 + len(alone)], alone)


def test_generate_greedy_takes_most_likely_token(model):
    ids = torch.tensor([[0, 7, 9]])
    result = model.generate(ids, max_new_tokens=4, eos_token_id=-1)
    for end in range(3, 7):
        assert result[0, end] == model(result[:, :end]).logits[0, -1].argmax()


def test_generate_pads_after_eos(model):
    ids, mask = batch((5, 12, 3), left=True)
    free = model.generate(ids, mask, max_new_tokens=10, eos_token_id=-1)
    eos = int(free[0, 12 + 2])
    stopped = model.generate(ids, mask, max_new_tokens=10, eos_token_id=eos)
    for row in range(3):
        new = free[row, 12:].tolist()
        expected = new[: new.index(eos) + 1] if eos in new else new
        got = stopped[row, 12:].tolist()
        assert got[: len(expected)] == expected
        assert set(got[len(expected) :]) <= {1}


def test_generate_sampling_follows_probabilities():
    logits = torch.log(torch.tensor([[0.5, 0.3, 0.15, 0.05]]))
    assert keep_likeliest(logits, 2, None).isfinite().tolist() == [[True, True, False, False]]
    assert keep_likeliest(logits, None, 0.8).isfinite().tolist() == [[True, True, False, False]]
    assert keep_likeliest(logits, None, 0.81).isfinite().tolist() == [[True, True, True, False]]
    assert keep_likeliest(logits, None, 1e-9).isfinite().tolist() == [[True, False, False, False]]
    shuffled = keep_likeliest(logits[:, [3, 0, 2, 1]], None, 0.8)
    assert shuffled.isfinite().tolist() == [[False, True, False, True]]
    assert keep_likeliest(logits, 99, 1.0).equal(logits)


def test_only_real_tokens_masks_unused_ids():
    xl = XLMRobertaXLConfig.xl()
    logits = only_real_tokens(torch.zeros(2, xl.vocab_size), xl.real_vocab_size)
    assert logits.isfinite().sum(1).tolist() == [250_002, 250_002]
    assert logits[:, :250_002].eq(0).all()


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"max_new_tokens": 40}, "3 tokens and 40 new ones are too many"),
        ({"max_new_tokens": 0}, "must be positive"),
        ({"temperature": 0.0}, "must be positive"),
        ({"top_k": 0}, "must be positive"),
        ({"top_p": 1.5}, "top_p must be in"),
        ({"attention_mask": torch.tensor([[1, 1, 0]])}, "Row 0 ends in padding"),
    ],
)
def test_generate_invalid_parameters_raise(model, parameters, message):
    with pytest.raises(ValueError, match=message):
        model.generate(torch.tensor([[0, 7, 9]]), **parameters)


def test_generate_with_encoder_raises():
    with pytest.raises(ValueError, match="is_decoder=True"):
        build("ForCausalLM").generate(torch.tensor([[0, 7]]))


@pytest.mark.parametrize("in_config", [False, True])
def test_generate_stops_at_each_of_several_ids(in_config):
    model, ids = build("ForCausalLM", is_decoder=True), torch.tensor([[0, 5, 6]])
    model.config.eos_token_id = None
    free = model.generate(ids, max_new_tokens=8)[0].tolist()
    assert len(free) == 11
    third = free[5]
    ends = [third, 2]
    if in_config:
        model.config.eos_token_id = ends
    got = model.generate(ids, max_new_tokens=8, **({} if in_config else {"eos_token_id": ends}))[0].tolist()
    assert got == free[: free.index(third, 3) + 1]
    with pytest.raises(ValueError, match="eos_token_id must be an integer"):
        model.generate(ids, eos_token_id=["2"])
