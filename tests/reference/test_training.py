"""Training our classes equals training those of transformers, step by step."""

import pytest
import torch
import torch.nn.functional as F
import transformers

from skxlmr import model as models
from skxlmr.model.key_maps import key_map

STEPS = 20
TOLERANCE = 1e-8
SHAPE = {
    "vocab_size": 40,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "max_position_embeddings": 20,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
}
LENGTHS = ((6, 3, 1, 8), (5, 5), (2, 9, 4))
HEADS = {
    "ForSequenceClassification": {"num_labels": 3},
    "ForTokenClassification": {"num_labels": 3},
    "ForMultipleChoice": {},
    "ForQuestionAnswering": {},
    "ForMaskedLM": {},
    "ForCausalLM": {"is_decoder": True},
}


def padded(lengths, generator):
    """Return padded ids and the mask of random texts."""
    ids = torch.randint(4, SHAPE["vocab_size"], (len(lengths), max(lengths)), generator=generator)
    mask = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    return {"input_ids": ids.where(mask, torch.tensor(1)), "attention_mask": mask.long()}


def batch_for(head, step):
    """Return a ragged batch with labels, a different one for each step."""
    generator = torch.Generator().manual_seed(step)
    lengths = LENGTHS[step % len(LENGTHS)]
    batch = padded(lengths, generator)
    ids, mask = batch.values()
    n_texts = len(lengths)
    if head == "ForSequenceClassification":
        return {**batch, "labels": torch.randint(3, (n_texts,), generator=generator)}
    if head == "ForTokenClassification":
        labels = torch.randint(3, ids.shape, generator=generator)
        return {**batch, "labels": labels.masked_fill(mask == 0, -100)}
    if head == "ForMultipleChoice":  # each text is the first of two choices
        other = padded(lengths[::-1], generator)
        batch = {name: torch.stack([batch[name], other[name]], 1) for name in batch}  # (B, 2, S)
        return {**batch, "labels": torch.randint(2, (n_texts,), generator=generator)}
    if head == "ForQuestionAnswering":
        ends = torch.tensor(lengths) - 1
        starts = (ends * torch.rand(n_texts, generator=generator)).long()
        return {**batch, "start_positions": starts, "end_positions": ends}
    hidden = torch.rand(ids.shape, generator=generator) < 0.5
    hidden[0, 1] = True  # at least one token to predict
    labels = ids.masked_fill((mask == 0) | ~hidden, -100)
    if head == "ForMaskedLM":
        batch["input_ids"] = ids.masked_fill(hidden & (mask == 1), SHAPE["vocab_size"] - 1)
    return {**batch, "labels": labels}


def train(model, head):
    """Train a model for 20 steps and return the losses."""
    optimizer = torch.optim.AdamW(model.train().parameters(), lr=1e-2, weight_decay=0.1)
    losses = []
    for step in range(STEPS):
        loss = model(**batch_for(head, step)).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return torch.tensor(losses, dtype=torch.float64)


def causal_loss(logits, labels, **others):
    return F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())


@pytest.mark.parametrize("head", HEADS)
def test_training_losses_and_weights_equal_reference(head, tmp_path):
    name = "XLMRobertaXL" + head
    torch.manual_seed(0)
    reference = getattr(transformers, name)(transformers.XLMRobertaXLConfig(**SHAPE, **HEADS[head])).double()
    with torch.no_grad():
        for parameter in reference.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    if head == "ForCausalLM":  # the only one that computes its loss in single precision
        reference.loss_function = causal_loss
    reference.save_pretrained(tmp_path)
    ours = getattr(models, name).from_pretrained(tmp_path, dtype=torch.float64)
    before = {key: p.detach().clone() for key, p in ours.named_parameters()}

    expected, got = train(reference, head), train(ours, head)

    torch.testing.assert_close(got, expected, rtol=0, atol=TOLERANCE)
    theirs = {key_map("xlm-roberta-xl").to_ours(key): p.detach() for key, p in reference.named_parameters()}
    weights = {key: p.detach() for key, p in ours.named_parameters()}
    assert weights.keys() == theirs.keys()
    for key, weight in weights.items():
        torch.testing.assert_close(
            weight, theirs[key], rtol=0, atol=TOLERANCE, msg=lambda text, key=key: f"{key}: {text}"
        )
    moved = [key for key in weights if (weights[key] - before[key]).abs().max() > 1e-3]
    assert len(moved) == len(weights)
