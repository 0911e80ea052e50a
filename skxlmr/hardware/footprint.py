"""Bytes that a model and its activations take, counted from its config.

Notation: T tokens in a batch, L of them in the longest text, H hidden size, I width of the feed-forward network,
N heads, s bytes of a number in the dtype of the activations.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from skxlmr.model import XLMRobertaXLConfig, int8_engines
from skxlmr.model import nf4 as four_bit
from skxlmr.model.heads import ClassificationHead
from skxlmr.model.int8 import Int8
from skxlmr.tuning import Head, Tuning

FLOAT32 = 4  # bytes
# Bytes of feed-forward activations in flight. On a CPU larger batches are no faster (see benchmarks/NOTES.md), and
# buffers of 32 MiB and more would be asked of the system anew for each batch.
ACTIVATION_BYTES = {"cpu": 16 * 2**20, "cuda": 512 * 2**20, "mps": 256 * 2**20}


def weight_bytes(config: XLMRobertaXLConfig, settings: Int8 | str | None, dtype: torch.dtype) -> int:
    """Bytes of a base's weights: in `dtype`, but for the layers' matrices and the word embedding if it is quantised.

    Of 8-bit weights the second copy that outlier columns have is left out: no more than one in 64.
    """
    if settings is None:
        return config.num_parameters * dtype.itemsize
    n_attentions = 2 if config.add_cross_attention else 1
    rows = config.num_hidden_layers * ((4 * n_attentions + 1) * config.hidden_size + config.intermediate_size)
    matrices = config.num_layer_parameters - rows  # each row has one bias
    absmax = matrices // four_bit.BLOCK
    quantized = matrices // 2 + FLOAT32 * absmax if settings == "nf4" else matrices + FLOAT32 * rows
    word_embedding = config.vocab_size * config.hidden_size
    others = config.num_parameters - matrices - word_embedding
    return quantized + 2 * word_embedding + others * dtype.itemsize


def num_learned(config: XLMRobertaXLConfig, tuning: Tuning | None) -> int:
    """Numbers that are learned: an adapter's or those of the base itself, and a classification head's."""
    if tuning is None:
        return 0
    with torch.device("meta"):
        added = [tuning.build(config), ClassificationHead(config, config.num_labels)]
    n_added = sum(p.numel() for module in added if module is not None for p in module.parameters())
    if not tuning.trains_base:
        return n_added
    if tuning.layers is None:
        return n_added + config.num_parameters
    norms = 2 * config.hidden_size * (3 if config.add_cross_attention else 2)
    of_layer = config.num_layer_parameters // config.num_hidden_layers + norms
    return n_added + tuning.layers * of_layer + 2 * config.hidden_size


def activation_bytes(
    config: XLMRobertaXLConfig,
    n_tokens: int,
    dtype: torch.dtype,
    settings: Int8 | str | None = None,
    tuning: Tuning | None = None,
    device: torch.device | str = "cpu",
    gradient_checkpointing: bool = False,
) -> int:
    """Bytes of the activations of one batch, at their peak.

    That is what one layer works with and, where gradients flow through the base, what all layers keep for the backward
    pass, which begins in the last of them while everything is there.
    """
    device = torch.device(device)
    if tuning is None or isinstance(tuning, Head):  # prediction, also for the features that a head alone learns from
        return working_bytes(config, n_tokens, dtype, settings, device)
    n_layers = config.num_hidden_layers - tuning.num_frozen_layers(config)
    if tuning.trains_base:
        dtype, settings = torch.float32, None
        kept = n_layers * kept_by_trained_layer(config, n_tokens, device)
    else:
        with torch.device("meta"):
            kept = kept_by_frozen_layers(config, n_tokens, dtype, tuning.build(config), device)
    if gradient_checkpointing:  # the inputs of all layers, and what one of them keeps when it is run again
        kept = kept // n_layers + n_layers * n_tokens * dtype.itemsize * config.hidden_size
    return working_bytes(config, n_tokens, dtype, settings, device, backward=True) + kept


def working_bytes(
    config: XLMRobertaXLConfig,
    n_tokens: int,
    dtype: torch.dtype,
    settings: Int8 | str | None,
    device: torch.device,
    backward: bool = False,
) -> int:
    """Bytes that one layer works with.

    The peak is between the two matrices of the feed-forward network. Five times (T, H) are held: word embeddings, their
    sum with the positions, the layer's input, that after attention, and that normalised; of (T, I) there are the
    activation's input and output, or their gradients. With quantised weights there are also their products before
    these are scaled, or a copy of one matrix (H, I) in floating point; backward always the latter.
    """
    s, hidden, inner = dtype.itemsize, config.hidden_size, config.intermediate_size
    matrix = hidden * inner
    block = min(int8_engines.block_size(device), n_tokens * inner)
    product = settings if settings in (None, "nf4") else _engine_name(settings, device)
    forward = {
        None: n_tokens * 2 * s * inner,
        "nf4": n_tokens * 2 * s * inner + s * matrix,
        # (T, H) and (T, I) int8, (T, I) int32, and a block of the latter thrice in float32
        "int_mm": n_tokens * (hidden + 5 * inner) + 3 * FLOAT32 * block,
        # (T, H) float16 and int8, (T, I) int32 and floating point
        "bitsandbytes": n_tokens * (3 * hidden + (4 + s) * inner),
        "dequantize": n_tokens * 2 * s * inner + (FLOAT32 + s) * matrix,
    }
    needed = [forward[product]]
    if backward and settings is not None:
        # Of 8 bits the gradient is multiplied by the scales in float32.
        needed.append(n_tokens * (2 * s + (0 if settings == "nf4" else FLOAT32)) * inner + s * matrix)
    return n_tokens * 5 * s * hidden + max(needed)


def _engine_name(settings: Int8, device: torch.device) -> str:
    engine = int8_engines.choose_engine(settings.engine, device)
    return next(name for name, candidate in int8_engines.ENGINES.items() if candidate is engine)


def kept_by_frozen_layers(
    config: XLMRobertaXLConfig, n_tokens: int, dtype: torch.dtype, adapter: nn.ModuleList, device: torch.device
) -> int:
    """Bytes that frozen layers with an adapter keep for the backward pass.

    From the first adapted layer on, each keeps six times (T, H): the inputs of its two LayerNorms, and queries, keys,
    values, and what attention gives, on a CPU these in float32; and (T, I) once, the activation's input. A frozen
    matrix needs no input for the gradient. A term of the adapter keeps its own in float32, the mask of its dropout, and
    its thin product.
    """
    of_attention = max(dtype.itemsize, FLOAT32) if device.type == "cpu" else dtype.itemsize
    adapted = [number for number, layer in enumerate(adapter) if len(layer)]
    n_layers = config.num_hidden_layers - min(adapted, default=config.num_hidden_layers)
    of_layer = 4 * of_attention * config.hidden_size
    of_layer += dtype.itemsize * (2 * config.hidden_size + config.intermediate_size)
    of_terms = sum(FLOAT32 * term.kept_per_token for layer in adapter for term in layer.values())
    return n_tokens * (n_layers * of_layer + of_terms)


def kept_by_trained_layer(config: XLMRobertaXLConfig, n_tokens: int, device: torch.device) -> int:
    """Bytes that one layer of a base that learns keeps for the backward pass, in float32.

    To the six times (T, H) of a frozen layer come the two normalised inputs and the result of a matrix's input's
    dropout with its mask; (T, I) is there twice. Off CUDA, dropout within attention makes the probabilities (T, N, L)
    be kept, thrice: before and after the dropout, and its mask.
    """
    numbers = 10 * config.hidden_size + 2 * config.intermediate_size
    if config.attention_probs_dropout_prob and device.type != "cuda":
        numbers += 3 * config.num_attention_heads * min(n_tokens, config.max_length)
    return FLOAT32 * n_tokens * numbers


def default_batch_tokens(config: XLMRobertaXLConfig, dtype: torch.dtype, device: torch.device) -> int:
    """Tokens in a batch that keep a device busy without straining its memory."""
    per_token = config.intermediate_size * dtype.itemsize
    return int(np.clip(ACTIVATION_BYTES[device.type] // per_token, 512, 32_768))
