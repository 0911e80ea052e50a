"""What the config of a checkpoint tells a task about the head that the checkpoint has."""

from __future__ import annotations

from collections import Counter
from typing import Any

from skxlmr.model import XLMRobertaXLConfig

MAX_CHARACTERS = 2**25  # of an array of names, which takes as many for each as the longest has


def labels_of(config: XLMRobertaXLConfig) -> list[str]:
    """Return the names of the outputs, in their order.

    Raises
    ------
    ValueError
        If two are equal, one is missing, or an array of them would fill the memory.

    Examples
    --------
    >>> from skxlmr.model import XLMRobertaConfig
    >>> labels_of(XLMRobertaConfig(id2label={1: "yes", 0: "no"})), labels_of(XLMRobertaConfig(num_labels=2))
    (['no', 'yes'], ['LABEL_0', 'LABEL_1'])
    """
    names = config.id2label or {}
    if sorted(names) != list(range(len(names))):
        raise ValueError(
            f"id2label has the numbers {sorted(names)[:5]}, not those from 0 to {len(names) - 1}. Correct it."
        )
    labels = [names[i] for i in range(len(names))]
    check_length(labels, "id2label")
    label, n = Counter(labels).most_common(1)[0]
    if n > 1:
        raise ValueError(f"id2label has the name {label!r:.60} for {n} outputs. Rename all but one of them.")
    return labels


def check_length(labels: list[Any], where: str) -> None:
    """Raise ValueError if an array of labels, of which some may be texts, would fill the memory."""
    texts = [label for label in labels if isinstance(label, str)]
    if max(map(len, texts), default=0) * len(texts) > MAX_CHARACTERS:
        raise ValueError(f"the names in {where} are too long: {max(texts, key=len)!r:.60}.")
