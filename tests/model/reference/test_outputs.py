import pytest
import torch

from skxlmr.model import ModelOutput


def test_model_output_reads_fields_by_name_key_and_position():
    loss, logits = torch.tensor(1.0), torch.zeros(2, 3)
    outputs = ModelOutput(loss=loss, logits=logits)
    assert outputs.logits is outputs["logits"] is outputs[1] is outputs[-1]
    assert list(outputs) == list(outputs.keys()) == ["loss", "logits"]
    assert dict(outputs.items()) == {"loss": loss, "logits": logits}
    assert outputs[:2] == outputs.to_tuple() == (loss, logits)
    assert "logits" in outputs
    assert "attentions" not in outputs
    assert outputs.attentions is None
    assert outputs.get("attentions") is None
    assert len(outputs) == 2
    with pytest.raises(KeyError, match="attentions"):
        outputs["attentions"]
    with pytest.raises(IndexError):
        outputs[2]
