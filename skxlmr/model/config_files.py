"""Configs as text and files, by their `model_type`, and changes of several settings at a time."""

from __future__ import annotations

import copy
import difflib
import json
import os
from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from skxlmr.checkpoints import hub
from skxlmr.checkpoints.errors import CheckpointError
from skxlmr.checkpoints.files import read_json
from skxlmr.checkpoints.resolve import resolve_config
from skxlmr.model.config_values import ACTIVATIONS
from skxlmr.system import atomic, schema
from skxlmr.system.schema import shown

if TYPE_CHECKING:
    from huggingface_hub import CommitInfo
    from typing_extensions import Self

BOOLEANS = {"true": True, "1": True, "y": True, "yes": True, "false": False, "0": False, "n": False, "no": False}
Config = TypeVar("Config", bound="ConfigFiles")

NOT_SAVED = ("extra", "name_or_path")  # fields that are not entries of config.json
CONFIGS: dict[str, type[Any]] = {}  # the class for each `model_type`


class ConfigFiles:
    """Base class of configs, which are dataclasses."""

    model_type: ClassVar[str]
    absent: ClassVar[dict[str, Any]] = {}  # values of keys that a config.json lacks, if not the defaults

    def __init_subclass__(cls) -> None:
        """Let `from_dict` return the class for its `model_type`, and not subclasses of users."""
        super().__init_subclass__()
        if "model_type" in cls.__dict__:
            CONFIGS.setdefault(cls.model_type, cls)

    def __post_init__(self) -> None:
        """Check all settings."""

    def setting_names(self) -> set[str]:
        """Return the names of everything that may be set."""
        return {name for name in schema.types_of(type(self)) if name not in NOT_SAVED}

    @classmethod
    def from_pretrained(
        cls,
        model: str | os.PathLike,
        *,
        revision: str | None = None,
        cache_dir: str | os.PathLike | None = None,
        token: str | bool | None = None,
        local_files_only: bool = False,
        subfolder: str = "",
        **settings: Any,
    ) -> Self:
        """Read the configuration of a checkpoint: "nano", a local directory or the id of a model on the hub.

        Nothing else is downloaded from the hub. The parameters are those of a model's `from_pretrained`, `settings`
        those that replace the ones of the checkpoint.

        Raises
        ------
        TypeError
            If a setting is unknown.
        ValueError
            If a setting is invalid.
        ModelNotFoundError
            If the model does not exist.
        CheckpointError
            If its config.json is not a JSON object, is of another architecture, or has invalid values.
        """
        path = Path(model) / "config.json"  # a directory may hold a config without a model
        if subfolder or not path.exists():
            path = resolve_config(
                model, revision=revision, cache_dir=cache_dir, token=token, local_files_only=local_files_only,
                subfolder=subfolder,
            )  # fmt: skip
        config: Any = cls.from_file(path).changed(settings)
        config.name_or_path = os.fspath(model)
        return config

    @classmethod
    def from_json_file(cls, json_file: str | os.PathLike) -> Self:
        """Read a file with the content of a config.json; see `from_file`."""
        return cls.from_file(json_file)

    @classmethod
    def from_file(cls, path: str | os.PathLike, *, pre_layer_norm: bool | None = None) -> Self:
        """Read and check a config.json; return the class for its model_type.

        `pre_layer_norm` tells whether the weights are those of an XL model, since some published files of XL and XXL
        say "xlm-roberta"; None decides by their hidden size. Raise CheckpointError if the file is invalid.
        """
        values = read_json(path)
        kind = values.get("model_type")
        if not isinstance(kind, str) or kind not in CONFIGS:
            hint = " Old files lack it: set it to the one that the model is." if kind is None else ""
            raise CheckpointError(
                f"{path}: model_type is {shown(kind)}; this package runs {', '.join(CONFIGS)}, and models that are "
                f"derived from them.{hint}"
            )
        if kind == "xlm-roberta":
            if pre_layer_norm is None:
                pre_layer_norm = values.get("hidden_size") in (2560, 4096)
            values["model_type"] = "xlm-roberta-xl" if pre_layer_norm else kind
        try:
            return cls.from_dict(values)
        except ValueError as error:
            raise CheckpointError(f"{path}: {error}") from error

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], **settings: Any) -> Self:
        """Return the configuration for the content of a config.json, of the class for its `model_type` if it has one.

        Unknown keys become `extra`; `settings` replace others. Raises ValueError if an entry is of another type than
        the field has, and TypeError if a setting is unknown.
        """
        kind = schema.parse(str, values.get("model_type", cls.model_type), "model_type")
        of_kind: Any = CONFIGS.get(kind, cls)
        types = schema.types_of(of_kind) | {
            "id2label": dict[str | int, str | int | float] | None,
            "pruned_heads": dict[str | int, list[int]] | None,
        }
        known = types.keys() - NOT_SAVED
        values = {
            k: v for k, v in {**of_kind.absent, **values}.items() if k not in ("model_type", "label2id", *NOT_SAVED)
        }
        for name in known & values.keys():
            schema.parse(types[name], values[name], name)
        values["pruned_heads"] = values.get("pruned_heads") or {}
        return of_kind(
            **{k: v for k, v in values.items() if k in known},
            extra={k: v for k, v in values.items() if k not in known},
        ).changed(settings)

    def changed(self, settings: Mapping[str, Any]) -> Self:
        """Return a copy with other settings; raise TypeError if one is unknown, and ValueError if it is invalid."""
        unknown = settings.keys() - self.setting_names()
        if unknown:
            close = difflib.get_close_matches(min(unknown), sorted(self.setting_names()), n=1)
            hint = f" (did you mean {close[0]!r}?)" if close else ""
            raise TypeError(f"{type(self).__name__} has no setting {', '.join(map(repr, sorted(unknown)))}{hint}.")
        labels = {name: settings[name] for name in ("num_labels", "id2label", "label2id") if name in settings}
        config: Any = self
        return changed_config(config, {k: v for k, v in settings.items() if k not in labels}, **labels)

    def to_dict(self) -> dict[str, Any]:
        """Return the content of config.json; raise TypeError if `hidden_act` is a callable."""
        config: Any = self
        if callable(config.hidden_act):
            raise TypeError("hidden_act is a callable, which cannot be saved; use one of " + ", ".join(ACTIVATIONS))
        names = [name for name in schema.types_of(type(self)) if name not in ("num_labels", *NOT_SAVED)]
        values = {name: getattr(self, name) for name in names}
        values["id2label"] = {str(i): label for i, label in (config.id2label or {}).items()}
        values["pruned_heads"] = {str(layer): list(heads) for layer, heads in config.pruned_heads.items()}
        return {"model_type": self.model_type, **values, **config.extra}

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


def changed_config(
    config: Config,
    changes: Mapping[str, Any],
    *,
    num_labels: int | None = None,
    id2label: Mapping[int, str] | None = None,
    label2id: Mapping[str, int] | None = None,
) -> Config:
    """Return a copy of a config with other settings and labels.

    Raises ValueError if `num_labels`, `id2label` and `label2id` contradict each other or a setting is invalid.
    """
    old: Any = config  # a dataclass with labels, see `XLMRobertaXLConfig`
    known = {f.name for f in fields(old)}
    extra = {name: value for name, value in changes.items() if name not in known}
    settings = {name: value for name, value in changes.items() if name in known}
    new = replace(old, **settings, extra={**old.extra, **extra})
    if num_labels is not None:
        new.num_labels = num_labels
    if label2id is not None:
        new.label2id = dict(label2id)
    if id2label is not None:
        new.id2label = dict(id2label)
    if num_labels is not None and new.num_labels != num_labels:
        raise ValueError(f"num_labels={num_labels} contradicts the names of {new.num_labels} labels.")
    if label2id is not None and new.label2id != label2id:
        raise ValueError(f"label2id={dict(label2id)!r} contradicts id2label={new.id2label!r}.")
    return new
