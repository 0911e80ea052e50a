"""Tables of special and added tokens, compared with transformers."""


def test_tables_equal_transformers(our_tokenizer, their_tokenizer):
    assert our_tokenizer.get_vocab() == our_tokenizer.vocab == their_tokenizer.get_vocab()
    assert our_tokenizer.get_added_vocab() == their_tokenizer.get_added_vocab()
    assert our_tokenizer.added_tokens_encoder == their_tokenizer.added_tokens_encoder
    assert our_tokenizer.added_tokens_decoder.keys() == their_tokenizer.added_tokens_decoder.keys()
    assert our_tokenizer.all_special_tokens == their_tokenizer.all_special_tokens
    assert our_tokenizer.all_special_ids == their_tokenizer.all_special_ids
    assert our_tokenizer.special_tokens_map.items() <= their_tokenizer.special_tokens_map.items()
    assert our_tokenizer.extra_special_tokens == our_tokenizer.additional_special_tokens == ["<ent>"]
    assert our_tokenizer.convert_ids_to_tokens(our_tokenizer.extra_special_tokens_ids) == ["<ent>"]
