"""Small encoders with 8-bit weights for the kernels for x86 CPUs."""

import torch
from quantized_layers import quantized_layer

from skxlmr.model import XLMRobertaXLConfig, XLMRobertaXLModel
from skxlmr.model.config import XLMRobertaConfig
from skxlmr.model.int8 import Int8
from skxlmr.model.packing import Packing
from skxlmr.model.quantized import linear_layers

SIZES = {
    "vocab_size": 50, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 160,
    "max_position_embeddings": 40,
}  # fmt: skip
XL, ROBERTA = XLMRobertaXLConfig(**SIZES), XLMRobertaConfig(**SIZES)
LENGTHS = [20, 4, 1]


def model_of(config, dtype=torch.float32, engine="avx"):
    """Return the same model each time, with random LayerNorms and two outliers in each layer.

    As in a loaded model, the layers after activations are asymmetric.
    """
    torch.manual_seed(0)
    model, settings = XLMRobertaXLModel(config, add_pooling_layer=False), Int8(engine=engine)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
    for name, linear in linear_layers(model).items():
        layer = quantized_layer(linear, settings, asymmetric=name.endswith("ffn.down"))
        layer.set_outliers(torch.tensor([1, 5]))
        model.set_submodule(name, layer)
    return model.eval().requires_grad_(False).to(dtype)


def encode(model, adapter=None, lengths=LENGTHS, start=0):
    ids = torch.arange(start, start + sum(lengths)) % 40 + 4
    positions = torch.cat([torch.arange(n) for n in lengths]) + 2
    return model.encode(ids, positions, Packing.from_lengths(lengths), adapter=adapter)[-1].float()
