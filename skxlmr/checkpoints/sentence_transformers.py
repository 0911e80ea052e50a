"""The settings of a sentence-transformers directory: how the tokens of a text are pooled to a vector."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from skxlmr.checkpoints.errors import CheckpointError
from skxlmr.checkpoints.files import parse_json, read_json, read_limited
from skxlmr.checkpoints.layout import check_base_name

MODULES = "modules.json"
POOLING = "1_Pooling/config.json"
PROMPTS = "config_sentence_transformers.json"
SETTINGS = "sentence_bert_config.json"  # of the transformer
# The names of that file: the first, or those of early versions.
SETTINGS_NAMES = (SETTINGS, "sentence_roberta_config.json", "sentence_xlm-roberta_config.json")
FILES = (MODULES, POOLING, PROMPTS, *SETTINGS_NAMES)

KINDS = ("Transformer", "Pooling", "Normalize")
POOLING_MODES = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_max_tokens": "max",
}


def read_pooling(directory: Path) -> tuple[str, bool]:
    """Read how a model pools tokens ("cls", "mean" or "max"), and whether it normalises vectors to length 1.

    A directory without such settings is ("mean", False). Raises CheckpointError if a file is damaged, or a setting is
    not supported.
    """
    path = directory / MODULES
    if not path.is_file():
        return "mean", False
    kinds, modules = zip(*read_module_list(directory), strict=True)
    unknown = [kind for kind in kinds if kind not in KINDS]
    if unknown:
        raise CheckpointError(
            f"{path} has a module {unknown[0]!r}, which is not supported. Set pooling and normalize to use the model "
            f"without it."
        )
    folders = [module.get("path") for module, kind in zip(modules, kinds, strict=True) if kind == "Pooling"]
    modes = [_pooling_mode(directory / check_base_name(folder, path) / "config.json") for folder in folders]
    return modes[0] if modes else "mean", "Normalize" in kinds


def read_module_list(root: Path) -> list[tuple[str, dict]]:
    """Read the kinds of the modules of a directory, and their entries; raises CheckpointError if it is damaged."""
    path = root / MODULES
    modules = parse_json(b'{"modules":' + read_limited(path) + b"}", path)["modules"]  # the file is a list
    if not isinstance(modules, list) or not modules or not all(isinstance(module, dict) for module in modules):
        raise CheckpointError(f"{path} is not a list of modules")
    return [(str(module.get("type")).rpartition(".")[2], module) for module in modules]


def transformer_directory(root: Path) -> Path:
    """Return where the transformer of a directory of sentence-transformers lies; `root` itself if it is not one."""
    if not is_sentence_model(root):
        return root
    kind, module = read_module_list(root)[0]
    folder = module.get("path")
    return root / check_base_name(folder, root / MODULES) if kind == "Transformer" and folder else root


def sentence_directory(directory: Path) -> Path:
    """Return the directory that says how the model in `directory` is used: that above it, if its modules name it."""
    above = directory.parent
    if is_sentence_model(directory) or not is_sentence_model(above):
        return directory
    return above if transformer_directory(above) == directory else directory


def lowercases(directory: Path) -> bool:
    """Whether sentence-transformers puts texts in lower case before the tokenizer of the model in a directory."""
    path = next((directory / name for name in SETTINGS_NAMES if (directory / name).is_file()), None)
    return path is not None and read_json(path).get("do_lower_case") is True


def is_sentence_model(directory: Path) -> bool:
    """Whether a directory is that of a model of sentence-transformers."""
    return (directory / MODULES).is_file()


def read_prompt(directory: Path) -> str:
    """Read the prompt that a model expects before each text; "" if there is none."""
    path = directory / PROMPTS
    config = read_json(path) if path.is_file() else {}
    prompts, default = config.get("prompts"), config.get("default_prompt_name")
    prompt = prompts.get(default) if isinstance(prompts, dict) and isinstance(default, str) else None
    return prompt if isinstance(prompt, str) else ""


def is_cross_encoder(directory: Path) -> bool:
    """Whether a directory is that of a CrossEncoder: a model with a head for two texts, and not of their vectors."""
    path = directory / PROMPTS
    return path.is_file() and read_json(path).get("model_type") == "CrossEncoder"


def read_activation(directory: Path, config: Mapping[str, Any]) -> str | None:
    """Read what a CrossEncoder does with its logits: the name of a class of torch, such as "Sigmoid".

    None if the files do not say so. It is in the `config` of the model, and since version 6 in a file of its own.
    """
    path = directory / PROMPTS
    places = [read_json(path) if path.is_file() else {}, config.get("sentence_transformers")]
    names = [place.get("activation_fn") for place in places if isinstance(place, dict)]
    names.append(config.get("sbert_ce_default_activation_function"))
    return next((name.rpartition(".")[2] for name in names if isinstance(name, str)), None)


def _pooling_mode(path: Path) -> str:
    config = read_json(path)
    if config.get("include_prompt") is False:
        raise CheckpointError(
            f"{path} excludes the tokens of the prompt from pooling, which is not supported. Set pooling and normalize "
            f"to include them."
        )
    modes = [name for name, value in config.items() if name.startswith("pooling_mode_") and value is True]
    if isinstance(config.get("pooling_mode"), str):  # the newer format
        modes = [mode for mode, name in POOLING_MODES.items() if name == config["pooling_mode"]]
    if len(modes) != 1 or modes[0] not in POOLING_MODES:
        raise CheckpointError(f"{path} asks for a pooling that is not supported. Set pooling and normalize yourself.")
    return POOLING_MODES[modes[0]]
