"""Sizes in bytes of a model and its activations, computed from its config.

Notation: T tokens in a batch, L tokens in the longest text, H hidden size, I width of the feed-forward network,
N heads, V vocabulary, V' rows of it that are computed at a time, s bytes per number in the dtype of the activations.
"""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from skxlmr.model import XLMRobertaXLConfig, float8_engines
from skxlmr.model import nf4 as four_bit
from skxlmr.model.attention import runs_packed
from skxlmr.model.avx.operators import ROWS_IN_CACHE
from skxlmr.model.blocks import block_size
from skxlmr.model.float8 import Float8
from skxlmr.model.fused_encoder import MOST_PACKED
from skxlmr.model.heads import ClassificationHead
from skxlmr.model.int8 import Int8
from skxlmr.model.int8_engines import choice as int8_engines
from skxlmr.model.layers import activation
from skxlmr.model.lm_head import WORDS_AT_ONCE, LMHead
from skxlmr.model.storage import EightBit, Storage
from skxlmr.model.word_embedding import WORTH_MAPPING
from skxlmr.tuning import AddedBias, Head, LowRank, Tuning
from skxlmr.tuning.adapters import layer_widths

FLOAT32, INT32, INT64 = 4, 4, 8  # bytes
# Bytes of feed-forward activations per batch. On a CPU larger batches are slower, most in bfloat16 (see
# benchmarks/NOTES.md): what one operator writes is no longer in the cache when the next one reads it.
ACTIVATION_BYTES = {"cpu": 8 * 2**20, "cuda": 512 * 2**20, "mps": 256 * 2**20}
LEAST_BATCH_TOKENS = 768  # for each batch the large 8-bit weights are packed, or converted, once
MOST_GRAPH_TOKENS = 512  # in a CUDA graph, padding included; larger batches keep a GPU busy
MAX_GRAPHS = 32  # of each base model
BUCKET_BYTES = 32 * 2**20  # of gradients that processes exchange at once; they are copied
# On a CPU the C library keeps what is freed between buffers that are in use, where buffers of other sizes find no room.
# Measured: 1.4 to 2 times what is in use (see benchmarks/NOTES.md).
HEAP_FACTOR = 1.7
TOKENIZER_BYTES = 200  # per piece of the vocabulary
PACKED_ROWS = 64  # output features that the kernels for x86 CPUs pack together
PACKED_COLUMNS = 4  # and input features
PACKED_BYTES = {"avx512bf16": 1, "avx512": 1, "avx2": 2}  # of a packed weight
# The share of tokens from which words are predicted in training, by the kind of language model.
LANGUAGE_MODELS = {"masked": 0.15, "causal": 1.0}


def weight_bytes(
    config: XLMRobertaXLConfig, settings: Storage | None, dtype: torch.dtype, maps_words: bool = False
) -> int:
    """Return the bytes of the weights of a base model.

    All weights have the given dtype; if the model is quantised, except the matrices of the layers and the word
    embedding, which has 16 bits, as it has if it is mapped from a file. The second copy that 8-bit weights keep of
    outlier columns is not counted: at most one column in 64.
    """
    if settings is None:
        words = config.vocab_size * config.hidden_size if maps_words else 0
        return (config.num_parameters - words) * dtype.itemsize + 2 * words
    n_attentions = 2 if config.add_cross_attention else 1
    rows = config.num_hidden_layers * ((4 * n_attentions + 1) * config.hidden_size + config.intermediate_size)
    rows -= 3 * config.head_size * config.num_pruned_heads
    matrices = config.num_layer_parameters - rows  # each row has one bias
    absmax = matrices // four_bit.BLOCK
    quantized = matrices // 2 + FLOAT32 * absmax if settings == "nf4" else matrices + FLOAT32 * rows
    word_embedding = config.vocab_size * config.hidden_size
    others = config.num_parameters - matrices - word_embedding
    return quantized + 2 * word_embedding + others * dtype.itemsize


def maps_words(config: XLMRobertaXLConfig, device: torch.device | str) -> bool:
    """Whether an estimator maps the word embedding from a file: on a CPU, if it is large and has 16 bits there."""
    stored_in = config.extra.get("dtype", config.extra.get("torch_dtype"))  # newer and older name of the entry
    nbytes = 2 * config.vocab_size * config.hidden_size
    return torch.device(device).type == "cpu" and nbytes >= WORTH_MAPPING and stored_in in ("float16", "bfloat16")


