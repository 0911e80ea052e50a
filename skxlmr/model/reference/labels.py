"""The labels of forward passes: what they may be, which of them stand on padding, and the loss of texts.

Notation: B texts, S padded length.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def class_ids(labels: Tensor, shape: tuple[int, ...], name: str = "labels") -> Tensor:
    """Return labels that are indices, in int64 and in this shape.

    Raises TypeError if they are not a tensor of integers, and ValueError if there are more or fewer.
    """
    if not isinstance(labels, Tensor):
        raise TypeError(f"{name} must be a tensor, not {type(labels).__name__}: use torch.tensor({name}).")
    if labels.is_floating_point() or labels.is_complex():
        raise TypeError(f"{name} must be indices, which are integers, got {labels.dtype}: use {name}.long().")
    if labels.shape == shape:
        return labels.long()
    if len(shape) == 1 and labels.shape == (*shape, 1):
        return labels[:, 0].long()
    raise ValueError(f"{name} must have shape {tuple(shape)}, got {tuple(labels.shape)}.")


def sequence_loss(logits: Tensor, labels: Tensor, problem_type: str | None = None) -> Tensor:
    """Return the mean loss of logits (B, num_labels) and labels (B,) or (B, num_labels).

    `problem_type` None infers it as the reference does: regression if there is one logit, a single label per text if
    the labels are integers, otherwise several labels per text.
    """
    if not isinstance(labels, Tensor):
        raise TypeError(f"labels must be a tensor, not {type(labels).__name__}: use torch.tensor(labels).")
    if problem_type is None:
        is_matrix = labels.shape == logits.shape and labels.dtype == torch.bool
        several = labels.is_floating_point() or is_matrix
        problem_type = "multi_label_classification" if several else "single_label_classification"
        if logits.shape[1] == 1:
            problem_type = "regression"
    if problem_type == "single_label_classification":
        return F.cross_entropy(logits, class_ids(labels, logits.shape[:1]))
    if logits.shape[1] == 1 and labels.shape == logits.shape[:1] and problem_type == "regression":
        labels = labels[:, None]
    if labels.shape != logits.shape:  # which torch would repeat
        one_dimension = (
            f" or {tuple(logits.shape[:1])}" if problem_type == "regression" and logits.shape[1] == 1 else ""
        )
        raise ValueError(
            f"labels must have shape {tuple(logits.shape)}{one_dimension} for problem_type={problem_type!r}, got "
            f"{tuple(labels.shape)}."
        )
    if problem_type == "regression":
        return F.mse_loss(logits, labels.to(logits.dtype))
    return F.binary_cross_entropy_with_logits(logits, labels.to(logits.dtype))


def mask_labels(labels: Tensor, attention_mask: Tensor | None) -> Tensor:
    """Set the labels of padding to -100, which the loss ignores, whether or not its states are computed; (B, S)."""
    if attention_mask is None or attention_mask.ndim > 2:
        return labels
    return labels.masked_fill(attention_mask == 0, -100)


def labels_on_padding(labels: Tensor | None, attention_mask: Tensor | None) -> bool:
    """Whether the loss counts labels (B, S) of padding, whose states are then computed."""
    if labels is None or attention_mask is None or attention_mask.ndim > 2 or torch.compiler.is_exporting():
        return False  # while exporting, all states are computed
    return bool(((labels != -100) & (attention_mask == 0)).any())
