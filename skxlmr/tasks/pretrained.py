"""What the config of a checkpoint tells a task about the head that the checkpoint has."""

from __future__ import annotations

from skxlmr.model import XLMRobertaXLConfig


def labels_of(config: XLMRobertaXLConfig) -> list[str]:
    """Return the names of the outputs, in their order.

    Raises
    ------
    ValueError
        If two are equal, or one is missing.

    Examples
    --------
    >>> from skxlmr.model import XLMRobertaConfig
    >>> labels_of(XLMRobertaConfig(id2label={1: "yes", 0: "no"})), labels_of(XLMRobertaConfig(num_labels=2))
    (['no', 'yes'], ['LABEL_0', 'LABEL_1'])
    """
    names = config.id2label or {}
    if sorted(names) != list(range(len(names))):
        raise ValueError(f"id2label has the numbers {sorted(names)[:5]}, not those from 0 to {len(names) - 1}.")
    labels = [names[i] for i in range(len(names))]
    twice = sorted({label for label in labels if labels.count(label) > 1})
    if twice:
        raise ValueError(f"id2label has the name {twice[0]!r:.60} for two outputs. Rename one of them.")
    return labels
