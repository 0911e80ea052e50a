"""Copies of a tokenizer, whose vocabularies change independently."""

import copy
import pickle


def test_copies_have_vocabularies_of_their_own(our_tokenizer):
    for again in (copy.copy(our_tokenizer), copy.deepcopy(our_tokenizer), pickle.loads(pickle.dumps(our_tokenizer))):
        assert again.add_tokens(["covid20"]) == 1
        assert again.tokenize("covid20") == ["covid20"]
        assert "covid20" not in our_tokenizer.get_vocab()


def test_lowercased_and_trimmed_copies_leave_the_tokenizer_unchanged(tokenizer):
    ids = tokenizer.encode_batch(["Hello world"])[0]
    lower = tokenizer.lowercased()
    small, kept = tokenizer.trim(ids)
    assert lower.encode_batch(["Hello World"])[0].tolist() == tokenizer.encode_batch(["hello world"])[0].tolist()
    assert kept[small.encode_batch(["Hello world"])[0]].tolist() == ids.tolist()
    assert tokenizer.encode_batch(["Hello world"])[0].tolist() == ids.tolist()
