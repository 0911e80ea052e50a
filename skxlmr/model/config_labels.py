"""The names of a model's outputs in its config."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, overload

from skxlmr.system.schema import shown


def default_labels(num_labels: int) -> dict[int, str]:
    """Return the names of outputs that have none of their own."""
    return {i: f"LABEL_{i}" for i in range(num_labels)}


def number_of_label(key: object) -> int:
    """Return the number of an output, of a key of `id2label`, which are strings in files."""
    try:
        return int(key)  # type: ignore[call-overload]
    except (TypeError, ValueError):
        raise ValueError(f"id2label must map the numbers of the outputs to names, got the key {shown(key)}.") from None


class LabelIds:
    """The attribute `label2id` of a config: the ids of the names in `id2label`; setting it sets `id2label`.

    In the constructor it may be None, and contradicts no `id2label`.
    """

    @overload
    def __get__(self, config: None, owner: type) -> None: ...

    @overload
    def __get__(self, config: object, owner: type) -> dict[str, int]: ...

    def __get__(self, config: Any, owner: type) -> dict[str, int] | None:
        if config is None:
            return None  # the default of the constructor
        return {label: i for i, label in (config.id2label or {}).items()}

    def __set__(self, config: Any, value: Mapping[str, int] | None) -> None:
        if value is None:
            return
        if not config.is_made and config.id2label is not None:
            if dict(value) != config.label2id:
                raise ValueError(f"label2id={dict(value)!r} contradicts id2label={config.id2label!r}.")
            return
        ids = sorted(value.values())
        if ids != list(range(len(ids))):
            raise ValueError(f"label2id must map the names of the labels to 0, 1, 2..., got {dict(value)!r}.")
        config.id2label = {i: label for label, i in sorted(value.items(), key=lambda item: item[1])}
