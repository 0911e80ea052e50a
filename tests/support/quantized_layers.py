"""Linear layers in 8 and 4 bits, quantised from given ones."""

import torch
from torch import nn

from skxlmr.model.float8 import Float8, Float8Linear
from skxlmr.model.int8 import Int8Linear
from skxlmr.model.nf4 import Linear4bit


def quantized_layer(linear, settings=None, asymmetric=False):
    """Return a layer stored as `settings` say: "nf4", `Float8` or `Int8`, which None is; without outliers."""
    sizes = linear.in_features, linear.out_features, linear.bias is not None
    if settings == "nf4":
        layer = Linear4bit(*sizes, device="meta")
        layer.load("weight", linear.weight.detach())
    elif isinstance(settings, Float8):
        layer = Float8Linear(*sizes, settings=settings, device="meta")
        layer.load("weight", linear.weight.detach())
    else:
        layer = Int8Linear(*sizes, settings=settings, device="meta", asymmetric=asymmetric)
        layer.load("weight", linear.weight.detach())
        layer.set_outliers(torch.empty(0, dtype=torch.int64))
    layer.bias = None if linear.bias is None else nn.Parameter(linear.bias.detach(), requires_grad=False)
    return layer


def linear_and_quantized(settings, in_features=192, out_features=96, bias=True):
    """Return a linear layer with random weights, and the same quantised as `settings` say."""
    torch.manual_seed(0)
    linear = nn.Linear(in_features, out_features, bias=bias)
    return linear, quantized_layer(linear, settings)


def dequantized(layer, dtype=torch.float32):
    """Return an ordinary layer with the dequantised weight."""
    linear = nn.Linear(layer.in_features, layer.out_features, dtype=dtype).requires_grad_(False)
    linear.weight.copy_(layer.dequantize(dtype))
    linear.bias.copy_(layer.bias)
    return linear
