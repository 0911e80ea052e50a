import pytest


def test_batch_encoding_moves_and_unpacks(tokenizer):
    encoding = tokenizer("Hello", return_tensors="pt", return_attention_mask=False)
    assert encoding.to("meta") is encoding
    assert encoding.input_ids.device.type == "meta"
    assert dict(**encoding).keys() == {"input_ids"}
    assert tokenizer("Hello").to("cpu") == tokenizer("Hello")
    with pytest.raises(AttributeError, match="no 'attention_mask' in this encoding; it has input_ids"):
        _ = encoding.attention_mask
