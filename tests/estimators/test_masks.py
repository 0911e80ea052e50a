from skxlmr.estimators.masks import filled, target_ids
from skxlmr.runtime.backbone import get_backbone


def test_targets_are_pieces_that_stand_in_place_of_mask():
    tokenizer = get_backbone("nano").tokenizer
    texts = ["a <mask>", "a<mask>", "<mask> a", "很<mask><mask>"]
    parts = [text.split("<mask>") for text in texts]
    ids = target_ids(tokenizer, parts, ["in", "▁in", " in", "s", "好", "good", "ｇｏｏｄ"])
    pieces = [" ".join(tokenizer.convert_ids_to_tokens(row)) for row in ids]
    first, inside = "▁in ▁in ▁in s 好 ▁good ▁good", "in ▁in ▁in s 好 ▁good ▁good"
    assert tokenizer.convert_tokens_to_ids(["▁s", "▁好", "good"]) == [tokenizer.unk_token_id] * 3
    assert pieces == [first, inside, first, inside, inside]


def test_fill_with_pieces_spaces_words_correctly():
    parts = ["I like ", " and", "!\n", ""]
    assert filled(parts, ["▁it", None, None]) == "I like it and<mask>!\n<mask>"
    assert filled(parts, [None, "s", "▁So"]) == "I like <mask> ands!\nSo"
    assert filled(["", " and"], ["▁You"]) == "You and"
    assert filled(["You ", ""], ["r"]) == "Your"
    assert filled(["a (", ")"], ["b"]) == "a (b)"
    assert filled(["a", ""], ["▁b"]) == "a b"
    assert filled(["a ", ""], ["▁"]) == "a "
