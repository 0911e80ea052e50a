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


def test_model_output_is_made_from_a_mapping_or_pairs():
    outputs = ModelOutput(loss=torch.tensor(1.0), logits=torch.zeros(2, 3))
    changed = {name: value + 1 for name, value in outputs.items()}
    for again in (ModelOutput(changed), ModelOutput(iter(changed.items()))):
        assert list(again) == ["loss", "logits"]
        assert again.loss == 2
        assert (again.logits == 1).all()
    with pytest.raises(TypeError, match="one mapping of"):
        ModelOutput({"lass": torch.tensor(1.0)})


def test_model_output_is_gathered_as_by_data_parallel():
    parts = [ModelOutput(loss=torch.tensor([1.0]), logits=torch.zeros(2, 3)) for _ in range(2)]
    joined = type(parts[0])((name, torch.cat([part[name] for part in parts])) for name in parts[0])
    assert joined.logits.shape == (4, 3)
    assert joined.loss.tolist() == [1, 1]


def test_model_output_refuses_what_attributes_would_not_show():
    outputs = ModelOutput(loss=torch.tensor(1.0))
    for change in (outputs.clear, outputs.popitem, lambda: outputs.setdefault("logits", 1)):
        with pytest.raises(TypeError, match="set as attributes"):
            change()
    with pytest.raises(KeyError, match="logit"):
        outputs["logit"] = 1
