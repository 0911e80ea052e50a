"""Texts that stop a continuation, compared with transformers."""

import pytest
import torch
import transformers

from skxlmr.model import XLMRobertaXLForCausalLM, XLMRobertaXLTokenizer
from skxlmr.model.reference.stopping import at_strings

STRINGS = [["e"], ["the", "film"], [" a", "ing."], "on th", "很好", ["</s>"], [", and", "zz"]]


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory):
    ours = XLMRobertaXLTokenizer.from_pretrained("nano")
    directory = tmp_path_factory.mktemp("tokenizer")
    ours.save_pretrained(directory)
    return ours, transformers.AutoTokenizer.from_pretrained(directory)


@pytest.mark.parametrize("strings", STRINGS, ids=str)
def test_rows_stop_where_transformers_stops(tokenizers, strings):
    ours, theirs = tokenizers
    as_list = [strings] if isinstance(strings, str) else strings
    text = "The film on the sea is a lovely thing. The sea, and the thinking. 很好 </s>"
    pieces = ours(text)["input_ids"]
    generator = torch.Generator().manual_seed(0)
    prefixes = [torch.tensor(pieces[:end]) for end in range(1, len(pieces) + 1)]
    prefixes += torch.tensor(pieces)[torch.randint(len(pieces), (300, 9), generator=generator)].unbind()
    criterion = at_strings(as_list, ours)
    expected = transformers.StopStringCriteria(theirs, strings)
    stops = [bool(criterion(ids[None], None)) for ids in prefixes]
    assert stops == [bool(expected(ids[None], None)) for ids in prefixes]
    assert any(stops)
    assert not all(stops)
    assert stops == [bool(at_strings(as_list, theirs)(ids[None], None)) for ids in prefixes]


def test_generate_ends_each_text_at_a_string(tokenizers):
    tokenizer = tokenizers[0]
    model = XLMRobertaXLForCausalLM.from_pretrained("nano", is_decoder=True).eval()
    ids = torch.tensor([tokenizer(text)["input_ids"][:-1] for text in ("The sea", "The sky")])
    options = {"max_new_tokens": 9, "eos_token_id": -1, "repetition_penalty": 5.0}  # without it tokens repeat
    free = model.generate(ids, **options)
    third = tokenizer.convert_ids_to_tokens(free[0, ids.shape[1] : ids.shape[1] + 3].tolist())
    string = "".join(third).replace("▁", " ")
    for given in (string, ["never there", string]):
        got = model.generate(ids, stop_strings=given, tokenizer=tokenizer, **options)
        assert got[0, : ids.shape[1] + 3].tolist() == free[0, : ids.shape[1] + 3].tolist()
        assert (got[0, ids.shape[1] + 3 :] == 1).all()
        assert (got.shape[1] > ids.shape[1] + 3) == (string not in tokenizer.decode(got[1, :-1]))
    with pytest.raises(ValueError, match="needs the texts of the tokens: give tokenizer"):
        model.generate(ids, stop_strings="a")
    with pytest.raises(ValueError, match="has an empty text"):
        model.generate(ids, stop_strings=["a", ""], tokenizer=tokenizer)
    with pytest.raises(TypeError, match="stop_strings must be a text or a list of texts, got 3"):
        model.generate(ids, stop_strings=3, tokenizer=tokenizer)
