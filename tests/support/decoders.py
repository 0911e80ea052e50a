"""Decoders of random weights, ours and transformers', that generate the same."""

import tempfile

import torch
import transformers

from skxlmr import model as models

SHAPE = {
    "vocab_size": 30,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 60,
    "is_decoder": True,
}
FAMILIES = ("XLMRobertaXL", "XLMRoberta")


def decoder_pair(family):
    """Return our decoder and transformers' with the same weights; padding is never the most likely token."""
    torch.manual_seed(0)
    ours = getattr(models, family + "ForCausalLM")(getattr(models, family + "Config")(**SHAPE)).double().eval()
    with torch.no_grad():
        for parameter in ours.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
        ours.lm_head.bias[1] = -30
    with tempfile.TemporaryDirectory() as directory:
        ours.save_pretrained(directory)
        theirs = getattr(transformers, family + "ForCausalLM").from_pretrained(directory, dtype=torch.float64)
    return ours, theirs.eval()


def prompts(lengths=(4, 7, 2)):
    """Return ids and mask of texts that are padded on the left."""
    generator = torch.Generator().manual_seed(1)
    ids = torch.full((len(lengths), max(lengths)), 1)
    for row, length in enumerate(lengths):
        ids[row, -length:] = torch.randint(4, SHAPE["vocab_size"], (length,), generator=generator)
    return ids, (ids != 1).long()


def trained_positions(mask):
    """Return the position ids of a forward pass, (B, S); without them transformers' generate counts from 0."""
    return (mask.cumsum(1) + 1) * mask + (1 - mask)


def reference_generate(theirs, ids, mask, **options):
    """Run transformers' generate with the positions that the model was trained with."""
    return theirs.generate(
        ids, attention_mask=mask, position_ids=trained_positions(mask), pad_token_id=1, **{"top_k": 0} | options
    )
