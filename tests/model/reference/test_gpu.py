"""The padded interface of the reference on a GPU."""

from __future__ import annotations

import pytest
import torch

from skxlmr import model as models
from skxlmr.model import XLMRobertaXLConfig
from skxlmr.model.int8 import Int8

pytestmark = pytest.mark.usefixtures("gpu")

IDS = torch.tensor([[5, 6, 7, 8, 9, 10, 11, 12, 13], [5, 9, 7, 6, 2, 1, 1, 1, 1], [14, 15, 16, 17, 18, 19, 20, 21, 22]])
MASK = (IDS != 1).long()


def config(**settings):
    shape = {"vocab_size": 100, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    rest = {"intermediate_size": 128, "max_position_embeddings": 40}
    return XLMRobertaXLConfig(**(shape | rest | settings))


@pytest.mark.parametrize(
    "name",
    ["Model", "ForMaskedLM", "ForCausalLM", "ForSequenceClassification", "ForTokenClassification",
     "ForQuestionAnswering"],
)  # fmt: skip
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, pytest.param(torch.float16, marks=pytest.mark.slow)])
def test_padded_outputs_on_cuda_equal_cpu(name, dtype):
    torch.manual_seed(0)
    model = getattr(models, f"XLMRobertaXL{name}")(config(is_decoder=name == "ForCausalLM")).eval()
    with torch.no_grad():
        expected = model(IDS, attention_mask=MASK)[0]
        got = model.to("cuda", dtype)(IDS.cuda(), attention_mask=MASK.cuda())[0]
    tolerance = 1e-4 if dtype == torch.float32 else 0.1
    torch.testing.assert_close(got.float().cpu(), expected, rtol=0, atol=tolerance)


def test_loss_with_gradient_checkpointing_trains_on_cuda():
    model = models.XLMRobertaXLForSequenceClassification(config()).to("cuda", torch.bfloat16).train()
    model.gradient_checkpointing_enable()
    model(IDS.cuda(), attention_mask=MASK.cuda(), labels=torch.tensor([0, 1, 0]).cuda()).loss.backward()
    assert model.roberta.layers[0].ffn.up.weight.grad.isfinite().all()


def test_attentions_and_relative_positions_on_cuda():
    model = models.XLMRobertaXLModel(config(position_embedding_type="relative_key_query")).to("cuda").eval()
    outputs = model(IDS.cuda(), attention_mask=MASK.cuda(), output_attentions=True)
    torch.testing.assert_close(outputs.attentions[0].sum(-1).cpu(), torch.ones(3, 2, 9))


def test_generate_with_and_without_cache_on_cuda_is_the_same():
    torch.manual_seed(0)
    model = models.XLMRobertaXLForCausalLM(config(is_decoder=True)).to("cuda").eval()
    cached, not_cached = (model.generate(IDS[::2].cuda(), max_new_tokens=4, use_cache=c).cpu() for c in (True, False))
    assert torch.equal(cached, not_cached)


@pytest.mark.parametrize("engine", ["auto", "dequantize"])
def test_saved_model_in_8_bits_on_cuda_is_near_the_cpu(engine, tmp_path):
    torch.manual_seed(0)
    model = models.XLMRobertaXLForMaskedLM(config()).eval()
    model.save_pretrained(tmp_path / "plain")
    load = models.XLMRobertaXLForMaskedLM.from_pretrained
    small = load(tmp_path / "plain", device="cuda", load_in_8bit=Int8(engine=engine), dtype=torch.float16)
    small.save_pretrained(tmp_path / "int8")
    again = load(tmp_path / "int8", device="cuda", dtype=torch.float16)
    with torch.no_grad():
        expected = model(IDS, attention_mask=MASK).logits
        for each in (small, again):
            torch.testing.assert_close(
                each(IDS.cuda(), attention_mask=MASK.cuda()).logits.float().cpu(), expected, rtol=0, atol=0.1
            )
