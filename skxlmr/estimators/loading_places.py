"""Where `load` finds a model, by the options of `from_pretrained`, and how an estimator names it afterwards."""

from __future__ import annotations

import difflib
import os
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from skxlmr.checkpoints import layout
from skxlmr.checkpoints.errors import ModelNotFoundError
from skxlmr.checkpoints.resolve import BUNDLED, CheckpointFiles, expanded, resolve
from skxlmr.model.loading_options import REFUSED as OF_FROM_PRETRAINED
from skxlmr.runtime.backbone import use_hub_options

# Options of `from_pretrained` that `load` does not have, and what there is in their place.
REFUSED = {
    **OF_FROM_PRETRAINED,
    "torch_dtype": "its name is 'dtype'",
    "device_map": "use device",
    "num_labels": "a head keeps the number of its outputs; fit trains a new one",
    "label2id": "use id2label",
    "use_safetensors": "give the file of the weights as the model",
    "config": "set the settings in the config.json of the model",
    "attn_implementation": "estimators have one implementation",
    "ignore_mismatched_sizes": "give the checkpoint to an estimator as its model, and call fit",
    "output_loading_info": "from_pretrained of a model class has it",
}
OPTIONS = (
    "revision", "subfolder", "variant", "cache_dir", "token", "local_files_only", "problem_type", "id2label"
)  # fmt: skip


def check_names(names: Collection[str], known: Collection[str]) -> None:
    """Raise ValueError if a user gives `load` an option that it does not have, or misspells one.

    Names of parameters of the estimator, which are `known`, and those that are like them, are left to it.
    """
    for name in names:
        if name.partition("__")[0] in known:
            continue
        close = difflib.get_close_matches(name, [*known, *OPTIONS], n=1, cutoff=0.75)
        if name in REFUSED:
            raise ValueError(f"skxlmr.load has no parameter {name!r}: {REFUSED[name]}.")
        if close and close[0] in OPTIONS:
            raise ValueError(f"skxlmr.load has no parameter {name!r}. Did you mean {close[0]!r}?")


@dataclass(frozen=True)
class Place:
    """Options of `load`, as `from_pretrained` has them."""

    revision: str | None = None
    subfolder: str = ""
    variant: str | None = None
    cache_dir: str | os.PathLike | None = None
    token: str | bool | None = None
    local_files_only: bool = False

    @property
    def hub_options(self) -> dict[str, Any]:
        """The options that the base model of an adapter, or of a saved estimator, is looked up with, too."""
        options = {"cache_dir": self.cache_dir, "token": self.token, "local_files_only": self.local_files_only}
        return options if any(value not in (None, False) for value in options.values()) or self.token is False else {}

    def local_directory(self, model: str | os.PathLike) -> Path | None:
        """Return the directory of a model on this machine; None if it is on the hub, or bundled.

        Raises ValueError if a revision is given, and ModelNotFoundError if there is no such subfolder.
        """
        if not isinstance(model, str | os.PathLike):
            raise TypeError(f"directory must be a str or a path, not {type(model).__name__}.")
        path = expanded(os.fspath(model))
        if not os.fspath(model) or not os.path.isdir(path):
            return None
        if self.revision is not None:
            raise ValueError(
                f"revision={self.revision!r} applies to hub models only, and {os.fspath(model)!r} is a directory."
            )
        if self.subfolder:
            path = path / layout.checked_subfolder(self.subfolder)
            if not path.is_dir():
                raise ModelNotFoundError(f"{os.fspath(model)!r} has no subfolder {self.subfolder!r}.")
        return path

    def find(self, model: str | os.PathLike, find_base: Callable[[str], CheckpointFiles] | None) -> CheckpointFiles:
        """Find the files of a model, and those of the base of an adapter, unless `find_base` does that."""
        return resolve(
            model,
            revision=self.revision,
            subfolder=self.subfolder,
            weights_names=layout.weights_names(self.variant),
            find_base=find_base or self.find_base,
            **self.hub_options,
        )

    def find_base(self, name: str) -> CheckpointFiles:
        """Find the files of the base model of an adapter."""
        return resolve(name, weights_names=layout.weights_names(self.variant), **self.hub_options)

    def name(self, model: str | os.PathLike, directory: Path, files: CheckpointFiles) -> str | os.PathLike:
        """Return how an estimator names a model: as the user does, if that says where its files are.

        A revision becomes a part of the name. A folder of a model on the hub is a directory of its own, and a variant a
        file in it. `directory` is that of the model, and `files` are those of its weights.
        """
        if self.variant is not None:
            return str(files.directory / (files.index or files.weights[0]).name)
        if self.subfolder:
            return str(directory)
        if not isinstance(model, str) or os.path.exists(expanded(model)) or model in BUNDLED:
            return model
        name = model if self.revision is None or "@" in model else f"{model}@{self.revision}"
        use_hub_options(name, self.hub_options)
        return name

    def name_of_base(self, name: str, files: CheckpointFiles) -> str:
        """Return how an estimator names the base model of an adapter, which is found by its own name."""
        if self.variant is not None:
            return str(files.directory / (files.index or files.weights[0]).name)
        if not os.path.exists(expanded(name)):
            use_hub_options(name, self.hub_options)
        return name