def packed_bytes(config: XLMRobertaXLConfig, settings: Storage | None, device: torch.device | str) -> int:
    """Return the bytes of the second copy of 8-bit weights that `skxlmr.model.fused_encoder` packs for x86 CPUs.

    It is made when texts are first encoded without gradients. Outlier columns, at most one in 64, are not counted.
    """
    device = torch.device(device)
    if not isinstance(settings, Int8) or settings.outliers == "dynamic" or device.type != "cpu":
        return 0
    kernels = int8_engines.avx_library()
    if kernels is None or _engine_name(settings, device) != "avx" or activation(config) is not F.gelu:
        return 0
    per_weight = PACKED_BYTES[kernels.variant]
    of_layers = [
        sum(_rounded_up(n, PACKED_ROWS) * _rounded_up(k, PACKED_COLUMNS) for k, n in layer_widths(config, i).values())
        for i in range(config.num_hidden_layers)
    ]
    is_packed = per_weight * of_layers[0] * len(of_layers) <= MOST_PACKED
    return per_weight * sum(of_layers) if is_packed else 0


def _rounded_up(number: int, multiple: int) -> int:
    return number + -number % multiple


def num_learned(config: XLMRobertaXLConfig, tuning: Tuning | None, language_model: str | None = None) -> int:
    """Return the number of trained parameters: of the adapter or the base model, and of the head.

    This is a classification head or, with one of `LANGUAGE_MODELS`, that of a language model.
    """
    if tuning is None:
        return 0
    with torch.device("meta"):
        head = LMHead(config) if language_model else ClassificationHead(config, config.num_labels)
        added = [tuning.build(config), head]
    n_added = sum(p.numel() for module in added if module is not None for p in module.parameters())
    trains_words = tuning.trains_base and tuning.layers is None
    if isinstance(head, LMHead) and head.decoder is not None and not trains_words:
        n_added -= head.decoder.numel()
    if not tuning.trains_base:
        return n_added
    if trains_words:
        return n_added + config.num_parameters
    n_layers = config.num_hidden_layers - tuning.num_frozen_layers(config)
    return n_added + n_layers * _layer_parameters(config) + 2 * config.hidden_size


def exchange_bytes(config: XLMRobertaXLConfig, tuning: Tuning | None) -> int:
    """Return the most bytes of gradients that are copied when several processes add them up.

    That is a bucket of parameters, or one parameter that is larger.
    """
    learned = FLOAT32 * num_learned(config, tuning)
    largest = 0
    if tuning is not None and tuning.trains_base:
        largest = config.intermediate_size
        if tuning.layers is None:  # the word embedding, too
            largest = max(largest, config.vocab_size)
    return min(learned, max(BUCKET_BYTES, FLOAT32 * largest * config.hidden_size))


def num_sharded(config: XLMRobertaXLConfig, tuning: Tuning, language_model: str | None = None) -> int:
    """Return the number of parameters of the base that are in shards if several processes train it by FSDP2.

    These are the layers through which gradients flow, and the word embedding if they flow through all layers. The head
    of a language model is tied to the word embedding, which is whole in each process then.
    """
    n_layers = config.num_hidden_layers - tuning.num_frozen_layers(config)
    return n_layers * _layer_parameters(config) + _sharded_words(config, tuning, language_model)


def _sharded_words(config: XLMRobertaXLConfig, tuning: Tuning, language_model: str | None) -> int:
    is_whole = language_model or tuning.num_frozen_layers(config)
    return 0 if is_whole else config.vocab_size * config.hidden_size


def gathered_bytes(config: XLMRobertaXLConfig, tuning: Tuning, language_model: str | None = None) -> tuple[int, int]:
    """Return the bytes that a layer needs while it runs, and the word embedding, if they are sharded; in float32.

    In the backward pass these are the weights, their gradients, and a copy of these that is exchanged.
    """
    copies = (
        3 * FLOAT32 if tuning.trains_base else 2 * FLOAT32
    )  # without gradients: weights, and the buffer they come in
    return copies * _layer_parameters(config), copies * _sharded_words(config, tuning, language_model)


def _layer_parameters(config: XLMRobertaXLConfig) -> int:
    norms = 2 * config.hidden_size * (3 if config.add_cross_attention else 2)
    return config.num_layer_parameters // config.num_hidden_layers + norms


def activation_bytes(
    config: XLMRobertaXLConfig,
    n_tokens: int,
    dtype: torch.dtype,
    settings: Storage | None = None,
    tuning: Tuning | None = None,
    device: torch.device | str = "cpu",
    gradient_checkpointing: bool = False,
    language_model: str | None = None,
) -> int:
    """Return the peak size in bytes of the activations of one batch.

    These are the buffers of one layer, or of the head of a language model, and, if gradients flow through the base
    model, what all layers keep for the backward pass. The peak is at the start of the backward pass.
    """
    device = torch.device(device)
    if tuning is None or isinstance(tuning, Head):  # a head alone is trained on features, which are predictions
        working = working_bytes(config, n_tokens, dtype, settings, device)
        if tuning is None or language_model is None:
            return working
        return max(working, word_bytes(config, n_tokens, tuning, language_model))
    n_layers = config.num_hidden_layers - tuning.num_frozen_layers(config)
    if tuning.trains_base:
        dtype, settings = torch.float32, None
        kept = n_layers * kept_by_trained_layer(config, n_tokens, device)
    else:
        with torch.device("meta"):
            adapter = tuning.build(config)
        assert adapter is not None
        kept = kept_by_frozen_layers(config, n_tokens, dtype, adapter, device)
    if gradient_checkpointing:  # the inputs of all layers, and what one layer keeps when it is run again
        kept = kept // n_layers + n_layers * n_tokens * dtype.itemsize * config.hidden_size
    working = working_bytes(config, n_tokens, dtype, settings, device, backward=True)
    if language_model is not None:
        working = max(working, word_bytes(config, n_tokens, tuning, language_model))
    return working + kept


