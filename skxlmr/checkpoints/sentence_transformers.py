"""The files of a sentence-transformers directory: which modules it has, and how it gives texts to the model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from skxlmr.checkpoints.errors import CheckpointError
from skxlmr.checkpoints.files import parse_json, read_json, read_json_as, read_limited
from skxlmr.checkpoints.layout import check_base_name
from skxlmr.system.schema import shown

MODULES = "modules.json"
POOLING = "1_Pooling/config.json"
PROMPTS = "config_sentence_transformers.json"
SETTINGS = "sentence_bert_config.json"  # of the transformer
# The names of that file: the first, or those of early versions.
SETTINGS_NAMES = (SETTINGS, "sentence_roberta_config.json", "sentence_xlm-roberta_config.json")
ROUTER_CONFIG = "router_config.json"
HEAD = "skxlmr_head.json"  # of ours: what the last module is trained for; sentence-transformers ignores it
FILES = (MODULES, POOLING, PROMPTS, *SETTINGS_NAMES, ROUTER_CONFIG, HEAD)
TOKENIZER_CONFIG = "tokenizer_config.json"

EMBEDS_TEXTS = "SentenceTransformer"  # the model_type; early versions do not write it
CROSS_ENCODER = "CrossEncoder"
# Entries of config.json about what a CrossEncoder does with its logits; the second is of early versions.
OF_CROSS_ENCODERS = ("sentence_transformers", "sbert_ce_default_activation_function")

ROUTERS = ("Router", "Asym")  # the second is the name in early versions
# What a Router maps to the route of texts without a task, in this order: pairs of a task and a kind of input.
MAPPED = ("(None, 'text')", "(None, None)")

MIN_LENGTH = 4  # as of the parameter max_length


@dataclass
class RouterConfig:
    """The content of the file of a Router."""

    types: dict[str, str]  # the classes of the modules, by their folders
    structure: dict[str, list[str]]  # the folders of the modules of each route
    parameters: dict[str, Any] = field(default_factory=dict)

    @property
    def default(self) -> str | None:
        """The route by which `SentenceTransformer.encode` reads texts without a task; None if there is none."""
        mappings = self.parameters.get("route_mappings")
        mapped = [mappings.get(key) for key in MAPPED] if isinstance(mappings, dict) else []
        names = [*mapped, "text" if "text" in self.structure else None, self.parameters.get("default_route")]
        if self.parameters.get("allow_empty_key", True) is True:
            names += self.structure
        return next((name for name in names if name is not None), None)

    def is_default(self, task: str) -> bool:
        """Whether texts of a task, "query" or "document", are read by the modules of the default route."""
        mappings = self.parameters.get("route_mappings")
        keys = (f"('{task}', 'text')", f"('{task}', None)", *MAPPED)
        mapped = [mappings.get(key) for key in keys] if isinstance(mappings, dict) else []
        named = task if task in self.structure else self.default
        route = next((name for name in (*mapped, named) if name is not None), None)
        routes = [self.structure.get(name) if isinstance(name, str) else None for name in (route, self.default)]
        return routes[0] == routes[1]


def read_module_list(root: Path) -> list[tuple[str, Path]]:
    """Read the kinds of the modules of a directory, and their folders; raises CheckpointError if it is damaged.

    A Router stands for the modules of its default route.
    """
    found: list[tuple[str, Path]] = []
    for i, module in enumerate(_listed_modules(root)):
        kind, name = _class_name(module.get("type")), module.get("path")
        folder = root if i == 0 and not name else root / check_base_name(name, root / MODULES)
        found += _default_route(folder) if i == 0 and kind in ROUTERS else [(kind, folder)]
    return found


def _listed_modules(root: Path) -> list[dict[str, Any]]:
    path = root / MODULES
    modules = parse_json(b'{"modules":' + read_limited(path) + b"}", path)["modules"]  # the file is a list
    if not isinstance(modules, list) or not modules or not all(isinstance(module, dict) for module in modules):
        raise CheckpointError(f"{path} is not a list of modules")
    return modules


def _default_route(folder: Path) -> list[tuple[str, Path]]:
    """Read the modules of the default route of a Router; the Router itself if it has none."""
    path, config = _router_config(folder)
    if config.default is None:
        return [(ROUTERS[0], folder)]
    names = config.structure.get(config.default) if isinstance(config.default, str) else None
    if not names or any(name not in config.types for name in names):
        raise CheckpointError(f"{path} has no modules of the route {shown(config.default)}")
    return [(_class_name(config.types[name]), folder / check_base_name(name, path)) for name in names]


def _router_config(folder: Path) -> tuple[Path, RouterConfig]:
    path = folder / (ROUTER_CONFIG if (folder / ROUTER_CONFIG).is_file() else "config.json")
    return path, read_json_as(RouterConfig, path)


def has_own_route(root: Path, task: str) -> bool:
    """Whether a directory has other modules for the texts of a task, "query" or "document", than for any text."""
    if not is_sentence_model(root):
        return False
    first = _listed_modules(root)[0]
    if _class_name(first.get("type")) not in ROUTERS:
        return False
    folder = root / check_base_name(first["path"], root / MODULES) if first.get("path") else root
    return not _router_config(folder)[1].is_default(task)


def _class_name(path: object) -> str:
    """Return the name of a class of sentence-transformers; of others, which may compute something else, the path."""
    path = str(path)
    return path.rpartition(".")[2] if path.startswith("sentence_transformers.") else path


def transformer_directory(root: Path) -> Path:
    """Return where the transformer of a directory of sentence-transformers lies; `root` itself if it is not one."""
    if not is_sentence_model(root):
        return root
    kind, folder = read_module_list(root)[0]
    return folder if kind == "Transformer" else root


def sentence_directory(directory: Path) -> Path:
    """Return the directory that says how the model in `directory` is used: one above it, if its modules name it."""
    if is_sentence_model(directory):
        return directory
    for above in directory.parents[:2]:  # a Router may have a folder of its own
        if is_sentence_model(above) and transformer_directory(above) == directory:
            return above
    return directory


def lowercases(directory: Path) -> bool:
    """Whether sentence-transformers puts texts in lower case before the tokenizer of the model in a directory."""
    return _settings(directory)[1].get("do_lower_case") is True


def read_max_length(directory: Path) -> int | None:
    """Read how many tokens of a text sentence-transformers gives to the model in a directory, special ones included.

    None if it is not a model of sentence-transformers, or its files do not say so. Raises CheckpointError if a file is
    damaged.
    """
    if not is_sentence_model(sentence_directory(directory)):
        return None
    (path, settings), key = _settings(directory), "max_seq_length"
    if settings.get(key) is None and (directory / TOKENIZER_CONFIG).is_file():  # where newer versions write it
        path, key = directory / TOKENIZER_CONFIG, "model_max_length"
        settings = read_json(path)
    length = settings.get(key)
    if length is not None and (type(length) is not int or length < MIN_LENGTH):
        raise CheckpointError(f"{path}: {key} must be an integer from {MIN_LENGTH}, got {shown(length)}.")
    return length


def _settings(directory: Path) -> tuple[Path, dict[str, Any]]:
    """Return the path and the content of the settings of a transformer, {} without a file."""
    path = next((directory / name for name in SETTINGS_NAMES if (directory / name).is_file()), directory / SETTINGS)
    return path, read_json(path) if path.is_file() else {}


def is_sentence_model(directory: Path) -> bool:
    """Whether a directory is that of a model of sentence-transformers."""
    return (directory / MODULES).is_file()


def embeds_texts(directory: Path) -> bool:
    """Whether a directory is that of a model which was trained to embed texts, and not that of a CrossEncoder."""
    return is_sentence_model(directory) and _read_config(directory).get("model_type") in (None, EMBEDS_TEXTS)


def read_prompt(directory: Path) -> str:
    """Read the prompt that a model expects before each text; "" if there is none."""
    default = _read_config(directory).get("default_prompt_name")
    return read_prompts(directory).get(default, "") if isinstance(default, str) else ""


def read_prompts(directory: Path) -> dict[str, str]:
    """Read the prompts that a model has for several tasks, by their names; {} if all of them are empty.

    "query" and "document", the prompts of `encode_query` and `encode_document`, are empty if the file does not have
    them.
    """
    prompts = _read_config(directory).get("prompts")
    named = {name: text for name, text in prompts.items() if isinstance(text, str)} if isinstance(prompts, dict) else {}
    return {"query": "", "document": ""} | named if any(named.values()) else {}


def is_cross_encoder(directory: Path) -> bool:
    """Whether a directory is that of a CrossEncoder: a model with a head for two texts, and not of their vectors."""
    return _read_config(directory).get("model_type") == CROSS_ENCODER


def read_activation(directory: Path, config: Mapping[str, Any]) -> str | None:
    """Read what a CrossEncoder does with its logits: the name of a class of torch, such as "Sigmoid".

    Of a class of another package it is the whole path. None if the files do not say so. It is in the `config` of the
    model, and since version 6 in a file of its own.
    """
    places = [_read_config(directory), config.get(OF_CROSS_ENCODERS[0])]
    names = [place.get("activation_fn") for place in places if isinstance(place, dict)]
    names.append(config.get(OF_CROSS_ENCODERS[1]))
    path = next((name for name in names if isinstance(name, str)), None)
    return path.rpartition(".")[2] if path is not None and path.startswith("torch.nn.") else path


def _read_config(directory: Path) -> dict[str, Any]:
    path = directory / PROMPTS
    return read_json(path) if path.is_file() else {}
