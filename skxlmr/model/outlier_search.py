"""Finds the outlier columns of 8-bit layers, by running sentences in many languages through the model.

Notation: B sentences, L tokens in the longest, T packed tokens.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from skxlmr.checkpoints.resolve import CheckpointFiles
from skxlmr.model.attention import Eager
from skxlmr.model.int8 import Int8, Int8Linear
from skxlmr.model.packing import Packing
from skxlmr.system.malloc import return_freed_memory
from skxlmr.text.tokenizer import XLMRobertaXLTokenizer

SENTENCES = Path(__file__).parents[1] / "bundled" / "sentences.txt"
SENTENCE_TOKENS = 12  # of each sentence, so that one pass of about four hundred tokens suffices
RANDOM_SENTENCES = 36


@torch.no_grad()
def find_outliers(model: nn.Module, layers: Collection[Int8Linear], files: CheckpointFiles) -> None:
    """Run the sentences through an `Encoder`; each of its 8-bit layers sets its outliers before it multiplies."""
    encoder: Any = model  # the type would be imported from a module that imports this one
    settings = [layer.settings for layer in layers]
    for layer in layers:
        layer.settings = Int8(engine=layer.settings.engine)  # the same outliers are found for all settings
        layer.observer = layer.find_outliers
    config, training = encoder.config, encoder.training
    sentences, eager = calibration_ids(files, config.real_vocab_size, config.max_length), None
    if config.position_embedding_type != "absolute":  # runs with eager attention alone, on texts of one length
        length = max(map(len, sentences))
        sentences = [ids for ids in sentences if len(ids) == length]
        mask = torch.zeros(len(sentences), 1, length, length, device=encoder.device)  # (B, 1, L, L)
        if config.is_decoder:
            mask += torch.full_like(mask, -torch.inf).triu(1)
        eager = [(Eager(mask), None)] * config.num_hidden_layers
    lengths = [len(ids) for ids in sentences]
    positions = torch.cat([torch.arange(length) for length in lengths]) + config.first_position  # (T,)
    packing = Packing.from_lengths(lengths, encoder.device, causal=config.is_decoder)
    hooks = [layer.register_forward_hook(lambda *_: return_freed_memory()) for layer in encoder.layers]
    try:
        ids = torch.cat(sentences).to(encoder.device)
        encoder.eval().encode(ids, positions.to(encoder.device), packing, eager=eager)
    finally:
        for hook in hooks:
            hook.remove()
        encoder.train(training)
        for layer, chosen in zip(layers, settings, strict=True):
            layer.observer, layer.settings = None, chosen
            layer.set_candidates(layer.candidates, layer.peaks)


def calibration_ids(files: CheckpointFiles, vocab_size: int, max_length: int) -> list[Tensor]:
    """Return the token ids of the bundled sentences; random ids if a checkpoint has no tokenizer."""
    length = min(SENTENCE_TOKENS, max_length)
    if files.tokenizer is None:
        generator = torch.Generator().manual_seed(0)
        return list(torch.randint(4, max(5, vocab_size), (RANDOM_SENTENCES, length), generator=generator))
    tokenizer = XLMRobertaXLTokenizer.from_directory(files.tokenizer_directory)
    sentences = tokenizer.encode_batch(SENTENCES.read_text(encoding="utf-8").splitlines())
    windows = [tokenizer.truncate(ids, max_length=length)[0] for ids in sentences]
    return [torch.as_tensor(window, dtype=torch.int64) for window in windows]