def word_bytes(config: XLMRobertaXLConfig, n_tokens: int, tuning: Tuning, language_model: str) -> int:
    """Return the bytes that the head of a language model needs in the backward pass, beside its parameters.

    For each word to predict these are two (T, V') of logits, and some vectors (T, H). There is also a part (V', H) of
    the word embedding in float32 or, if it is trained, its gradient (V, H).
    """
    n_predicted = math.ceil(LANGUAGE_MODELS[language_model] * n_tokens)
    n_words = min(WORDS_AT_ONCE, config.vocab_size)
    trains_words = tuning.trains_base and tuning.layers is None
    of_words = config.hidden_size * (config.vocab_size if trains_words else n_words)
    return FLOAT32 * (n_predicted * (2 * n_words + 6 * config.hidden_size) + of_words)


def working_bytes(
    config: XLMRobertaXLConfig,
    n_tokens: int,
    dtype: torch.dtype,
    settings: Storage | None,
    device: torch.device,
    backward: bool = False,
) -> int:
    """Return the bytes of the buffers of one layer.

    The peak is between the two matrices of the feed-forward network. There are five buffers (T, H): the word
    embeddings, their sum with the position embeddings, the input of the layer, the output of attention, and its
    normalised copy. There are two buffers (T, I): input and output of the activation function, or their gradients.
    Quantised weights add their unscaled products, or a copy of one matrix (H, I) in floating point; the backward pass
    always needs the copy. Where attention pads texts, which it may except on CPUs, its peak may be higher: twelve
    buffers (T, H).
    """
    s, hidden, inner = dtype.itemsize, config.hidden_size, config.intermediate_size
    matrix = hidden * inner
    block = min(block_size(device), n_tokens * inner)
    product = _engine_name(settings, device) if isinstance(settings, EightBit) else settings
    forward = {
        None: n_tokens * 2 * s * inner,
        "nf4": n_tokens * 2 * s * inner + s * matrix,
        # (T, H) and (T, I) int8, (T, I) int32, and four float32 blocks of (T, I)
        "int_mm": n_tokens * (hidden + 5 * inner) + 4 * FLOAT32 * block,
        # (T, H) and (T, I) int8; each thread has a few rows (t, I) in float32, or there is one (T, I)
        "avx": n_tokens * (hidden + inner) + FLOAT32 * inner * min(n_tokens, ROWS_IN_CACHE * torch.get_num_threads()),
        # (T, H) and (T, I) int8, (T, I) floating point
        "triton": n_tokens * (hidden + (1 + s) * inner),
        # (T, H) int8, (T, I) int32 and floating point, and a float32 block of (T, I)
        "bitsandbytes": n_tokens * (hidden + (4 + s) * inner) + FLOAT32 * block,
        "scaled_mm": _scaled_mm_bytes(config, n_tokens, dtype, device, block),
        "dequantize": n_tokens * 2 * s * inner + (FLOAT32 + s) * matrix,
    }
    needed = [forward[product]]
    if device.type != "cpu":
        needed.append(n_tokens * 7 * s * hidden)
    if backward and settings is not None:
        # With 8-bit weights the gradient is multiplied by the scales in float32.
        needed.append(n_tokens * (2 * s + (0 if settings == "nf4" else FLOAT32)) * inner + s * matrix)
    return n_tokens * 5 * s * hidden + max(needed)


def _scaled_mm_bytes(
    config: XLMRobertaXLConfig, n_tokens: int, dtype: torch.dtype, device: torch.device, block: int
) -> int:
    """Return the bytes of buffers in products of 8-bit floating point: before, in or after the activation function."""
    s, hidden, inner = dtype.itemsize, config.hidden_size, config.intermediate_size
    # (T, I) floating point and e4m3, and a float32 block of (T, I)
    rounding = n_tokens * (s + 1) * inner + FLOAT32 * block
    if float8_engines.takes_row_scales(dtype, device):
        return max(n_tokens * 2 * s * inner, rounding)
    # (T, H) e4m3, (T, I) float32 and, unless it is that, floating point, and a float32 block of (T, I)
    outputs = FLOAT32 if dtype == torch.float32 else FLOAT32 + s
    return max(n_tokens * 2 * s * inner, rounding, n_tokens * (hidden + outputs * inner) + FLOAT32 * block)


