"""Configs as text and files, and changes of several settings at a time."""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, ClassVar

from skxlmr.checkpoints import hub
from skxlmr.system import atomic
from skxlmr.system.schema import shown

if TYPE_CHECKING:
    from huggingface_hub import CommitInfo

BOOLEANS = {"true": True, "1": True, "y": True, "yes": True, "false": False, "0": False, "n": False, "no": False}


class ConfigFiles:
    """Base class of configs, dataclasses that have `to_dict`."""

    absent: ClassVar[dict[str, Any]] = {}  # values of keys that a config.json lacks, if not the defaults

    def to_dict(self) -> dict[str, Any]:
        """Return the content of config.json."""
        raise NotImplementedError

    def __post_init__(self) -> None:
        """Check all settings."""

    def save_pretrained(self, directory: str | os.PathLike) -> None:
        """Write config.json into a directory, which is created if missing.

        Raises
        ------
        TypeError
            If `hidden_act` is a callable.
        """
        Path(directory).mkdir(parents=True, exist_ok=True)
        self.to_json_file(Path(directory) / "config.json", use_diff=False)

    def push_to_hub(
        self,
        repo_id: str,
        *,
        commit_message: str | None = None,
        private: bool | None = None,
        token: str | bool | None = None,
        revision: str | None = None,
        create_pr: bool = False,
    ) -> CommitInfo:
        """Upload config.json to a repository of the hub; the parameters are those of a model's `push_to_hub`."""
        with TemporaryDirectory() as directory:
            self.save_pretrained(directory)
            return hub.upload(
                directory, repo_id, commit_message=commit_message or "Upload config", private=private, token=token,
                revision=revision, create_pr=create_pr,
            )  # fmt: skip

    def to_json_file(self, json_file_path: str | os.PathLike, use_diff: bool = True) -> None:
        """Write `to_json_string(use_diff)` to a file; a model loads it if the file is named config.json."""
        atomic.write_bytes(Path(json_file_path), self.to_json_string(use_diff).encode())

    def to_json_string(self, use_diff: bool = True) -> str:
        """Return the content of config.json as text, of `to_diff_dict` or else of `to_dict`."""
        return json.dumps(self.to_diff_dict() if use_diff else self.to_dict(), indent=2, sort_keys=use_diff) + "\n"

    def to_diff_dict(self) -> dict[str, Any]:
        """Return those entries of `to_dict` that are not the defaults of the class, and its `model_type`.

        Examples
        --------
        >>> from skxlmr.model import XLMRobertaXLConfig
        >>> XLMRobertaXLConfig(hidden_size=64).to_diff_dict()
        {'model_type': 'xlm-roberta-xl', 'hidden_size': 64}
        """
        defaults = type(self)().to_dict()
        kept = (*self.absent, "model_type")  # a missing key is not always the default of the class
        return {k: v for k, v in self.to_dict().items() if k in kept or k not in defaults or v != defaults[k]}

    def update(self, config_dict: Mapping[str, Any]) -> None:
        """Set several attributes; nothing is changed if a value is invalid, which raises ValueError.

        Examples
        --------
        >>> from skxlmr.model import XLMRobertaXLConfig
        >>> config = XLMRobertaXLConfig()
        >>> config.update({"hidden_dropout_prob": 0.0, "num_labels": 3})
        >>> config.hidden_dropout_prob, config.id2label[2]
        (0.0, 'LABEL_2')
        """
        new = copy.deepcopy(self)
        for name, value in config_dict.items():
            setattr(new, name, value)
        new.__post_init__()
        self.__dict__.update(new.__dict__)

    def update_from_string(self, update_str: str) -> None:
        """Set attributes that exist from text such as "hidden_size=64,hidden_act=relu".

        Raises
        ------
        ValueError
            If a setting does not exist, is neither a number, a boolean nor a string, or has a value of another type.
        """
        changes: dict[str, Any] = {}
        for assignment in update_str.split(","):
            name, equals, text = assignment.partition("=")
            if not equals or not hasattr(self, name):
                raise ValueError(f"{assignment!r} must be the name of a setting, an equals sign and its value.")
            old = getattr(self, name)
            if not isinstance(old, bool | int | float | str):
                raise ValueError(f"{name} is {shown(old)}: only numbers, booleans and strings can be set from text.")
            if isinstance(old, bool) and text.lower() not in BOOLEANS:
                raise ValueError(f"{name} must be true or false, got {text!r}.")
            changes[name] = BOOLEANS[text.lower()] if isinstance(old, bool) else type(old)(text)
        self.update(changes)