def _engine_name(settings: EightBit, device: torch.device) -> str:
    engine = settings.engine_on(device)
    engines = (float8_engines if isinstance(settings, Float8) else int8_engines).ENGINES
    return next(name for name, candidate in engines.items() if candidate is engine)


def kept_by_frozen_layers(
    config: XLMRobertaXLConfig, n_tokens: int, dtype: torch.dtype, adapter: nn.ModuleList, device: torch.device
) -> int:
    """Return the bytes that frozen layers with an adapter keep for the backward pass.

    From the first adapted layer on, each keeps six tensors (T, H): the inputs of its two LayerNorms, and the queries,
    keys, values and output of attention, which are float32 on a CPU. It also keeps one tensor (T, I), the input of the
    activation function. A frozen matrix keeps no input. An adapter term keeps its input in float32, its dropout mask,
    and its low-rank product.
    """
    of_attention = max(dtype.itemsize, FLOAT32) if device.type == "cpu" else dtype.itemsize
    terms = [[term for term in layer.children() if isinstance(term, LowRank | AddedBias)] for layer in adapter]
    adapted = [number for number, of_layer in enumerate(terms) if of_layer]
    n_layers = config.num_hidden_layers - min(adapted, default=config.num_hidden_layers)
    per_layer = 4 * of_attention * config.hidden_size
    per_layer += dtype.itemsize * (2 * config.hidden_size + config.intermediate_size)
    in_terms = sum(FLOAT32 * term.kept_per_token for of_layer in terms for term in of_layer)
    return n_tokens * (n_layers * per_layer + in_terms)


def kept_by_trained_layer(config: XLMRobertaXLConfig, n_tokens: int, device: torch.device) -> int:
    """Return the bytes that one trained layer keeps for the backward pass, in float32.

    In addition to the six tensors (T, H) of a frozen layer it keeps its two normalised inputs and, for dropout, one
    output and one mask; it keeps two tensors (T, I). Except on CUDA, dropout in attention keeps three tensors
    (T, N, L): the probabilities before and after dropout, and the mask.
    """
    numbers = 10 * config.hidden_size + 2 * config.intermediate_size
    return FLOAT32 * n_tokens * numbers + _probability_bytes(config, n_tokens, device)


def _probability_bytes(config: XLMRobertaXLConfig, n_tokens: int, device: torch.device) -> int:
    if not config.attention_probs_dropout_prob or device.type == "cuda":
        return 0
    return FLOAT32 * n_tokens * 3 * config.num_attention_heads * min(n_tokens, config.max_length)


def graph_bytes(
    config: XLMRobertaXLConfig,
    dtype: torch.dtype,
    settings: Storage | None,
    device: torch.device | str,
    max_graphs: int = MAX_GRAPHS,
) -> int:
    """Return the most bytes that the CUDA graphs of small batches hold; see `skxlmr.set_cuda_graphs`.

    They share the buffers of one batch, and each has its own ids, positions, text boundaries and output (T, H).
    """
    device = torch.device(device)
    is_dynamic = isinstance(settings, Int8) and settings.outliers == "dynamic"
    if device.type != "cuda" or is_dynamic or not runs_packed(device, dtype, config.head_size):
        return 0
    of_graph = MOST_GRAPH_TOKENS * (dtype.itemsize * config.hidden_size + 2 * INT64 + INT32)
    return working_bytes(config, MOST_GRAPH_TOKENS, dtype, settings, device) + max_graphs * of_graph


def heap_bytes(
    config: XLMRobertaXLConfig,
    n_tokens: int,
    activations: int,
    tuning: Tuning | None,
    gradient_checkpointing: bool = False,
) -> int:
    """Return the bytes that a CPU needs for activations: those in use, and what the C library keeps between them.

    It keeps nothing of the probabilities of attention, which are large: buffers above 32 MiB are the system's.
    """
    probabilities = 0
    if tuning is not None and tuning.trains_base:
        n_layers = 1 if gradient_checkpointing else config.num_hidden_layers - tuning.num_frozen_layers(config)
        probabilities = n_layers * _probability_bytes(config, n_tokens, torch.device("cpu"))
    return probabilities + round(HEAP_FACTOR * (activations - probabilities))


def default_batch_tokens(config: XLMRobertaXLConfig, dtype: torch.dtype, device: torch.device) -> int:
    """Return the tokens per batch that use a device fully without large activations."""
    per_token = config.intermediate_size * dtype.itemsize
    return int(np.clip(ACTIVATION_BYTES[device.type] // per_token, LEAST_BATCH_TOKENS, 32_768))
